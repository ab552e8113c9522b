from pathlib import Path

import pytest

from tokenmill.data.document import Document
from tokenmill.data.filters.url import Url, UrlConfig
from tokenmill.errors import ConfigError, InputError

CONFIG = UrlConfig(
    domains=("bad.example", "sub.mixed.org"),
    urls=("fine.org/bad/page",),
    hard_words=("casino",),
    soft_words=("free", "win", "bonus"),
    substrings=("pillshop",),
)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://www.fine.org/", None),
        ("http://bad.example/x", "domain"),
        ("http://deep.sub.BAD.example:8080/x", "domain"),
        ("http://notbad.example/", None),
        ("http://mixed.org/", None),
        ("http://a.sub.mixed.org/", "domain"),
        ("bad.example/without/protocol", "domain"),
        ("https://www.fine.org/bad/page/", "url"),
        ("https://fine.org/bad/page/two", None),
        ("https://fine.org/the-casino-house", "hard_word"),
        ("https://fine.org/casinos", None),
        ("https://fine.org/free", None),
        ("https://fine.org/free_win", "soft_words"),
        ("https://fine.org/pill-shop", "substring"),
        ("", None),
        ("http://[broken", None),
    ],
)
def test_rules(url: str, reason: str | None) -> None:
    assert Url(CONFIG).judge(Document(id="a", text="", url=url)) == reason


def test_a_list_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "domains.txt"
    path.write_text("# a comment\nlisted.net\n\n Other.NET \n")
    block = Url(UrlConfig(domains_path=str(path)))
    assert block.judge(Document(id="a", text="", url="http://x.listed.net/")) == "domain"
    assert block.judge(Document(id="a", text="", url="http://other.net/")) == "domain"
    assert block.judge(Document(id="a", text="", url="http://comment/")) is None
    with pytest.raises(InputError, match="not found"):
        Url(UrlConfig(domains_path=str(tmp_path / "gone.txt")))


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="min_soft_words"):
        Url(UrlConfig(min_soft_words=0))
