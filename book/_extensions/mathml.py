"""Formulas as MathML, for the EPUB: readers of books run no scripts."""

from __future__ import annotations

import html
from typing import Any

from docutils import nodes
from metadata import metadata
from sphinx.application import Sphinx


def mathml(formula: str, *, block: bool) -> str:
    """Return a formula as MathML; one that the converter doesn't know stays as it was written."""
    from latex2mathml.converter import convert

    # The converter knows the environment by its other name.
    plain = formula.replace("{aligned}", "{align*}").strip()
    try:
        found: str = convert(plain, display="block" if block else "inline")
    except Exception:
        return f"<code>{html.escape(formula)}</code>"
    return found if "<mi>&</mi>" not in found else f"<code>{html.escape(formula)}</code>"


def _inline(self: Any, node: nodes.math) -> None:
    self.body.append(mathml(node.astext(), block=False))
    raise nodes.SkipNode


def _block(self: Any, node: nodes.math_block) -> None:
    self.body.append(self.starttag(node, "div", CLASS="math"))
    self.body.append(mathml(node.astext(), block=True))
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the renderer; Sphinx calls this, and ``-D html_math_renderer=mathml`` chooses it."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))  # type: ignore[arg-type]
    return metadata(__file__)
