"""How a parameter is declared: type, bounds, default and help in one place, checked by pydantic.

A configuration is a class under `configuration`. A field that is a parameter says all there is to
say about it::

    momentum: Annotated[Number, Field(ge=0, lt=1), Help("momentum of SGD", DENSE)] = 0.9

`declared` reads these fields back as `Parameter`, which the command line, the notebooks, the
campaign files and the book show and check. What pydantic refuses becomes a one-line
`lotperm.errors.ParameterError`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass
from functools import cached_property
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

import pydantic.dataclasses
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from lotperm.errors import ParameterError, shown, unknown_name

__all__ = [
    "MAX_ITEMS",
    "Count",
    "Fraction",
    "FromZero",
    "Help",
    "Number",
    "Parameter",
    "Positive",
    "SeedList",
    "Several",
    "Whole",
    "configuration",
    "declared",
    "either",
    "filled",
    "from_plain",
]

Item = TypeVar("Item")
Config = TypeVar("Config")

# Far beyond any experiment: a longer list is a slip, and would end in an endless loop or no memory.
MAX_ITEMS = 1_000

_MAX_WHOLE = 2**63 - 1


@dataclass(frozen=True)
class Help:
    """What a parameter means.

    Parameters
    ----------
    text : str
        Its meaning, in half a line.
    applies : str, optional
        Which part of an experiment it applies to.
    name : str, optional
        Its flat name, if that isn't the field's.
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


def _number(value: object) -> object:
    # Pydantic would read numbers from text, and True as 1.
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    return value


def _whole(value: object) -> object:
    if isinstance(value, int | float) and abs(value) > _MAX_WHOLE:
        raise ValueError("out of range")
    return _number(value)


def _listed(value: object) -> object:
    return value if isinstance(value, list | tuple) else (value,)


def _seeds(value: Any) -> object:
    if isinstance(value, list | tuple):
        return value
    count = _number(value)
    if count not in range(1, MAX_ITEMS + 1):
        raise ValueError("not a count")
    return tuple(range(int(value)))


Whole = Annotated[int, BeforeValidator(_whole), _Kind("a whole number", "whole numbers")]
Number = Annotated[
    float, BeforeValidator(_number), Field(allow_inf_nan=False), _Kind("a number", "numbers")
]
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

# What pydantic calls a value that is out of bounds.
_OUTSIDE = ("greater_than", "greater_than_equal", "less_than", "less_than_equal")


def _said(annotation: Any) -> Iterator[Any]:
    """Yield what the parts of a type are annotated with, from the outside in."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        for item in metadata:
            yield from item.metadata if isinstance(item, FieldInfo) else (item,)
        yield from _said(inner)
    elif get_origin(annotation) is not Literal:
        for inner in get_args(annotation):
            yield from _said(inner)


def _words(annotation: Any) -> str:
    """Say in words what values a type has."""
    said = list(_said(annotation))
    kind = next((item for item in said if isinstance(item, _Kind)), None)
    if kind is None:
        return "text"
    several = any(isinstance(item, _Each) for item in said)
    return f"{kind.one}, or a list of {kind.several}" if several else kind.one


# The types without bounds, by their words.
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
_adapter = functools.cache(lambda kind: TypeAdapter(_TYPES[kind]))


@dataclass(frozen=True)
class Parameter:
    """A parameter as it was declared.

    Parameters
    ----------
    name : str
        Its flat name.
    annotation : type
        The type that it was declared with, bounds included.
    meaning : str
        What it means.
    applies : str
        Which part of an experiment it applies to.
    default : object
        Its value where neither data set nor profile has one; `dataclasses.MISSING` if they always
        have.
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
        """The texts that it may be; none if it isn't text."""
        annotated = get_origin(self.annotation) is Annotated
        inner = get_args(self.annotation)[0] if annotated else self.annotation
        return get_args(inner) if get_origin(inner) is Literal else ()

    @cached_property
    def limits(self) -> str:
        """Its bounds in words; empty without any."""
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
        return f"{low.ge} or more" if low is not None else ""

    @property
    def values(self) -> str:
        """What it may be, in words: choices, or type and bounds."""
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
        """Return a value in this parameter's type; its bounds are not looked at.

        Parameters
        ----------
        name : str
            What an error calls the value.
        value : object
            The value as it was given.

        Raises
        ------
        ParameterError
            If the value isn't of this kind. No text is turned into a number here, and no bool.
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
            If it isn't.
        """
        try:
            return self._bounded.validate_python(value)
        except ValidationError as error:
            raise self.refusal(value, error.errors(include_url=False)[0]) from None

    def refusal(self, value: Any, found: Mapping[str, Any]) -> ParameterError:
        """Put what pydantic found about a value into one line."""
        if found["type"] == "literal_error" and isinstance(value, str):
            return unknown_name(self.name, value, self.choices)
        if found["type"] in _OUTSIDE:
            return ParameterError(
                f"{self.name} is {shown(found['input'])}; expected {self.limits}."
            )
        if found["type"] == "too_short":
            return ParameterError(f"{self.name} is {shown(value)}; expected at least one number.")
        return ParameterError(f"{self.name} is {shown(value)}; expected {self.kind}.")


def declared(config: type) -> dict[str, Parameter]:
    """Return the parameters among the fields of a configuration, by field."""
    return _declared(config)


@functools.cache
def _declared(config: type) -> dict[str, Parameter]:
    found = {}
    hints = get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        for help_ in _said(hint):
            if isinstance(help_, Help):
                name = help_.name or field.name
                found[field.name] = Parameter(name, hint, help_.text, help_.applies, field.default)
    return found


def filled(config: type[Config], values: Mapping[str, Any], **fields: Any) -> Config:
    """Make a configuration from values by flat name, and from what only it has, by field."""
    flat = {field: values[parameter.name] for field, parameter in declared(config).items()}
    return config(**{**flat, **fields})


def from_plain(config: type[Config], plain: object) -> Config:
    """Make a configuration from plain JSON data.

    Raises
    ------
    ParameterError
        For an unknown name, a missing one, a wrong type, or a value that makes no sense.
    """
    try:
        made: Config = TypeAdapter(config).validate_python(plain)
    except ValidationError as error:
        raise _refusal(config, plain, error) from None
    return made


def _refusal(config: Any, given: Any, error: ValidationError) -> ParameterError:
    """Put what pydantic found first in a configuration, or in one inside it, into one line."""
    found = error.errors(include_url=False)[0]
    cause = found.get("ctx", {}).get("error")
    if isinstance(cause, ParameterError):
        return cause
    steps = list(found["loc"])
    while steps:
        fields = [field.name for field in dataclasses.fields(config)]
        step = steps.pop(0)
        name = fields[step] if isinstance(step, int) and step < len(fields) else str(step)
        if name not in fields:
            return unknown_name("key", name, fields)
        if found["type"] == "missing" and not steps:
            return ParameterError(f"{config.__name__}.{name} is None; expected a value.")
        given = given[name]
        if name in declared(config):
            return declared(config)[name].refusal(given, found)
        config = get_type_hints(config)[name]
    names = ", ".join(field.name for field in dataclasses.fields(config))
    return ParameterError(f"{config.__name__} is {shown(given)}; expected the names {names}.")


def _described(config: type) -> str:
    """Write the section of a docstring that describes a configuration's fields."""
    lines = ["Attributes", "----------"]
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        parameter = declared(config).get(field.name)
        if parameter is None:
            lines.append(f"{field.name} : {hints[field.name].__name__}")
        else:
            text = parameter.meaning[:1].upper() + parameter.meaning[1:]
            lines += [f"{field.name} : {parameter.values}", f"    {text}."]
    return "\n".join(lines)


def _signature(config: type) -> inspect.Signature:
    """Return the signature of a configuration with plain types, as a reader wants to see it."""
    hints = get_type_hints(config)
    parameters = inspect.signature(config).parameters.values()
    return inspect.Signature([p.replace(annotation=hints[p.name]) for p in parameters])


if TYPE_CHECKING:
    # Type checkers know `dataclasses.replace` and `asdict` for the standard library's alone.
    from dataclasses import dataclass as configuration
else:

    def configuration(**options):
        """Make a class a dataclass whose values pydantic checks when one is made.

        Its docstring gets a section on its fields, from their declarations. Options are those of
        `dataclasses.dataclass`.

        Raises
        ------
        ParameterError
            By the class, when it is made from a value that is not as declared.
        """
        make = pydantic.dataclasses.dataclass(config=ConfigDict(extra="forbid"), **options)

        def decorate(class_):
            config = make(class_)
            checked = config.__init__

            @functools.wraps(checked)
            def __init__(self, *args, **fields):
                try:
                    checked(self, *args, **fields)
                except ValidationError as error:
                    names = (field.name for field in dataclasses.fields(config))
                    given = {**dict(zip(names, args, strict=False)), **fields}
                    raise _refusal(config, given, error) from None

            config.__init__ = __init__
            config.__doc__ = f"{inspect.cleandoc(config.__doc__)}\n\n{_described(config)}\n"
            config.__signature__ = _signature(config)
            return config

        return decorate
