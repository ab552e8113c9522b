"""Near-duplicates: local passes that meet at files of sorted integers.

    documents ──> signatures ──> buckets ──> clusters ──> filter ──> documents
      shard        per shard      per hash     whole      per shard
      of input     of input       range                   of input

>>> from tokenmill.data.dedup.minhash import SignaturesConfig, match_probability
>>> round(match_probability(0.8, SignaturesConfig()), 3)
0.924
"""
