"""What the book adds to Sphinx: descriptions of parameters in the package's style, and one page for printing."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

_DESCRIBED = ("Parameters", "Attributes", "Other Parameters", "Yields")
_ENTRY = re.compile(r"(?P<names>\*{0,2}\w+(?:, \*{0,2}\w+)*) : (?P<text>.+)")
_STAR = re.compile(r"(?<=, )\*(?=\w+[^\w*])")


def describe(lines: list[str]) -> list[str]:
    """Put what a docstring says after ``name :`` where NumPy's style has the description.

    The package writes ``name : what it is``, because the type stands in the signature; Sphinx's reader of this
    style takes all that follows the colon for a type. Stars as in (B, *spatial) are no emphasis.
    """
    out: list[str] = []
    described = False
    for i, line in enumerate(lines):
        following = lines[i + 1] if i + 1 < len(lines) else ""
        if re.fullmatch(r"-{3,}", following):
            described = line in _DESCRIBED
        entry = _ENTRY.fullmatch(line) if described else None
        if not entry:
            out.append(_STAR.sub(r"\\*", line))
            continue
        text = entry["text"]
        if following.startswith(" ") and following.lstrip()[:1].isupper() and text[-1].isalnum() | (text[-1] == ")"):
            text += "."
        out += [entry["names"], "    " + _STAR.sub(r"\\*", text)]
    return out


def _before_napoleon(_app: Any, _what: str, _name: str, _obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = describe(lines)
    options["lotperm_lines"] = list(lines)


def _after_napoleon(_app: Any, what: str, _name: str, _obj: Any, options: Any, lines: list[str]) -> None:
    if what in ("attribute", "data", "property"):  # it takes what stands before their first colon for a type, too
        lines[:] = options["lotperm_lines"]


def _on_builder(app: Any) -> None:
    # An extension that registers nodes for singlehtml only hides all those that are registered for html.
    handlers = app.registry.translation_handlers
    handlers["singlehtml"] = {**handlers.get("html", {}), **handlers.get("singlehtml", {})}


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", _before_napoleon, priority=400)  # napoleon itself has 500
    app.connect("autodoc-process-docstring", _after_napoleon, priority=600)
    app.connect("builder-inited", _on_builder)
    version = int(hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8], 16)  # an edit reads all pages again
    return {"version": "1", "env_version": version, "parallel_read_safe": True, "parallel_write_safe": True}
