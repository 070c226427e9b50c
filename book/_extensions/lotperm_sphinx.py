"""What the book adds to Sphinx: parameters described in the package's style, a page for printing, accessible names."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

_DESCRIBED = ("Parameters", "Attributes", "Other Parameters", "Yields")
_ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*) : (?P<text>.+)")
_SIGN = re.compile(r"(`+).*?\1|(?P<sign>\||(?<=, )\*(?=\w+[^\w*]))")


def _literal(line: str) -> str:
    """Signs that mean themselves: |x| is no substitution, (B, *spatial) no emphasis. Code is left alone."""
    return _SIGN.sub(lambda match: "\\" + match[0] if match["sign"] else match[0], line)


def describe(lines: list[str]) -> list[str]:
    """Put what a docstring says after ``name :`` where NumPy's style has the description.

    The package writes ``name : what it is``, because the type stands in the signature; Sphinx's reader of this
    style takes all that follows the colon for a type.
    """
    out: list[str] = []
    described = False
    for i, line in enumerate(lines):
        following = lines[i + 1] if i + 1 < len(lines) else ""
        if re.fullmatch(r"-{3,}", following):
            described = line in _DESCRIBED
        entry = _ENTRY.fullmatch(line) if described else None
        if not entry:
            out.append(_literal(line))
            continue
        text = entry["text"]
        if re.match(r" +[A-Z]", following) and re.search(
            r"[\w)]$", text
        ):  # "Tensor, shape (B, n)", then a sentence
            text += "."
        out += [entry["names"], "    " + _literal(text)]
    return out


def _before_napoleon(_app: Any, _what: str, _name: str, _obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = describe(lines)
    options["lotperm_lines"] = list(lines)


def _after_napoleon(_app: Any, what: str, _name: str, _obj: Any, options: Any, lines: list[str]) -> None:
    # It takes what stands before the first colon of these for a type, too.
    if what in ("attribute", "data", "property"):
        lines[:] = options["lotperm_lines"]


def _on_builder(app: Any) -> None:
    # An extension that registers nodes for singlehtml only hides all those that are registered for html.
    handlers = app.registry.translation_handlers
    handlers["singlehtml"] = {**handlers.get("html", {}), **handlers.get("singlehtml", {})}


# Names that the theme and its extensions give in ways which WCAG 2.2 (2.5.3, 4.1.2) or ARIA 1.2 don't allow.
_NAMES = (
    # A label that hides the text which is visible: the text itself is the name.
    (re.compile(r'(<summary) aria-label="Toggle hidden content"'), r"\1"),
    (re.compile(r'(<button class="btn search-button-field[^>]*) title="Search" aria-label="Search"'), r"\1"),
    # One of three pictures is visible; its title counts as the button's text beside the button's own label.
    (re.compile(r'(<i class="theme-switch [^>]*?) +title="[^"]*"'), r"\1"),
    # A deprecated role; what holds it is a list.
    (re.compile(r'(<div class="citation"[^>]*) role="doc-biblioentry"'), r'\1 role="listitem"'),
)


def _on_finish(app: Any, exception: Exception | None) -> None:
    if exception is None and app.builder.format == "html":
        for path in Path(app.outdir).rglob("*.html"):
            text = new = path.read_text(encoding="utf-8")
            for pattern, replacement in _NAMES:
                new = pattern.sub(replacement, new)
            if new != text:
                path.write_text(new, encoding="utf-8")


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _before_napoleon, priority=400)  # napoleon itself has 500
    app.connect("autodoc-process-docstring", _after_napoleon, priority=600)
    app.connect("builder-inited", _on_builder)
    app.connect("build-finished", _on_finish)
    # After an edit of this file all pages are read again.
    version = int(hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8], 16)
    return {"version": "1", "env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}
