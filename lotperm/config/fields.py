"""The types of parameters, their help, and the checks of given values.

A type is one of Python's, annotated with bounds that pydantic checks, as `Fraction` is. Only
numbers pass as numbers; pydantic alone would also accept text and bools.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cached_property
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from lotperm.errors import ParameterError, shown, unknown_name

Item = TypeVar("Item")

# Far beyond any experiment: a longer list is a mistake, and would never end or exhaust the memory.
MAX_ITEMS = 1_000

# The largest int64, which bounds seeds as well.
_MAX_WHOLE = 2**63 - 1


@dataclass(frozen=True)
class Help:
    """The meaning of a parameter.

    Parameters
    ----------
    text : str
        Its meaning, in a few words.
    applies : str, optional
        The part of an experiment that it applies to.
    name : str, optional
        Its flat name, if that differs from the field's.
    """

    text: str
    applies: str = "everything"
    name: str | None = None


@dataclass(frozen=True)
class _Kind:
    """A type in words: one value of it, and several."""

    one: str
    several: str = ""


class _Each:
    """Marks a type as one value or a list of them."""


def either(choices: Sequence[str]) -> str:
    """Write "a, b or c"."""
    *rest, last = choices
    return f"{', '.join(rest)} or {last}" if rest else last


def require(condition: bool, name: str, value: object, expected: str) -> None:
    """Refuse a value of a parameter unless a condition holds.

    Raises
    ------
    ParameterError
        If the condition is false.
    """
    if not condition:
        raise ParameterError(f"{name} is {shown(value)}; expected {expected}.")


def require_distinct(name: str, values: tuple[float, ...]) -> None:
    """Refuse values if one of them appears twice.

    Raises
    ------
    ParameterError
        If one appears twice.
    """
    require(len(set(values)) == len(values), name, values, "no number twice")


def _plain(value: Any) -> Any:
    """Turn NumPy's and PyTorch's numbers and arrays, ranges, and lists in text into Python's."""
    if isinstance(value, range):
        return list(value[: MAX_ITEMS + 1])
    if isinstance(value, str) and value.strip().startswith("["):
        # `papermill -p` gives every list as text.
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value.tolist() if hasattr(value, "tolist") else value


def _number(value: object) -> object:
    value = _plain(value)
    # Pydantic would read numbers from text, and True as 1.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    return value


def _whole(value: object) -> object:
    value = _plain(value)
    if isinstance(value, int | float) and abs(value) > _MAX_WHOLE:
        raise ValueError("out of range")
    return _number(value)


def _switch(value: object) -> object:
    # Commands are shown with JSON's words, and pydantic would take numbers and "yes" as well.
    value = {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value
    if not isinstance(value, bool):
        raise ValueError("not a bool")
    return value


def _listed(value: object) -> object:
    value = _plain(value)
    return value if isinstance(value, list | tuple) else (value,)


def _seeds(value: Any) -> object:
    value = _plain(value)
    if isinstance(value, list | tuple):
        return value
    count = _number(value)
    # Before the list is made: a count of a billion would fill the memory.
    if count not in range(1, MAX_ITEMS + 1):
        raise ValueError("not a count")
    return tuple(range(int(value)))


Whole = Annotated[int, BeforeValidator(_whole), _Kind("a whole number", "whole numbers")]
Number = Annotated[
    float, BeforeValidator(_number), Field(allow_inf_nan=False), _Kind("a number", "numbers")
]
Switch = Annotated[bool, BeforeValidator(_switch), _Kind("True or False")]
Several = Annotated[
    tuple[Item, ...], BeforeValidator(_listed), Field(max_length=MAX_ITEMS), _Each()
]
Count = Annotated[Whole, Field(ge=1)]
FromZero = Annotated[Whole, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Fraction = Annotated[Number, Field(gt=0, lt=1)]
SeedList = Annotated[
    tuple[FromZero, ...],
    BeforeValidator(_seeds),
    Field(min_length=1, max_length=MAX_ITEMS),
    _Kind(f"a count up to {MAX_ITEMS:,}, or a list of whole numbers"),
]

# Pydantic's names for errors about values out of bounds.
_OUTSIDE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def _said(annotation: Any) -> Iterator[Any]:
    """Yield the annotations of a type and of its parts, from the outside in."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        for item in metadata:
            yield from item.metadata if isinstance(item, FieldInfo) else (item,)
        yield from _said(inner)
    # The arguments of a Literal are values, not types.
    elif get_origin(annotation) is not Literal:
        for inner in get_args(annotation):
            yield from _said(inner)


def _words(annotation: Any) -> str:
    """Describe the values of a type in words."""
    said = list(_said(annotation))
    kind = next((item for item in said if isinstance(item, _Kind)), None)
    if kind is None:
        return "text"
    several = any(isinstance(item, _Each) for item in said)
    return f"{kind.one}, or a list of {kind.several}" if several else kind.one


# The types without bounds, by their descriptions.
_TYPES: dict[str, Any] = {
    _words(type_): type_
    for type_ in (
        Annotated[str, Field(strict=True)],
        Whole,
        Number,
        Several[Whole],
        Several[Number],
        SeedList,
    )
}
# Made once for each kind: building one takes pydantic far longer than using it.
_adapter = functools.cache(lambda kind: TypeAdapter(_TYPES[kind]))


@dataclass(frozen=True)
class Parameter:
    """A parameter as it was declared.

    Parameters
    ----------
    name : str
        Its flat name.
    annotation : type
        The type that it was declared with, including bounds.
    meaning : str
        Its meaning, in a few words.
    applies : str
        The part of an experiment that it applies to.
    default : object
        Its value where neither data set nor profile sets one; `dataclasses.MISSING` if they always
        do.
    """

    name: str
    annotation: Any
    meaning: str
    applies: str
    default: Any

    @cached_property
    def kind(self) -> str:
        """Its type in words."""
        return _words(self.annotation)

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """The allowed strings; empty if the parameter isn't a choice among strings."""
        annotated = get_origin(self.annotation) is Annotated
        inner = get_args(self.annotation)[0] if annotated else self.annotation
        return get_args(inner) if get_origin(inner) is Literal else ()

    @cached_property
    def limits(self) -> str:
        """Its bounds in words; empty if there are none."""
        low = high = None
        for item in _said(self.annotation):
            low = item if isinstance(item, Gt | Ge) else low
            high = item if isinstance(item, Lt | Le) else high
        if isinstance(low, Ge) and isinstance(high, Le):
            return f"{low.ge:,} to {high.le:,}"
        if low is not None and high is not None:
            least = f"{low.gt} <" if isinstance(low, Gt) else f"{low.ge} <="
            most = f"< {high.lt:,}" if isinstance(high, Lt) else f"<= {high.le:,}"
            return f"{least} {self.name} {most}"
        if isinstance(low, Gt):
            return f"more than {low.gt}"
        return f"{low.ge} or more" if isinstance(low, Ge) else ""

    @property
    def values(self) -> str:
        """Its possible values in words: choices, or type and bounds."""
        if self.choices:
            return either(self.choices)
        return f"{self.kind}, {self.limits}" if self.limits else self.kind

    def row(self) -> dict[str, str]:
        """Describe it as a row of a table, in words."""
        if self.default is MISSING:
            default = "by data set and profile"
        elif self.default in (None, ()):
            default = "none"
        elif isinstance(self.default, tuple):
            default = ", ".join(map(str, self.default))
        else:
            default = str(self.default)
        return {
            "parameter": self.name,
            "value": self.values,
            "default": default,
            "applies to": self.applies,
            "meaning": self.meaning,
        }

    def parse(self, name: str, value: Any) -> Any:
        """Return a value in this parameter's type, without checking its bounds.

        Parameters
        ----------
        name : str
            Name of the value in errors.
        value : object
            The value as it was given.

        Raises
        ------
        ParameterError
            If the value isn't of this kind. Neither text nor bools are turned into numbers.
        """
        try:
            return _adapter(self.kind).validate_python(value)
        except ValidationError:
            raise ParameterError(f"{name} is {shown(value)}; expected {self.kind}.") from None

    @cached_property
    def _bounded(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.annotation)

    def check(self, value: Any) -> Any:
        """Return a value in this parameter's type and within its bounds.

        Raises
        ------
        ParameterError
            If its type is wrong or it is out of bounds.
        """
        try:
            return self._bounded.validate_python(value)
        except ValidationError as error:
            raise self.refusal(value, error.errors(include_url=False)[0]) from None

    def refusal(self, value: Any, found: Mapping[str, Any]) -> ParameterError:
        """Turn pydantic's error about a value into one line."""
        if found["type"] == "literal_error" and isinstance(value, str):
            return unknown_name(self.name, value, self.choices)
        if found["type"] in _OUTSIDE:
            return ParameterError(
                f"{self.name} is {shown(found['input'])}; expected {self.limits}."
            )
        if found["type"] == "too_short":
            return ParameterError(f"{self.name} is {shown(value)}; expected at least one number.")
        return ParameterError(f"{self.name} is {shown(value)}; expected {self.kind}.")
