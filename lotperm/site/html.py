"""Pieces of HTML."""

from __future__ import annotations

import re


def script_element(code: str, attributes: str = "") -> str:
    """Return an HTML element that carries a script.

    Parameters
    ----------
    code : str
        JavaScript. Strings in it that look like the end of the element are written with an escape
        that means the same.
    attributes : str, optional
        The element's attributes, with a space before each.
    """
    escaped = re.sub(r"</(?=script)", r"<\\/", code, flags=re.IGNORECASE)
    return f"<script{attributes}>\n{escaped}</script>"
