"""Model families.

    ids [B, S] ──► embed ──► block ──► … ──► block ──► norm ──► hidden [B, S, H] ──► logits [B, S, V]

>>> import torch
>>> from tokenmill.models.presets import preset
>>> from tokenmill.models.transformer import Transformer
>>> model = Transformer(preset("test", vocab_size=300))
>>> hidden = model(torch.tensor([[1, 2, 3]]))
>>> tuple(hidden.shape), tuple(model.logits(hidden).shape)
((1, 3, 32), (1, 3, 300))
"""
