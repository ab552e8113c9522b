"""Inference: a trained model scores texts and writes them.

    checkpoint ─┐
                ├─ engine ── loglikelihood ──▶ scores of continuations      ──▶ evaluation
    token ids ──┘     └───── generate ───────▶ text   (kv_cache, sampling)

>>> from tokenmill.inference.engine import Engine, EngineConfig, Request
>>> from tokenmill.models.presets import preset
>>> from tokenmill.models.transformer import Transformer
>>> engine = Engine(Transformer(preset("test", vocab_size=64)), EngineConfig())
>>> [(likely, unlikely)] = engine.loglikelihood([Request(context=(1, 2), continuations=((3,), (4, 5)))])
>>> likely.logprob > unlikely.logprob
True
"""
