"""Predictions of a question, stated before its runs, and verdicts that its numbers decide.

A question that goes beyond the paper keeps them in ``predictions.toml`` in its folder: the day on
which they were stated, what was known on that day, and for each prediction the words, the quantity
and the rule. The rules are the ledger's (`lotperm.studies.claims.evidence`); the quantities are
functions of the question's table, so live numbers and recorded ones are judged alike.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pandas as pd

from lotperm.config.choices import Model
from lotperm.errors import ParameterError, unknown_name
from lotperm.studies.claims.evidence import Above, Effect, Rule, Within, mean_effect, verdict
from lotperm.studies.origin import NAMES


@dataclass(frozen=True)
class Measure:
    """A quantity computed from a question's table, one number for each seed.

    Attributes
    ----------
    what : str
        The quantity in words, as "oracle − LTH".
    of : callable
        Takes the table of one network, sparsity and rewind epoch; returns a Series, index seed: in
        percent or points, or plain numbers.
    unit : str
        "points", "%" or "".
    """

    what: str
    of: Callable[[pd.DataFrame], pd.Series]
    unit: str = "points"


@dataclass(frozen=True)
class Prediction:
    """A statement about numbers that didn't exist yet.

    Attributes
    ----------
    number : str
        As "C 1".
    words : str
        What is expected.
    measure : str
        Name of the quantity.
    at : str
        "k = 0", "k > 0" or "any k": at which rewind epochs it is expected.
    rule : Rule
        The condition under which it holds.
    on : str
        Name of the network that it is about; "" for any.
    seen : str
        What had been seen besides the file's ``known``, in a few words; "" for nothing.
    stated : str
        The day on which it was stated, the file's unless it has its own.
    """

    number: str
    words: str
    measure: str
    at: str
    rule: Rule
    on: str = ""
    seen: str = ""
    stated: str = ""

    def rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """Select the rows that it is about; a table without column ``model`` fits any network."""
        k = table["rewind_epoch"]
        chosen = {"k = 0": k == 0, "k > 0": k > 0, "any k": k >= 0}[self.at]
        if self.on and "model" in table:
            chosen = chosen & (table["model"] == self.on)
        return table[chosen]

    @property
    def where(self) -> str:
        """Network and rewind epochs for which it is expected, in words."""
        return f"{self.at} on {NAMES.get(self.on, self.on)}" if self.on else self.at


@dataclass(frozen=True)
class Predictions:
    """All predictions of a question.

    Attributes
    ----------
    stated : str
        The day on which those without a day of their own were stated, as "2026-11-29".
    known : str
        What had been seen on that day.
    all : tuple of Prediction
        In their order.
    """

    stated: str
    known: str
    all: tuple[Prediction, ...]


def load_predictions(folder: Path, measures: Mapping[str, Measure]) -> Predictions:
    """Read the ``predictions.toml`` of a question's folder.

    Raises
    ------
    ParameterError
        If a prediction names an unknown quantity, rule, network or kind of rewind epoch.
    """
    path = folder / "predictions.toml"
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    found = []
    for entry in content["prediction"]:
        if entry["measure"] not in measures:
            raise unknown_name(f"{path}: measure", entry["measure"], measures)
        if entry["at"] not in ("k = 0", "k > 0", "any k"):
            raise ParameterError(f"{path}: at is {entry['at']!r}; expected k = 0, k > 0 or any k.")
        if entry.get("on", "") not in ("", *get_args(Model)):
            raise unknown_name(f"{path}: network", entry["on"], get_args(Model))
        rules: dict[str, Callable[[float], Rule]] = {"above": Above, "within": Within}
        ((name, size),) = entry["rule"].items()
        if name not in rules:
            raise unknown_name(f"{path}: rule", name, rules)
        found.append(
            Prediction(
                entry["number"],
                entry["words"],
                entry["measure"],
                entry["at"],
                rules[name](size),
                on=entry.get("on", ""),
                seen=entry.get("seen", ""),
                stated=str(entry.get("stated", content["stated"])),
            )
        )
    return Predictions(str(content["stated"]), content["known"], tuple(found))


def by_arm(rows: pd.DataFrame, column: str = "accuracy") -> pd.DataFrame:
    """Return a column of a cell, accuracies in percent: index seed, a column for each arm."""
    wide = rows.pivot(index="seed", columns="arm", values=column)
    return 100 * wide if column == "accuracy" else wide


def less(a: str, b: str, column: str = "accuracy") -> Callable[[pd.DataFrame], pd.Series]:
    """Return the measure "a − b" of two arms, accuracies in points."""

    def difference(rows: pd.DataFrame) -> pd.Series:
        arms = by_arm(rows, column)
        return arms[a] - arms[b]

    return difference


def effects(
    prediction: Prediction, measures: Mapping[str, Measure], table: pd.DataFrame, source: str
) -> list[Effect]:
    """Measure a prediction's quantity: one effect for each sparsity and rewind epoch.

    Parameters
    ----------
    prediction : Prediction
        The prediction.
    measures : mapping
        The question's quantities by name.
    table : DataFrame
        The question's table, live or recorded. Where it lacks arms that the quantity needs, there
        is no effect.
    source : str
        Where the table comes from.
    """
    measure = measures[prediction.measure]
    found = []
    for (s, k), rows in prediction.rows(table).groupby(["sparsity", "rewind_epoch"]):
        try:
            values = measure.of(rows).dropna()
        except KeyError:
            continue
        if values.empty:
            continue
        effect = mean_effect(source, measure.what, values.to_numpy(), unit=measure.unit)
        found.append(effect.noted(f"at S = {s:g}, k = {k:g}"))
    return found


def verdicts(
    predictions: Predictions, measures: Mapping[str, Measure], tables: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """Judge all predictions by tables.

    Parameters
    ----------
    predictions : Predictions
        The question's predictions.
    measures : mapping
        The question's quantities by name.
    tables : mapping
        Where a table comes from, in a few words -> the table.

    Returns
    -------
    DataFrame
        One row for each prediction: columns prediction, expected, measured, verdict.
    """
    rows = []
    for p in predictions.all:
        found = [e for source, t in tables.items() for e in effects(p, measures, t, source)]
        rows.append(
            {
                "prediction": f"{p.number}: {p.words}",
                "expected": f"{measures[p.measure].what} {p.rule.words(measures[p.measure].unit)}"
                + (f", on {NAMES.get(p.on, p.on)}" if p.on else ""),
                "measured": "; ".join(_measured(found)),
                "verdict": verdict(found, p.rule) or "not run here",
            }
        )
    return pd.DataFrame(rows).set_index("prediction")


def _measured(found: Sequence[Effect]) -> list[str]:
    return [f"{effect.text()} ({effect.note})" for effect in found]
