"""reStructuredText to HTML, as plainly as a documentation site shows it.

docutils knows neither Sphinx's roles nor its directives: roles become their text, descriptions of objects
become a term with its text, indexes and tables of contents are left out.
"""

import importlib
import re
from functools import cache
from typing import Any

LEFT_OUT = {
    "toctree",
    "index",
    "module",
    "currentmodule",
    "highlight",
    "contents",
    "image",
    "figure",
    "program",
}
"""Directives that carry no prose."""
LITERAL = {"code-block", "console", "snippet", "sourcecode", "parsed-literal"}
"""Directives whose body is code."""
KEPT = {"note", "warning", "admonition", "important", "tip", "hint", "caution", "rubric", "list-table"}
"""Directives that docutils renders itself."""
INTRODUCED = {
    "versionadded": "New in version {}",
    "versionchanged": "Changed in version {}",
    "deprecated": "Deprecated since version {}",
    "seealso": "See also {}",
}
"""Directives whose argument opens a sentence."""
PROSE_ROLES = {"ref", "doc", "term", "ticket", "abbr", "menuselection", "rfc", "pep", "cve", "bpo"}
"""Roles whose text is prose, not a name in code."""
SETTINGS = {
    "report_level": 5,
    "halt_level": 5,
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "embed_stylesheet": False,
    "syntax_highlight": "none",
    "smart_quotes": False,
}


def render(text: str) -> bytes:
    """An HTML page for a reStructuredText document."""
    _register(
        frozenset(re.findall(r":([a-zA-Z][\w:+-]*):`", text)),
        frozenset(name.lower() for name in re.findall(r"^\s*\.\. ([\w:-]+)::", text, re.MULTILINE)),
    )
    core = importlib.import_module("docutils.core")
    parts = core.publish_parts(text, writer="html5", settings_overrides=SETTINGS)
    title = re.sub(r"<[^>]+>", "", parts["title"]) or "Untitled"
    page = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title></head>\n'
        f"<body>\n{parts['html_body']}</body>\n</html>\n"
    )
    return str(page).encode()


def _register(roles: frozenset[str], directives: frozenset[str]) -> None:
    for role in roles:
        _register_role(role)
    for directive in directives - KEPT:
        _register_directive(directive)


@cache
def _register_role(name: str) -> None:
    nodes = importlib.import_module("docutils.nodes")

    def role(_: str, __: str, text: str, *___: Any) -> tuple[list[Any], list[Any]]:
        shown = re.sub(r"\s*<[^<>]*>$", "", text, flags=re.DOTALL).lstrip("!")
        if text.startswith("~"):
            shown = shown.rpartition(".")[2]
        plain = name.rpartition(":")[2] in PROSE_ROLES
        return [nodes.Text(shown) if plain else nodes.literal("", shown)], []

    importlib.import_module("docutils.parsers.rst.roles").register_local_role(name, role)


@cache
def _register_directive(name: str) -> None:
    rst = importlib.import_module("docutils.parsers.rst")
    run = _leave_out if name in LEFT_OUT else _literal if name in LITERAL else _describe
    members = {
        "run": run,
        "optional_arguments": 1,
        "final_argument_whitespace": True,
        "has_content": True,
        "option_spec": _AnyOption(),
    }
    rst.directives.register_directive(name, type("Shown", (rst.Directive,), members))


class _AnyOption(dict[str, Any]):
    """Accepts every option of a directive."""

    def __missing__(self, key: str) -> Any:
        return lambda value: value

    def __bool__(self) -> bool:
        return True


def _leave_out(_: Any) -> list[Any]:
    return []


def _literal(directive: Any) -> list[Any]:
    nodes = importlib.import_module("docutils.nodes")
    code = "\n".join(directive.content)
    return [nodes.literal_block(code, code)]


def _describe(directive: Any) -> list[Any]:
    """A term and its text; notes about versions become a paragraph that opens with the version."""
    nodes = importlib.import_module("docutils.nodes")
    body = nodes.container()
    directive.state.nested_parse(directive.content, directive.content_offset, body)
    argument = directive.arguments[0] if directive.arguments else ""
    if directive.name in INTRODUCED:
        opening = INTRODUCED[directive.name].format(argument).strip()
        return [nodes.paragraph("", f"{opening}:"), *body.children]
    if not argument:
        return list(body.children)
    names = [nodes.term("", "", nodes.literal("", line.strip())) for line in argument.splitlines()]
    item = nodes.definition_list_item("", *names, nodes.definition("", *body.children))
    return [nodes.definition_list("", item)]
