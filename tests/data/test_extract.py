from typing import Literal

import pytest

from tokenmill.data.document import Document
from tokenmill.data.extract import Extract, ExtractConfig

PARAGRAPHS = [
    "The old bridge over the river was closed on Monday, after engineers found cracks in two of its piers.",
    "Repairs will take until the autumn, the council said, and cost about four million pounds in all.",
    "Until then, drivers are asked to use the bridge at Millford, eleven miles further down the river.",
]
PAGE = f"""<!doctype html><html><head><title>Bridge closed</title><script>var a = "script";</script></head>
<body><nav><a href="/">Home</a> <a href="/news">News</a></nav>
<article><h1>Bridge closed</h1>{"".join(f"<p>{text}</p>" for text in PARAGRAPHS)}</article>
<footer>Copyright. All rights reserved.</footer></body></html>"""

Name = Literal["trafilatura", "resiliparse"]


@pytest.mark.parametrize("extractor", ["trafilatura", "resiliparse"])
def test_main_text(extractor: Name) -> None:
    document = Document(id="a", text=PAGE, url="http://a/")
    assert Extract(ExtractConfig(extractor=extractor)).judge(document) is None
    assert all(text in document.text for text in PARAGRAPHS)
    assert not any(text in document.text for text in ("script", "Home", "Copyright", "<p>"))


@pytest.mark.parametrize("extractor", ["trafilatura", "resiliparse"])
@pytest.mark.parametrize(
    "html", ["", " ", "<html></html>", "\ufffd\ufffd", "<!-- only -->", "<?xml version='1.0'?>"]
)
def test_pages_without_text(extractor: Name, html: str) -> None:
    document = Document(id="a", text=html)
    reason = Extract(ExtractConfig(extractor=extractor)).judge(document)
    assert reason == "no_text" or (reason is None and html == "\ufffd\ufffd")
    if reason:
        assert document.text == ""


def test_a_text_does_not_depend_on_earlier_pages() -> None:
    block = Extract(ExtractConfig())
    texts = []
    for _ in range(5):
        document = Document(id="a", text=PAGE)
        block.judge(document)
        texts.append(document.text)
    assert len(set(texts)) == 1


def test_deep_nesting_is_survived() -> None:
    html = f"<html><body>{'<div>' * 5000}{PARAGRAPHS[0]}{'</div>' * 5000}</body></html>"
    document = Document(id="a", text=html)
    Extract(ExtractConfig()).judge(document)
    assert "<div>" not in document.text


def test_a_failure_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    block = Extract(ExtractConfig())

    def fail(html: str) -> str:
        raise RecursionError("too deep")

    monkeypatch.setattr(block, "_extract", fail)
    document = Document(id="a", text=PAGE)
    assert block.judge(document) == "error_RecursionError"
    assert document.metadata["error"] == "RecursionError: too deep"
    assert document.text == ""
