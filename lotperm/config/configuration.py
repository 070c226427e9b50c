"""Classes of parameters: dataclasses that pydantic checks and whose fields can be read as data.

The field of a parameter declares everything about it::

    momentum: Annotated[Number, Field(ge=0, lt=1), Help("momentum of SGD", DENSE)] = 0.9

`declared` returns it as a `lotperm.config.fields.Parameter`, which the command line, notebooks,
campaign files and the book show and check. Errors of pydantic become one-line
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
    """Return the parameters of a configuration, by the names of their fields."""
    return _declared(config)


@functools.cache
def _declared(config: type) -> dict[str, Parameter]:
    found = {}
    # Annotations are strings in these modules; only this resolves them, with `Help` and bounds.
    hints = get_type_hints(config, include_extras=True)
    for field in dataclasses.fields(config):
        hint = hints[field.name]
        for help_ in getattr(hint, "__metadata__", ()):
            if isinstance(help_, Help):
                name = help_.name or field.name
                found[field.name] = Parameter(name, hint, help_.text, help_.applies, field.default)
    return found


def filled(config: type[Config], values: Mapping[str, Any], **fields: Any) -> Config:
    """Make a configuration from values by flat name, and from other fields by their own name."""
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
    """Turn pydantic's first error about a configuration, or one nested in it, into one line.

    An unknown name is reported before a missing one: it may be the missing name, misspelt.
    """
    errors = error.errors(include_url=False)
    unknown = [e for e in errors if e["type"] in ("unexpected_keyword_argument", "extra_forbidden")]
    found = (unknown or errors)[0]
    cause = found.get("ctx", {}).get("error")
    # A `__post_init__` raised it, and it is one line already.
    if isinstance(cause, ParameterError):
        return cause
    # `loc` is a path of field names through nested configurations; positional arguments have
    # numbers in it.
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
    """Return the signature of a configuration with plain types, for readers."""
    hints = get_type_hints(config)
    parameters = inspect.signature(config).parameters.values()
    return inspect.Signature([p.replace(annotation=hints[p.name]) for p in parameters])


if TYPE_CHECKING:
    # Type checkers accept only the standard library's dataclasses in `replace` and `asdict`.
    from dataclasses import dataclass as configuration
else:

    def configuration(**options):
        """Turn a class into a dataclass whose values pydantic checks.

        A section about its fields, taken from their declarations, is added to its docstring.
        Options are those of `dataclasses.dataclass`.

        Raises
        ------
        ParameterError
            Raised by the decorated class when a value isn't as its field declares.
        """
        # An undeclared name is a mistake, and would otherwise be dropped silently.
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
                    # Without the cause: pydantic's report takes many lines to say the same.
                    raise _refusal(config, given, error) from None

            config.__init__ = __init__
            config.__doc__ = f"{inspect.cleandoc(config.__doc__)}\n\n{_described(config)}\n"
            # Pydantic's own signature shows types with all their bounds and validators.
            config.__signature__ = _signature(config)
            return config

        return decorate
