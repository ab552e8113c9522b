"""A rehearsal: the controller of a real run, a simulated cluster, simulated time.

::

    scenario ──> simulate ──> driver (the product's) ──> executor ──> cluster ──> tasks
                    │                                                               │
                 outcome <── usage <───────────────── ledger (in memory) <──────────┘

``scenario`` says what is assumed, ``events`` is the clock, ``cluster`` queues, starts and kills tasks,
``tasks`` follows the worker's rules, ``compare`` runs variants, ``show`` and ``picture`` are for people.
"""
