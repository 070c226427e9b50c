"""How a notebook shows figures and tables: vector graphics in two layouts, tables for phones.

`install` tells the notebook's display system; the code in a notebook's cells stays the same.
"""

from __future__ import annotations

import copy
import io
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec
from matplotlib.text import Text

from lotperm.config.experiment import Experiment
from lotperm.studies.alt import told
from lotperm.studies.html import command, table
from lotperm.studies.origin import HERE, Origin, attached, description, finding, of_live

NARROW = 3.7
"""Width of a figure on a phone in inches: 8 points are 9 pixels or more there."""

_SMALLEST = 8.0  # points
_PANEL = 2.3  # inches, the height of one of several panels in a column
_LINE = 42  # letters of a title that a narrow figure has room for

# With fixed ids and without a date, a page has the same bytes whenever it is made.
_FIXED: Any = {"svg.hashsalt": "lotperm", "svg.fonttype": "none"}


def svg(figure: Figure) -> str:
    """Return a figure as SVG, with text as text and no background, and the same in every run."""
    file = io.StringIO()
    with mpl.rc_context(_FIXED):
        figure.savefig(
            file,
            format="svg",
            dpi=144,  # of what stays a picture, such as a matrix
            transparent=True,
            metadata={"Date": None, "Creator": None},
        )
    # The figure has no fonts of its own: the reader's system font is used.
    return file.getvalue().replace("'DejaVu Sans'", "system-ui, 'DejaVu Sans'")


def narrowed(figure: Figure) -> Figure | None:
    """Return a copy of a figure for a phone: its panels in one column, its letters not smaller.

    Parameters
    ----------
    figure : Figure
        A figure in constrained layout.

    Returns
    -------
    Figure or None
        None if the figure is laid out by hand, or is narrow already: it is shown as it is.
    """
    if (own := getattr(figure, "_lotperm_narrow", None)) is not None:
        drawn: Figure = own
        return drawn
    wide = figure.get_size_inches()[0] > NARROW
    if not wide or type(figure.get_layout_engine()).__name__ != "ConstrainedLayoutEngine":
        return None
    narrow: Figure = copy.deepcopy(figure)
    # A copy registers itself with pyplot, which would show it as a figure of its own.
    plt.close(narrow)
    panels = [ax for ax in narrow.axes if ax.get_subplotspec() is not None]
    grids = {spec.get_gridspec() for ax in panels if (spec := ax.get_subplotspec()) is not None}
    if len(grids) != 1:
        return None
    (grid,) = grids
    pictures = any(ax.images for ax in panels)
    if pictures and grid.ncols > 2:
        return None
    _, height = narrow.get_size_inches()
    if grid.ncols > 1 and not pictures:
        # Shared axes have numbers and words only at the edge, and the edge is another one now.
        _repeat_labels(panels, grid.ncols)
        column = GridSpec(len(panels), 1, figure=narrow)
        for i, ax in enumerate(panels):
            ax.set_subplotspec(column[i])
        narrow.set_size_inches(NARROW, 0.6 + len(panels) * min(_PANEL, height / grid.nrows))
    else:
        narrow.set_size_inches(NARROW, height * (0.6 if pictures else 1) + 0.3)
    for text in narrow.findobj(Text):
        text.set_fontsize(max(_SMALLEST, text.get_fontsize()))
    for ax in panels:
        for label in (ax.xaxis.label, ax.yaxis.label):
            label.set_fontsize(9)
    _wrap(narrow, panels, grid.ncols if pictures else 1)
    for legend in list(narrow.legends):
        # Its columns were laid out for a wide figure.
        words = [text.get_text() for text in legend.get_texts()]
        # The copied legend's own `remove` would still act on the original figure's list.
        narrow.legends.remove(legend)
        handles = [handle for handle in legend.legend_handles if handle is not None]
        narrow.legend(handles, words, loc="outside lower center", ncols=2)
    return narrow


def lay_out(figure: Figure, narrow: Figure) -> Figure:
    """Attach a figure's layout for phones, where `narrowed` isn't enough, and return the figure.

    Parameters
    ----------
    figure : Figure
        The figure.
    narrow : Figure
        The same, drawn for a width of `NARROW` inches.
    """
    figure._lotperm_narrow = narrow  # type: ignore[attr-defined]
    plt.close(narrow)
    return figure


def _repeat_labels(panels: list[Axes], columns: int) -> None:
    for i, ax in enumerate(panels):
        first = panels[i - i % columns]
        ax.tick_params(labelleft=True)
        # Categories are written only at the left edge.
        ax.set_ylabel(ax.get_ylabel() or first.get_ylabel())


def _wrap(figure: Figure, panels: list[Axes], columns: int) -> None:
    """Break titles into lines that a narrow figure, or one of its columns, has room for."""
    titles = [(ax.title, _LINE // columns) for ax in panels]
    for text, letters in [(getattr(figure, "_suptitle", None), _LINE), *titles]:
        if text is not None and text.get_text():
            text.set_text("\n".join(textwrap.wrap(text.get_text(), letters)))
            text.set_fontsize(min(text.get_fontsize(), 10))


def shown(figure: Figure, origins: tuple[Origin, ...] = ()) -> tuple[str, dict[str, Any]]:
    """Return a figure as the book shows it.

    Parameters
    ----------
    figure : Figure
        The figure.
    origins : tuple of Origin
        Where its numbers come from, unless `lotperm.studies.origin.attach` said so.

    Returns
    -------
    tuple of str and dict
        The figure as SVG, and under ``lotperm`` what belongs to it: ``origins``, ``narrow`` (the
        SVG for phones, or ""), ``alt`` (what it says, or ""), ``drawn`` (what is drawn, in words,
        or ""), ``finding`` (the end of its caption, or "") and ``photos`` (whether its colours
        must stay as they are).
    """
    # An opaque RGB picture is a photograph; an image of numbers has a colour map.
    photos = any(
        image.get_array() is not None and image.get_array().ndim == 3  # type: ignore[union-attr]
        for ax in figure.axes
        for image in ax.images
    )
    narrow = narrowed(figure)
    said = attached(figure) or (HERE,)
    known = [one for each in said for one in (origins if each == HERE else (each,))]
    about = {
        "origins": [origin.plain() for origin in dict.fromkeys(known)],
        "narrow": "" if narrow is None else svg(narrow),
        "alt": description(figure),
        "drawn": told(figure),
        "finding": finding(figure),
        "photos": photos,
    }
    return svg(figure), {"lotperm": about}


def shown_here(figure: Figure) -> tuple[str, dict[str, Any]]:
    """Return a figure as this notebook shows it; elsewhere, as one without a page's origins."""
    shell = _shell()
    formatter = shell.display_formatter.formatters["image/svg+xml"] if shell else None
    own = formatter.type_printers.get(Figure) if formatter else None
    # Only the printer that `install` put there also returns what belongs to a figure.
    if isinstance(own, partial):
        found: tuple[str, dict[str, Any]] = own(figure)
        return found
    return shown(figure)


def _shell() -> Any:
    """Return IPython's shell, or None outside of a notebook."""
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    return shell if shell is not None and shell.display_formatter is not None else None


def _printed(origins: Callable[[], tuple[Origin, ...]], figure: Figure) -> Any:
    return shown(figure, origins())


def begin(notebook: str, experiment: Experiment, device: str = "cpu", **given: Any) -> None:
    """Show everything in the book's way, in a notebook that opens no page.

    Parameters
    ----------
    notebook : str
        Its name without number and suffix, as ``lotperm run`` takes it.
    experiment : Experiment
        What it computes.
    device : str
        "cpu" or "cuda".
    **given
        The notebook's other parameters.
    """
    again = command(notebook, experiment, {**given, "device": device})
    install(lambda: (of_live([experiment], device, again),))


def install(origins: Callable[[], tuple[Origin, ...]] = tuple) -> None:
    """Show all figures and tables of this notebook in the book's way; elsewhere do nothing.

    Parameters
    ----------
    origins : callable, optional
        Returns the origins of figures that have none attached. It is called when a figure is shown.
    """
    shell = _shell()
    if shell is None:
        return
    # The first figure sets Matplotlib's own formats, and would take this one's place.
    plt.close(plt.figure())
    formatters = shell.display_formatter.formatters
    for formatter in formatters.values():
        formatter.pop(Figure, None)
    formatters["image/svg+xml"].for_type(Figure, partial(_printed, origins))
    formatters["text/html"].for_type(pd.DataFrame, table)
