"""Figures that a script of ``site/js`` draws from its data, with a picture where none runs."""

from __future__ import annotations

import base64
import io
import json
from importlib.resources import files
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lotperm.site.html import script_element


def interactive(
    script: str, element: str, data: dict[str, Any], figure: Figure, alt: str
) -> dict[str, str]:
    """Make a figure that works in a web page without a kernel, and offline.

    Parameters
    ----------
    script : str
        Name of a file in ``site/js``, which mounts the figure by ``lotperm.<script>.mount``.
    element : str
        Class of the figure's element.
    data : dict
        What the script draws, as plain JSON data.
    figure : Figure
        The picture that is shown where scripts don't run. This function closes it.
    alt : str
        What the picture shows, in words.

    Returns
    -------
    dict
        The content by MIME type, to be displayed raw.
    """
    buffer = io.BytesIO()
    # Without the name and version of Matplotlib, the picture is always the same bytes.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    picture = base64.b64encode(buffer.getvalue()).decode()
    code = (files("lotperm.site") / "js" / f"{script}.js").read_text(encoding="utf-8")
    # A page may have several of these figures; those that are mounted already are left alone.
    start = (
        f'for (const element of document.querySelectorAll(".{element}:not([data-ready])"))\n'
        f"  lotperm.{script}.mount(element, {json.dumps(data)});\n"
    )
    html = (
        f'<div class="{element}"><noscript><img src="data:image/png;base64,{picture}" alt="{alt}"></noscript>'
        f"</div>\n{script_element(code)}\n{script_element(start)}"
    )
    return {"text/html": html, "image/png": picture, "text/plain": alt}
