"""Tasks: benchmarks as data, from a published row to a prompt.

    row of a benchmark ──early_signal──▶ question ─┐
                                                   ├──items──▶ Item (query, choices, gold)
    prepared item ─────────────────────────────────┘

>>> from tokenmill.evaluation.tasks.early_signal import EARLY_SIGNAL
>>> row = {"goal": "Open a jar", "sol1": "Twist the lid", "sol2": "Pull the lid", "label": 0}
>>> question = EARLY_SIGNAL["piqa"].ask(row)
>>> question.query.splitlines(), question.choices
(['Question: Open a jar', 'Answer:'], (' Twist the lid', ' Pull the lid'))
"""
