"""Text to ids, ids in files, and which sample comes when.

    text ──► tokenizer ──► ids ──► shards (.tokens files) ──► mixture: sample index ──► (source, position)

>>> from tokenmill.tokens.mixture import Mixture
>>> mixture = Mixture(sizes={"web": 6, "code": 2}, weights={"web": 0.75, "code": 0.25}, seed=0)
>>> [mixture.locate(index).source for index in range(8)].count("code")
2
"""
