"""Words of the text that set a panel: a click on them does what a hand would do there.

Text, then in angle brackets which control of the page, as a selector of CSS; for a slider or a field its
value as well::

    {sets}`switch on the mask <.lp-sym input[value=stays]>`
    {sets}`at half of the weights <.lp-sym [data-set=sparsity] -> 0.5>`

Several, divided by semicolons, are set one after the other. Without scripts, and on paper, it is text.
"""

from __future__ import annotations

import html
import re
from typing import Any

from docutils import nodes
from metadata import metadata
from sphinx.util.docutils import SphinxRole

_PARTS = re.compile(r"(?P<words>.+?)\s*<(?P<controls>.+)>", re.DOTALL)


class Sets(SphinxRole):
    """The role ``sets``."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        match = _PARTS.fullmatch(self.text)
        if match is None:
            raise ValueError(f"sets: {self.text!r} is not of the form words <control>.")
        controls = html.escape(" ".join(match["controls"].split()))
        return [
            nodes.raw("", f'<span data-sets="{controls}">', format="html"),
            nodes.Text(match["words"]),
            nodes.raw("", "</span>", format="html"),
        ], []


def setup(app: Any) -> dict[str, Any]:
    """Register the role; Sphinx calls this."""
    app.add_role("sets", Sets())
    return metadata(__file__)
