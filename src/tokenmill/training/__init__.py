"""Training: token shards in, checkpoints out.

    trainer ──► gang        ranks find each other
       │    ──► progress    checkpoints: save, find the newest, restore
       │    ──► metrics     lines for people and files
       ▼
    learner: loader ──► forward, backward ──► gradients summed ──► optimizer at lr_schedule's rate

>>> from tokenmill.training.lr_schedule import Schedule, learning_rate
>>> schedule = Schedule(shape="cosine", peak=1e-3, warmup_tokens=100, total_tokens=1000)
>>> learning_rate(schedule, 50), learning_rate(schedule, 100)
(0.0005, 0.001)
"""
