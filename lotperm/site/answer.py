"""The answer on the start page and in the README: what permuting the mask gains.

Everything is computed from ``book/results`` and ``book/paper``; `write` puts it into the README.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lotperm.errors import StorageError
from lotperm.science.statistics import interval, ratio_of_means
from lotperm.store.files import write_atomic
from lotperm.studies.charts import MARKERS, METHODS, use_style
from lotperm.studies.claims import numbers
from lotperm.studies.claims.sources import Run
from lotperm.studies.numbers import number
from lotperm.studies.origin import NAMES, Origin, attach, describe, of_record, of_table
from lotperm.studies.published import Recorded, recorded
from lotperm.studies.show import NARROW, lay_out, svg

SPARSITY = 0.9
"""The sparsity that all rows share: every recorded table and every table of the paper has it."""

_ARMS = ("naive", "permuted", "lth")
_README = re.compile(r"(<!-- answer -->\n).*?\n?(<!-- /answer -->)", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """The arms at one setting, in percent and points.

    Attributes
    ----------
    kind : {"paper", "recorded"}
        Whose numbers they are.
    label : str
        Data set and network.
    rewind_epoch, epochs : int
        k, and the epochs of dense training.
    naive, permuted, lth : float
        Test accuracies in percent.
    gain : tuple of (float, float)
        permuted − naive in points, and half its 95 % interval (the paper's: NaN).
    share : float
        Share of the gap between naive and LTH that permuting closes, in percent.
    span : tuple of (float, float)
        Ends of the share's 95 % interval, by Fieller's theorem (NaN for the paper, and where
        the gap may be 0, as with one seed).
    origin : Origin
        Where the numbers come from.
    """

    kind: str
    label: str
    rewind_epoch: int
    epochs: int
    naive: float
    permuted: float
    lth: float
    gain: tuple[float, float]
    share: float
    span: tuple[float, float]
    origin: Origin

    @property
    def title(self) -> str:
        """Label and rewind epoch."""
        return f"{self.label}, k = {self.rewind_epoch} of {self.epochs}"

    @property
    def points(self) -> str:
        """The gain in words: "+13.6 ± 2.1"."""
        mean, half = self.gain
        digits = 2 if self.kind == "paper" else 1
        return number(mean, digits, signed=True) + ("" if half != half else f" ± {half:.1f}")

    @property
    def closed(self) -> str:
        """The share in words: "80 % (76 to 84)"."""
        low, high = self.span
        span = f" ({number(low, 0)} to {number(high, 0)})" if low == low else ""
        return f"{number(self.share, 0)} %{span}"


def rows(sparsity: float = SPARSITY) -> list[Row]:
    """Return the settings of the answer: ours, then the paper's main case.

    Each recorded table at this sparsity gives its latest rewind epoch, and a second row if it has
    k = 0. Of several tables of one data set and network, the one with most seeds is taken.
    """
    best: dict[tuple[str, str], Recorded] = {}
    for run in recorded():
        e = run.experiment
        if sparsity not in e["sparsities"]:
            continue
        name = (e["data"]["name"], e["model"]["name"])
        known = best.get(name)
        if known is None or len(e["seeds"]) > len(known.experiment["seeds"]):
            best[name] = run
    order = list(NAMES)
    ours = sorted(best.values(), key=lambda run: order.index(run.experiment["data"]["name"]))
    found = []
    for run in ours:
        k = run.experiment["rewind_epochs"]
        found += [_ours(run, sparsity, at) for at in sorted({max(k), *(x for x in k if x == 0)})]
    return [*found, *(_paper(sparsity, k) for k in (0, 20))]


def _ours(run: Recorded, sparsity: float, rewind_epoch: int) -> Row:
    e = run.experiment
    table = Run(run.name, run.kind, run.label, e, run.rows()).accuracies()
    arms = table.xs((sparsity, rewind_epoch), level=("sparsity", "rewind_epoch"))
    gain, gap = arms["permuted"] - arms["naive"], arms["lth"] - arms["naive"]
    ratio = ratio_of_means(gain, gap)
    low, high = ratio.bounds
    width = e["model"]["width"]
    network = NAMES[e["model"]["name"]] + ("" if width == 1 else f"×{width:g}")
    seeds = ", one seed" if len(arms) == 1 else ""
    return Row(
        "recorded",
        f"{NAMES[e['data']['name']]}, {network}{seeds}",
        rewind_epoch,
        e["dense"]["epochs"],
        float(arms["naive"].mean()),
        float(arms["permuted"].mean()),
        float(arms["lth"].mean()),
        gain=interval(gain),
        share=100 * ratio.ratio,
        span=(100 * low, 100 * high) if math.isfinite(high - low) else (math.nan, math.nan),
        origin=of_record(run),
    )


def _paper(sparsity: float, rewind_epoch: int) -> Row:
    """Return the paper's main case, ResNet20×1 on CIFAR-10 (its Table 5)."""
    arms = numbers.settings(numbers.cells())
    chosen = arms[
        (arms["table"] == 5)
        & (arms["sparsity"] == sparsity)
        & (arms["rewind_epoch"] == rewind_epoch)
    ]
    (row,) = chosen.to_dict("records")
    missing = float("nan")
    return Row(
        "paper",
        "CIFAR-10, ResNet20×1",
        rewind_epoch,
        200,
        row["naive"],
        row["permuted"],
        row["lth"],
        gain=(row["gain"], missing),
        share=100 * row["share"],
        span=(missing, missing),
        origin=of_table(5),
    )


def sentence(found: Sequence[Row]) -> str:
    """Say the answer in two sentences, computed from the rows."""
    rewound = [row for row in found if row.kind == "recorded" and row.rewind_epoch > 0]
    ours = [row for row in rewound if math.isfinite(row.gain[1])]
    least, most = min(ours, key=_gain), max(ours, key=_gain)
    # One seed has no interval: it is named apart, whatever it shows.
    alone = "".join(f"; {row.title}: {row.points}" for row in rewound if row not in ours)
    early, late = [row for row in found if row.kind == "paper"]
    return (
        f"At {100 * SPARSITY:g} % sparsity the permuted mask gains {most.gain[0]:.1f} points on "
        f"{most.label.split(',')[0]} and {least.gain[0]:.1f} ± {least.gain[1]:.1f} on "
        f"{least.label.split(',')[0]} in our runs{alone}. "
        f"In the paper's main case, a narrow ResNet20 on CIFAR-10, it gains {late.gain[0]:.2f} points, "
        f"{late.share:.0f} % of the gap, and from a truly random start (k = 0) {early.gain[0]:.2f}."
    )


def _gain(row: Row) -> float:
    return row.gain[0]


def table(found: Sequence[Row]) -> pd.DataFrame:
    """Return the rows as a table of texts; accuracies and gains in percent and points."""
    return pd.DataFrame(
        {
            "numbers": [row.kind for row in found],
            "data and network": [row.label for row in found],
            "k": [f"{row.rewind_epoch} of {row.epochs}" for row in found],
            **{
                METHODS[arm][0].partition(":")[0]: [f"{getattr(row, arm):.1f}" for row in found]
                for arm in _ARMS
            },
            "points gained": [row.points for row in found],
            "share of the gap": [row.closed for row in found],
        }
    )


def figure(found: Sequence[Row]) -> Figure:
    """Draw the share of the gap that permuting closes, with accuracies and points as numbers."""
    use_style()
    drawn = lay_out(_drawn(found, 8, 0.48), _drawn(found, NARROW, 0.8))
    describe(drawn, " ".join(_words(row) for row in found))
    return attach(drawn, *dict.fromkeys(row.origin for row in found))


def _drawn(found: Sequence[Row], width: float, each: float) -> Figure:
    """Draw all rows at a width in inches, each of them `each` inches high."""
    drawn, ax = plt.subplots(figsize=(width, 0.75 + each * len(found)), layout="constrained")
    narrow = width <= NARROW
    for y, row in enumerate(found):
        _row(ax, y, row, narrow=narrow)
    words = "share of the gap between naive and LTH" + ("\n" if narrow else " ")
    ax.set(
        xlim=(-14, 118),
        ylim=(len(found) - 0.35, -0.75),
        yticks=[],
        xticks=[0, 25, 50, 75, 100],
        xlabel=f"{words}that permuting closes (%)",
    )
    ax.tick_params(labelsize=9)
    ax.grid(visible=False, axis="y")
    ax.xaxis.label.set_fontsize(9)
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    return drawn


def _row(ax: Axes, y: int, row: Row, *, narrow: bool) -> None:
    """Draw one setting: naive at 0, LTH at 100, permuted between, each with its accuracy."""
    green = METHODS["permuted"][1]
    ax.plot([0, 100], [y, y], color="#bbbbbb", linewidth=1, zorder=1)
    ax.plot([0, row.share], [y, y], color=green, linewidth=5, zorder=2)
    low, high = row.span
    if low == low:
        ax.plot([max(low, -14), min(high, 118)], [y, y], color=green, linewidth=1.5, zorder=2)
    for arm, x in {"naive": 0.0, "permuted": row.share, "lth": 100.0}.items():
        colour = METHODS[arm][1]
        # The paper's marks are hollow.
        face = "white" if row.kind == "paper" else colour
        ax.plot(x, y, MARKERS[arm], color=colour, markerfacecolor=face, markersize=8, zorder=3)
    # Left of the mark of permuted, where that is below naive.
    left = (min(0.0, row.share), y)
    _note(ax, f"{row.naive:.1f}", left, (-7, 0), METHODS["naive"][1], ha="right")
    _note(ax, f"{row.lth:.1f}", (100, y), (7, 0), METHODS["lth"][1])
    _note(ax, f"{row.title} ({row.kind})", (0, y), (-3, 13), "#333333")
    # On a phone there is no room for this note beside the title.
    gained = f"permuted {row.permuted:.1f}: {row.points} points, {number(row.share, 0)} %"
    _note(ax, gained, (100, y), (0, -13 if narrow else 13), green, ha="right", weight="bold")


def _note(
    ax: Axes,
    text: str,
    at: tuple[float, float],
    shift: tuple[float, float],
    colour: str,
    *,
    ha: str = "left",
    weight: str = "normal",
) -> None:
    ax.annotate(
        text,
        at,
        shift,
        textcoords="offset points",
        ha=ha,
        va="center",
        fontsize=9,
        color=colour,
        fontweight=weight,
    )


def _words(row: Row) -> str:
    return (
        f"{row.title}, {row.kind}: naive {row.naive:.1f}, permuted {row.permuted:.1f}, LTH {row.lth:.1f} percent; "
        f"{row.points} points, {row.closed} of the gap."
    )


def markdown(found: Sequence[Row]) -> str:
    """Return the README's part: the answer in a sentence, and the table."""
    texts = table(found)
    lines = [
        f"| {' | '.join(texts.columns)} |",
        f"|{' --- |' * len(texts.columns)}",
        *(f"| {' | '.join(row)} |" for row in texts.itertuples(index=False, name=None)),
    ]
    return f"{sentence(found)}\n\n" + "\n".join(lines)


def write(root: Path = Path()) -> None:
    """Put the answer into ``README.md``, and its picture into ``book/_static/answer.svg``.

    Raises
    ------
    StorageError
        If the README has no place for it.
    """
    found, readme = rows(), root / "README.md"
    old = readme.read_text(encoding="utf-8")
    new, places = _README.subn(lambda m: f"{m[1]}{markdown(found)}\n{m[2]}", old)
    if places != 1:
        raise StorageError(f"{readme} has {places} places <!-- answer -->; expected one.")
    write_atomic(readme, new.encode())
    # The page may be dark, so the picture has a background of its own.
    drawn = figure(found)
    text = svg(drawn).replace("<defs>", '<rect width="100%" height="100%" fill="#fff"/><defs>', 1)
    plt.close(drawn)
    write_atomic(root / "book" / "_static" / "answer.svg", text.encode())
