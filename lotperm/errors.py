"""Exceptions and their exit codes.

A message is one line: what is wrong and where, what was expected and what was found, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LotpermError(Exception):
    """Base of all errors that are raised on purpose.

    Attributes
    ----------
    exit_code : int
        What the command line returns.
    """

    exit_code = 1


class ParameterError(LotpermError, ValueError):
    """A name, type or value that was given is not valid. Raised before anything trains."""

    exit_code = 2


class UnsupportedModelError(ParameterError):
    """The network contains an operation for which no permutation or stacking rule is known."""


class IntegrityError(LotpermError):
    """A file is corrupt, isn't what its checksum says, or has a format that isn't trusted."""

    exit_code = 3


class DivergedError(LotpermError):
    """The loss became NaN or infinite; no weights were updated by the offending step."""

    exit_code = 4


class StorageError(LotpermError):
    """The store or the data folder can't be read or written, or a data set is not there."""

    exit_code = 5


class OutOfMemoryError(LotpermError):
    """The experiment doesn't fit into the memory of the device."""

    exit_code = 6


class DeviceError(LotpermError):
    """The GPU failed or was lost. What was saved before is intact."""

    exit_code = 7


class RankLostError(LotpermError):
    """Another process of the same job ended, or no longer answers.

    See `lotperm.parallel.distributed`.
    """

    exit_code = 8


class PreemptedError(LotpermError):
    """The process was asked to stop (SIGTERM, SIGUSR2), or its time is used up.

    The state was saved after a step.
    """

    exit_code = 143


class SweepError(LotpermError):
    """Stages of a sweep failed at every try that they were allowed."""

    exit_code = 9


# Phrases in other libraries' messages, in exceptions of their own and in plain RuntimeErrors.
_MEMORY = (
    "can't allocate memory",
    "Cannot allocate memory",
    "std::bad_alloc",
    "can't start new thread",
)
_DEVICE = ("CUDA error", "CUDA driver error", "cuDNN error", "NCCL error", "HIP error")
_STORAGE = (
    "No space left on device",
    "Read-only file system",
    "Disk quota exceeded",
    "File too large",
)


def class_of(name: str, message: str) -> type[LotpermError] | None:
    """Find the class of this module for an exception that a process or a notebook reported.

    Parameters
    ----------
    name : str
        Name of the exception's class, for example ``"MemoryError"``.
    message : str
        The exception's text.

    Returns
    -------
    type or None
        The class of that name in this module; or the class for memory, device or storage, if the
        message is about one of these. None means a defect of the program.
    """
    own = globals().get(name)
    if isinstance(own, type) and issubclass(own, LotpermError):
        return own
    if "MemoryError" in name or any(words in message for words in _MEMORY):
        return OutOfMemoryError
    if any(words in message for words in _DEVICE):
        return DeviceError
    if any(words in message for words in _STORAGE):
        return StorageError
    return None


def shown(value: object) -> str:
    """Return a value as an error message shows it: its repr, on one line and cut short."""
    try:
        text = " ".join(repr(value).splitlines())
    except (ValueError, RecursionError):
        # An int with more digits than Python writes, or a list nested very deeply.
        return f"a {type(value).__name__} too long to be shown"
    return text if len(text) <= 100 else f"{text[:70]}… ({len(text):,} characters)"


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return a question whether the nearest valid name was meant, or "" if none is near."""
    near = difflib.get_close_matches(name[:100], sorted(valid), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> ParameterError:
    """Make the error for a name that doesn't exist, with the nearest valid one.

    Parameters
    ----------
    kind : str
        What the name was meant to be, e.g. ``"parameter"``.
    name : str
        The name as given.
    valid : Iterable[str]
        The names that exist.

    Returns
    -------
    ParameterError
        For the caller to raise.
    """
    names = sorted(valid)
    hint = did_you_mean(name, names)
    more = f", … ({len(names):,} in all)" if len(names) > 40 else ""
    shorter = names[:10] if more else names
    return ParameterError(f"unknown {kind} {shown(name)}.{hint} Valid: {', '.join(shorter)}{more}.")
