"""Classes of parameters: dataclasses whose fields are checked by pydantic and read back as data.

A field that is a parameter says all there is to say about it::

    momentum: Annotated[Number, Field(ge=0, lt=1), Help("momentum of SGD", DENSE)] = 0.9

`declared` reads it back as a `lotperm.config.fields.Parameter`, which the command line, the
notebooks, the campaign files and the book show and check. What pydantic refuses becomes a one-line
`lotperm.errors.ParameterError`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import pydantic.dataclasses
from pydantic import ConfigDict, TypeAdapter, ValidationError

from lotperm.config.fields import Help, Parameter
from lotperm.errors import ParameterError, shown, unknown_name

__all__ = ["configuration", "declared", "filled", "from_plain"]

Config = TypeVar("Config")


def declared(config: type) -> dict[str, Parameter]:
    """Return the parameters among the fields of a configuration, by field."""
    return _declared(config)


@functools.cache
def _declared(config: type) -> dict[str, Parameter]:
    found = {}
    hints = get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        for help_ in getattr(hint, "__metadata__", ()):
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
    """Put what pydantic found first in a configuration, or in one inside it, into one line.

    A name that isn't known comes before one that is missing: it may be that one, misspelt.
    """
    errors = error.errors(include_url=False)
    unknown = [e for e in errors if e["type"] in ("unexpected_keyword_argument", "extra_forbidden")]
    found = (unknown or errors)[0]
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
