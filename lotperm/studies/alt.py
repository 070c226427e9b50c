"""Descriptions of figures in words, read from what is drawn, for readers who can't see them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.ticker import FixedLocator

from lotperm.studies.numbers import with_minus

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_SERIES, _PLACES, _PANELS = 9, 14, 6
"""The largest number of curves, named places or panels described: a listener can't skip any."""


def told(figure: Figure) -> str:
    """Describe a figure's curves, points and bars in words, panel by panel.

    Parameters
    ----------
    figure : Figure
        A figure of axes with numbers.

    Returns
    -------
    str
        Sentences such as "k = 8, test accuracy (%) against sparsity: LTH 62.8 at 0.5 to 41 at
        0.98.", from what is drawn; "" for pictures, and where nothing drawn has a name.
    """
    panels = []
    for ax in figure.axes:
        said = [] if ax.images or not ax.get_visible() else list(dict.fromkeys(_panel(ax)))
        if said:
            title = " ".join(ax.get_title().split())
            named = _axis_words(ax)
            head = ", ".join(text for text in (title, named) if text)
            panels.append(f"{head}: {'; '.join(said)}." if head else f"{'; '.join(said)}.")
    more = len(panels) - _PANELS
    return " ".join(panels[:_PANELS]) + (f" And {more} more panels." if more > 0 else "")


def _axis_words(ax: Axes) -> str:
    across, up = (" ".join(text.split()) for text in (ax.get_xlabel(), _shared_label(ax)))
    if _names(ax.yaxis):
        return across
    return f"{up} against {across}" if up and across and not _names(ax.xaxis) else up or across


def _shared_label(ax: Axes) -> str:
    """Return the words of the vertical axis, which panels of a row write once."""
    if ax.get_ylabel() or not ax.get_shared_y_axes().get_siblings(ax):
        return ax.get_ylabel()
    return next(
        (one.get_ylabel() for one in ax.get_shared_y_axes().get_siblings(ax) if one.get_ylabel()),
        "",
    )


def _panel(ax: Axes) -> Iterator[str]:
    rows, columns = _names(ax.yaxis), _names(ax.xaxis)
    if rows or columns:
        yield from _named_places(ax, rows or columns, vertical=bool(rows))
        return
    handles, labels = ax.get_legend_handles_labels()
    known = list(zip(handles, labels, strict=True))
    for handle, label in known[:_SERIES]:
        words = _of_series(handle, ax)
        if words:
            yield f"{' '.join(label.split())} {words}"
    if len(known) > _SERIES:
        yield f"and {len(known) - _SERIES} more"


def _named_places(ax: Axes, names: dict[float, str], *, vertical: bool) -> Iterator[str]:
    """Say what is drawn at each place of an axis whose places have names."""
    found: dict[str, list[str]] = {}
    for container in ax.containers:
        label = container.get_label()
        prefix = f"{label} " if isinstance(label, str) and not label.startswith("_") else ""
        for at, value in _values(container, vertical):
            # Several things at one place are drawn a little apart.
            place = min(names, key=lambda spot: abs(spot - at))
            if abs(place - at) < 0.5 and math.isfinite(value):
                found.setdefault(names[place], []).append(f"{prefix}{_number(value)}")
    for name, values in list(found.items())[:_PLACES]:
        yield f"{' '.join(name.split())} {', '.join(dict.fromkeys(values))}"


def _values(container: Any, vertical: bool) -> Iterator[tuple[float, float]]:
    """Yield (place, value) of bars, or of points with intervals."""
    if isinstance(container, BarContainer):
        for bar in container.patches:
            if vertical:
                yield bar.get_y() + bar.get_height() / 2, bar.get_x() + bar.get_width()
            else:
                yield bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height()
    elif isinstance(container, ErrorbarContainer) and container.lines[0] is not None:
        x, y = _data(container.lines[0])
        yield from zip(y, x, strict=True) if vertical else zip(x, y, strict=True)


def _of_series(handle: Any, ax: Axes) -> str:
    """Say where a curve begins and ends and what range it spans, or where a point is."""
    if isinstance(handle, ErrorbarContainer):
        handle = handle.lines[0]
    if isinstance(handle, PathCollection):
        x, y = np.asarray(handle.get_offsets(), float).T
    elif hasattr(handle, "get_xdata"):
        # A level that runs across the whole panel has only a height.
        if handle.get_transform() == ax.get_yaxis_transform():
            return _number(float(np.asarray(handle.get_ydata(), float)[0]))
        if handle.get_transform() == ax.get_xaxis_transform():
            return f"at {_number(float(np.asarray(handle.get_xdata(), float)[0]))}"
        x, y = _data(handle)
    else:
        return ""
    known = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    if not known:
        return ""
    (first, begin), (last, end) = known[0], known[-1]
    words = f"{_number(begin)} at {_number(first)}"
    if len(known) == 1:
        return words
    words += f" to {_number(end)} at {_number(last)}"
    low, high = min(b for _, b in known), max(b for _, b in known)
    if high > max(begin, end):
        words += f", at most {_number(high)}"
    if low < min(begin, end):
        words += f", at least {_number(low)}"
    return words


def _data(line: Any) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)


def _names(axis: Axis) -> dict[float, str]:
    """Return the names that an axis has in place of numbers, by their places."""
    formatter = axis.get_major_formatter()
    if not isinstance(axis.get_major_locator(), FixedLocator):
        return {}
    names = {float(x): str(formatter(x, i)) for i, x in enumerate(axis.get_majorticklocs())}
    # If all ticks show their own number, the axis is one of numbers.
    return {} if all(_says(name, at) for at, name in names.items()) else names


def _says(name: str, at: float) -> bool:
    try:
        return math.isclose(float(name.replace("−", "-").rstrip("%")), at)
    except ValueError:
        return not name


def _number(value: float) -> str:
    """Write a number with three digits, and a proper minus."""
    # Half a million is written out, without an exponent.
    text = f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return with_minus(text)
