"""The data hall: from crawl archives to clean, deduplicated documents.

    WARC ─readers─> HTML ─extract─> documents ─filters─> documents ─dedup─> documents ─tokenize─> ids
                                        │                    │                  │
                                        └───────────> rejected, with a reason <─┘

Jobs meet at files of the documents format (``document``). A job is a pipeline of blocks (``pipeline``) or one
of the four passes of ``dedup``.

>>> from tokenmill.data.document import Document, to_line
>>> to_line(Document(id="a", text="A text.")).decode().strip()
'{"id":"a","metadata":{},"text":"A text.","url":""}'
"""
