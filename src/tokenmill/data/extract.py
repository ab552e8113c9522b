"""Takes the main text out of HTML.

No time limit: what comes out never depends on the load of the machine. Trafilatura's own duplicate check
stays off, because it remembers earlier pages and would make a page's text depend on them.

Barbaresi 2021, "Trafilatura", ACL demo; Bevendorff et al. 2018, "Elastic ChatNoir" (Resiliparse).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tokenmill.data.document import Document
from tokenmill.data.filters.base import Filter
from tokenmill.data.native import optional


@dataclass(frozen=True, kw_only=True)
class ExtractConfig:
    """Settings of the extraction."""

    kind: Literal["extract"] = "extract"
    """Names the block."""
    extractor: Literal["trafilatura", "resiliparse"] = "trafilatura"
    """trafilatura: better text; resiliparse: about ten times as fast."""
    favour_precision: bool = True
    """Rather lose text than keep what is not the page's main text (trafilatura)."""
    tables: bool = True
    """Keep the text of tables (trafilatura)."""


class Extract(Filter):
    """Replaces HTML by its main text; pages without one, or that the extractor fails on, are dropped."""

    def __init__(self, config: ExtractConfig) -> None:
        super().__init__(config.kind)
        self._extract = _trafilatura(config) if config.extractor == "trafilatura" else _resiliparse()

    def judge(self, document: Document) -> str | None:
        """Extract; the HTML of a dropped page is not kept, its file and offset are in the metadata."""
        html, document.text = document.text, ""
        try:
            text = self._extract(html)
        except Exception as error:  # whatever a page does to the parser is a fact about the page: recorded
            document.metadata["error"] = f"{type(error).__name__}: {error}"[:500]
            return f"error_{type(error).__name__}"
        text = (text or "").strip().encode("utf-8", "replace").decode()
        if not text:
            return "no_text"
        document.text = text
        return None


def _trafilatura(config: ExtractConfig) -> Callable[[str], str | None]:
    trafilatura = optional("trafilatura", "HTML extraction")
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # pages without text are counted here

    def extract(html: str) -> str | None:
        text: str | None = trafilatura.extract(
            html,
            favor_precision=config.favour_precision,
            include_tables=config.tables,
            include_comments=False,
            deduplicate=False,
        )
        return text

    return extract


def _resiliparse() -> Callable[[str], str | None]:
    html2text = optional("resiliparse.extract.html2text", "HTML extraction")

    def extract(html: str) -> str | None:
        text: str = html2text.extract_plain_text(html, main_content=True, alt_texts=False, comments=False)
        return text

    return extract
