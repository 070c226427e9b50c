"""Canonical text of plain data, equal for equal data, and its hash."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from lotperm.errors import ParameterError

# Version of the configurations' meaning, to be raised if a meaning changes under the same name.
SCHEMA = 1


def canonical_json(value: Any) -> str:
    """Serialize plain data so that equal data gives equal text: sorted keys, no spaces, ASCII.

    Raises
    ------
    ParameterError
        If the value holds NaN, an infinity, a key that isn't text, or anything that isn't plain
        JSON data.
    """

    # json.dumps would write 1 and None as keys in the same text as "1" and "null", and its errors
    # don't say where in the data they are.
    def check(item: Any, where: str) -> None:
        if isinstance(item, float) and not math.isfinite(item):
            raise ParameterError(f"{where or 'value'} is {item}; expected a finite number.")
        if isinstance(item, Mapping):
            for key, inner in item.items():
                if not isinstance(key, str):
                    raise ParameterError(f"key {key!r} in {where or 'value'} is not text.")
                check(inner, f"{where}.{key}" if where else key)
        elif isinstance(item, list | tuple):
            for i, inner in enumerate(item):
                check(inner, f"{where}[{i}]")
        elif item is not None and not isinstance(item, str | int | float | bool):
            raise ParameterError(
                f"{where or 'value'} is a {type(item).__name__}, which JSON can't hold."
            )

    check(value, "")
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of a value's canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
