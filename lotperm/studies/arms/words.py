"""Sentences of the pages about the arms, computed from the numbers that they show."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from lotperm.studies.arms import effects
from lotperm.studies.arms.series import Series
from lotperm.studies.claims.evidence import Effect, Rule
from lotperm.studies.html import HOW_SURE, badge, folded, picture
from lotperm.studies.numbers import number
from lotperm.studies.origin import attach

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Judged = Callable[[Series], list[tuple[str, Effect, Rule]]]
"""Lists what can be tested within a series: statement, effect, rule."""

_AGAINST = {
    "rewind": "from k = {0} % to {1} % of training",
    "matched": "matched from {0} % to {1} % of B's training",
    "sparsity": "from S = {0} to {1}",
    "units": "from {0} to {1} units in the narrowest layer",
}


_AXES = {
    "rewind": "the rewind point",
    "matched": "the matching epoch",
    "sparsity": "sparsity",
    "units": "width",
}


def gains(series: Sequence[Series], why: str = "") -> list[str]:
    """Say what permuting gains in each series; lines for `lotperm.studies.html.answer`.

    Parameters
    ----------
    series : sequence of Series
        The paper, recorded runs and this page's.
    why : str, optional
        Why this page's run doesn't show the effect; shown only if it doesn't.
    """
    return [_of_paper(one) if one.kind == "paper" else _of_ours(one, why) for one in series]


def mark(kind: str, effect: Effect) -> str:
    """Return the badge of a source by its effect over seeds."""
    if effects.shows(kind, effect):
        return badge("agrees", f"{kind}: yes")
    if effect.high < 0:
        return badge("opposite", f"{kind}: the opposite")
    return badge("weaker", f"{kind}: not shown")


def _of_paper(one: Series) -> str:
    table, rewound = one.table, one.rewound
    # Settings with a printed gain of exactly 0 count for neither side.
    above, below = (int((sign * table["gain"] > 0).sum()) for sign in (1, -1))
    verdict = "agrees" if below == 0 else ("opposite" if above == 0 else "weaker")
    words = {"agrees": "paper: yes", "opposite": "paper: no", "weaker": "paper: mostly"}[verdict]
    gain = rewound["gain"]
    text = (
        f"permuted is above naive in {above} of {len(table)} settings. At k &gt; 0 it gains "
        f"{gain.mean():.1f} points on average ({number(gain.min())} to {number(gain.max())})"
    )
    share = effects.share(one).value
    if not math.isnan(share):
        text += f" and closes {share:.0f} % of the gap to LTH"
    start = table.loc[table["rewind_epoch"] == 0, "gain"]
    if len(start):
        text += f"; at k = 0, a truly random start, {start.mean():.1f} points"
    return f"{badge(verdict, words)} {of(one)}: {text}."


def _of_ours(one: Series, why: str) -> str:
    effect, share = effects.headline(one), effects.share(one)
    text = f"permuted − naive = {effect.text()}"
    # Without a clear gain, its share of the gap would be noise.
    if effects.shows(one.kind, effect) and math.isfinite(share.low):
        text += f"; it closes {share.value:.0f} % [{share.low:.0f}, {share.high:.0f}] of the gap"
    elif one.kind == "live" and why and not effects.shows(one.kind, effect):
        text += f". {html.escape(why)}"
    text = text.rstrip(".")
    return f"{mark(one.kind, effect)} {of(one)}: {text} ({HOW_SURE})."


def of(one: Series) -> str:
    """Name a series' network and data, for HTML."""
    return html.escape(one.label.partition(": ")[2])


def statements(series: Sequence[Series], judged: Judged = effects.statements) -> str:
    """List in HTML what each source says about the paper's statements, with verdicts as badges."""
    found: dict[str, list[str]] = {}
    for one in series:
        for words, effect, rule in judged(one):
            # The paper's numbers have no intervals, and can't be a verdict on themselves.
            mark = "" if one.kind == "paper" else badge(rule.judge(effect)) + " "
            found.setdefault(words, []).append(
                f"<li>{mark}{html.escape(f'{one.label}: {_short(effect)}')}</li>"
            )
    items = (
        f"<li><strong>{html.escape(words)}</strong><ul>{''.join(lines)}</ul></li>"
        for words, lines in found.items()
    )
    return f"<ul>{''.join(items)}</ul>"


def _short(effect: Effect) -> str:
    unit = {"points": "", "%": " %"}[effect.unit]
    text = f"{number(effect.value, signed=True)}{unit}"
    if not math.isnan(effect.low):
        text += f" [{number(effect.low)}, {number(effect.high)}]"
    if not math.isnan(effect.p):
        text += f", p = {effect.p:.1g}"
    return text + (f" ({effect.note})" if effect.note else "")


def agreement(series: Sequence[Series], judged: Judged = effects.statements) -> str:
    """Say in one sentence how many of the paper's statements our runs bear out."""
    found = []
    for one in series:
        if one.kind == "paper":
            continue
        verdicts = {words: rule.judge(effect) for words, effect, rule in judged(one)}
        if not verdicts:
            continue
        good = [words for words, verdict in verdicts.items() if verdict == "agrees"]
        rest = [f"{words} ({word})" for words, word in verdicts.items() if word != "agrees"]
        text = (
            f"<strong>{html.escape(one.label)}</strong> agrees with {len(good)} of {len(verdicts)}"
        )
        text += f" statements that it can test ({'; '.join(good)})" if good else " statements"
        text += f", not with: {'; '.join(rest)}" if rest else ""
        found.append(f"{text}.")
    return f"<p>{' '.join(found)} Each by a paired t-test or interval over seeds: {HOW_SURE}</p>"


def in_words(by_factor: Mapping[str, Sequence[tuple[Series, pd.DataFrame]]]) -> list[str]:
    """Describe every curve of a figure by its ends, for those who don't see it."""
    found = []
    for factor, pairs in by_factor.items():
        for one, curve in pairs:
            first, last = curve.iloc[0], curve.iloc[-1]
            where = _AGAINST[factor].format(*(f"{x:.3g}" for x in (first["x"], last["x"])))
            text = f"{one.label}, {where}: "
            text += f"{number(first['gain'])} to {number(last['gain'])} points"
            known = curve.dropna(subset="share")
            if len(known) == len(curve):
                ends = (number(x, 0) for x in (first["share"], last["share"]))
                text += f", {' to '.join(ends)} % of the gap"
            found.append(text)
    return found


def rising(by_factor: Mapping[str, Sequence[tuple[Series, pd.DataFrame]]]) -> str:
    """Count the curves of points gained that end higher than they begin, for each axis."""
    counts = []
    for factor, pairs in by_factor.items():
        ends = [curve["gain"].iloc[[0, -1]].to_numpy() for _, curve in pairs if len(curve) > 1]
        if ends:
            more = sum(bool(last > first) for first, last in ends)
            counts.append(f"{more} of {len(ends)} against {_AXES[factor]}")
    return (
        f"Curves of points gained that end higher than they begin: {', '.join(counts)}."
        if counts
        else ""
    )


def curves(figure: Figure, by_factor: Mapping[str, Any], caption: str) -> str:
    """Put a figure of curves into the page, with what it shows in words folded away below it.

    Parameters
    ----------
    figure : Figure
        As `lotperm.studies.arms.compare.side_by_side` draws it.
    by_factor : mapping
        Its curves.
    caption : str
        HTML that says how to read it.
    """
    said = in_words(by_factor)
    items = "".join(f"<li>{html.escape(text)}</li>" for text in said)
    every = [one for curves in by_factor.values() for one, *_ in curves]
    attach(figure, *dict.fromkeys(origin for one in every for origin in one.origins))
    shown = picture(figure, "; ".join(said) + ".", f"{caption} {html.escape(rising(by_factor))}")
    return shown + folded("The same in words", f"<ul>{items}</ul>")
