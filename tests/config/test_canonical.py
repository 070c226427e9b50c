"""Canonical JSON: equal text for equal data, and nothing that JSON can't hold."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lotperm.config.canonical import canonical_json
from lotperm.errors import ParameterError

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(plain)
def test_canonical_json_round_trips(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value
    assert canonical_json(json.loads(text)) == text
    assert text.isascii()


@given(st.dictionaries(st.text(), plain, min_size=2, max_size=5), st.randoms())
def test_canonical_json_ignores_the_order_of_keys(
    value: dict[str, Any], rng: random.Random
) -> None:
    items = list(value.items())
    rng.shuffle(items)
    assert canonical_json(dict(items)) == canonical_json(value)


def test_canonical_json_distinguishes_types_but_not_sequences() -> None:
    assert len({canonical_json(v) for v in (1, 1.0, True, "1", [1], None)}) == 6
    assert canonical_json((1, 2)) == canonical_json([1, 2]) == "[1,2]"
    assert canonical_json({"b": 0.1, "a": 1e-07}) == '{"a":1e-07,"b":0.1}'


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {1: 2}, {"a": {3}}, [torch.tensor(1)], Path("x"), b"x", {None: 1}],
)
def test_canonical_json_refuses(value: Any) -> None:
    with pytest.raises(ParameterError):
        canonical_json({"config": [value]})
