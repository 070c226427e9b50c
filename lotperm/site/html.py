"""Pieces of HTML."""

from __future__ import annotations

import re


def script_element(code: str, attributes: str = "") -> str:
    """JavaScript as a piece of HTML that carries it.

    Parameters
    ----------
    code : str
        Of the script; strings in it that look like its end are written with an escape, which means
        the same.
    attributes : str, optional
        Of the element, with a space before each.
    """
    escaped = re.sub(r"</(?=script)", r"<\\/", code, flags=re.IGNORECASE)
    return f"<script{attributes}>\n{escaped}</script>"
