"""Options that several commands share, and how their texts become values."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from lotperm.config.parameters import PARAMETERS
from lotperm.config.profiles import current_profile
from lotperm.errors import ParameterError, shown, unknown_name

_DEVICES = ("auto", "cpu", "cuda")

# Declared once, so that an option has one name and one help in all commands.
ParameterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter",
        "-p",
        metavar="NAME=VALUE",
        help="Set a parameter; see `lotperm parameters`. May be repeated.",
    ),
]
ProfileOption = Annotated[
    str,
    typer.Option(
        help=f"Size of the experiment: {PARAMETERS['profile'].values}.", callback=current_profile
    ),
]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is one.")]
CompileOption = Annotated[
    bool, typer.Option(help="Compile the training step; pays off for long runs.")
]
MembersOption = Annotated[int | None, typer.Option(min=1, help="Most networks to train at once.")]
CampaignArgument = Annotated[
    Path, typer.Argument(metavar="FILE", help="A campaign, as .yaml or .json.")
]
RecordOption = Annotated[
    Path | None,
    typer.Option("--out", help="Folder to record in; default: the campaign's, book/results."),
]
OnlyOption = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="NAME", help="Only this entry. May be repeated."),
]


def parse_pairs(pairs: Sequence[str] | None, option: str = "-p") -> dict[str, Any]:
    """Read the texts ``NAME=VALUE`` of a repeated option.

    Parameters
    ----------
    pairs : sequence of str or None
        The texts, or None if the option was not given.
    option : str, optional
        Name of the option, for the error.

    Returns
    -------
    dict[str, Any]
        Values by name: a Python literal (``0.9``, ``[0, 1]``, ``None``), or else the text itself.

    Raises
    ------
    ParameterError
        If a text has another form, or a name is given twice.
    """
    found: dict[str, Any] = {}
    for pair in pairs or []:
        name, equals, text = pair.partition("=")
        # Names of sbatch's options have dashes.
        if not equals or not name.replace("-", "_").isidentifier():
            raise ParameterError(
                f"{option} {shown(pair)} is not of the form NAME=VALUE, for example "
                "-p sparsity=0.9."
            )
        if name in found:
            raise ParameterError(f"parameter {shown(name)} is given twice.")
        found[name] = _literal(text)
    return found


def _literal(text: str) -> Any:
    """Read a Python literal; text that is none stays text, and nothing in it is run."""
    try:
        with warnings.catch_warnings():
            # Python warns of odd escapes, also in what turns out to be only text.
            warnings.simplefilter("ignore")
            return ast.literal_eval(text)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return text


def check_device_name(name: str) -> None:
    """Raise `ParameterError` if no device has this name; it need not be in this machine."""
    if str(name) not in _DEVICES:
        raise unknown_name("device", str(name), _DEVICES)


def resolve_device(name: str) -> str:
    """Return "cpu" or "cuda" for what was asked for; "auto" is cuda where there is one.

    Raises
    ------
    ParameterError
        If there is no such device, here or at all.
    """
    check_device_name(name)
    if name == "auto":
        # "auto" never fails: a machine without a GPU is no error.
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device is 'cuda', but PyTorch finds none here. Use --device cpu.")
    return name
