"""Filters: each keeps a document, or drops it with a reason word.

    documents ──> judge(document) ──> None     ──> documents
                                 └──> "reason" ──> rejected, counted by reason

>>> from tokenmill.data.document import Document
>>> from tokenmill.data.filters.gopher_quality import GopherQuality, GopherQualityConfig
>>> GopherQuality(GopherQualityConfig()).judge(Document(id="a", text="Too short."))
'too_few_words'
"""
