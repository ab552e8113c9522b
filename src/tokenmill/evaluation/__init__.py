"""Evaluation: what a checkpoint knows, with how sure we are.

    checkpoint ─┐                       tasks: rows of benchmarks ──▶ items
    tokenizer ──┼─ runner ─ scoring ──▶ details: a record per item and per text
    items ──────┤                            │ metrics
    heldout ────┘                            ▼
                                        results.json: value, standard error, random baseline

>>> from tokenmill.evaluation.metrics import mean
>>> estimate = mean([1.0] * 102 + [0.0] * 98)
>>> f"{estimate.value:.2f} ± {estimate.stderr:.4f}"
'0.51 ± 0.0354'
"""
