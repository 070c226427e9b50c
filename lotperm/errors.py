"""Exceptions with exit codes: every error is one line that says what, where, expected and got, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LotpermError(Exception):
    """Base of all errors that lotperm raises on purpose; `exit_code` is what the command line returns."""

    exit_code = 1


class ParameterError(LotpermError, ValueError):
    """A name, type or value that was given is not valid. Raised before anything trains."""

    exit_code = 2


class UnsupportedModelError(ParameterError):
    """The network contains an operation for which no permutation or stacking rule is known."""


class IntegrityError(LotpermError):
    """A file is corrupt, is not what its checksum says, or comes in a format that is not trusted."""

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


class RankLostError(LotpermError):
    """Another process of a job with several (see `lotperm.distributed`) ended or doesn't answer any more."""

    exit_code = 8


class PreemptedError(LotpermError):
    """The process was asked to stop (SIGTERM, SIGUSR2), or its time is used up; the state was saved after a step."""

    exit_code = 143


class SweepError(LotpermError):
    """Stages of a sweep failed, each as often as it may be tried."""

    exit_code = 7


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> ParameterError:
    """An error for a name that doesn't exist, with the nearest valid one.

    Parameters
    ----------
    kind : what the name was meant to be, e.g. ``"parameter"``
    name : the name as given
    valid : the names that exist

    Returns
    -------
    ParameterError
        For the caller to raise.
    """
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return ParameterError(f"unknown {kind} {name!r}.{hint} Valid: {', '.join(names)}.")
