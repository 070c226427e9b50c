"""Numbers in text: a proper minus sign, and no sign before what rounds to zero."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import lotperm
from lotperm.studies import html
from lotperm.studies.claims.evidence import Effect
from lotperm.studies.numbers import number, with_minus

PACKAGE = Path(lotperm.__file__).parent


@pytest.mark.parametrize(
    ("value", "digits", "signed", "text"),
    [
        (-1.26, 1, False, "−1.3"),
        (2.0, 1, False, "2.0"),
        (2.0, 1, True, "+2.0"),
        (-2.0, 1, True, "−2.0"),
        (-0.04, 1, False, "0.0"),
        (-0.04, 1, True, "0.0"),
        (0.04, 1, True, "0.0"),
        (-0.04, 2, True, "−0.04"),
        (-0.0, 0, False, "0"),
        (-0.5, 0, False, "0"),
        (-math.inf, 1, False, "−∞"),
        (math.inf, 2, True, "+∞"),
    ],
)
def test_numbers_are_written_with_their_signs(
    value: float, digits: int, signed: bool, text: str
) -> None:
    assert number(value, digits, signed=signed) == text


@given(st.floats(-1e6, 1e6), st.integers(0, 4), st.booleans())
def test_what_is_written_is_the_rounded_number(value: float, digits: int, signed: bool) -> None:
    text = number(value, digits, signed=signed)
    read = float(text.replace("−", "-"))
    assert read == float(f"{value:.{digits}f}")
    assert (text[0] == "−") == (read < 0) and (text[0] == "+") == (signed and read > 0)
    assert "-" not in text


def test_formatted_numbers_of_other_forms_keep_them() -> None:
    assert [with_minus(text) for text in ("-1e-05", "-1,200", "-0", "0.5")] == [
        "−1e−05",
        "−1,200",
        "0",
        "0.5",
    ]


def test_sentences_intervals_and_tables_keep_to_the_one_rule() -> None:
    effect = Effect("us", "gain", -0.001, low=-0.004, high=1.0, n=6, over="seeds")
    assert effect.text() == "0.00 points [0.00, 1.00], n = 6 seeds"
    shown = html.table(pd.DataFrame({"gain": ["-0.0 ± 2.1", "-1.5 ± 2.1"]}))
    assert ">0.0 ± 2.1<" in shown and ">−1.5 ± 2.1<" in shown


def test_no_module_has_a_rule_of_its_own() -> None:
    own = [
        path.relative_to(PACKAGE).as_posix()
        for path in sorted(PACKAGE.rglob("*.py"))
        if 'replace("-", "−")' in path.read_text(encoding="utf-8")
    ]
    assert own == ["studies/numbers.py"]
