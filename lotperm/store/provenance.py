"""Provenance of a stage: the versions, the machine and the package's own sources."""

from __future__ import annotations

import datetime
import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from lotperm.store.files import JSON
from lotperm.store.workspace import Workspace

_PACKAGE = Path(__file__).parents[1]
# Scripts and presets affect results just as modules do.
_SOURCES = (".py", ".js", ".toml")


def source_hash() -> str:
    """Hash paths and contents of the package's modules, scripts and presets.

    Returns
    -------
    str
        SHA-256, 64 hex digits.
    """
    digest = hashlib.sha256()
    # Sorted by path, and each file with name and size before its bytes: no two packages give the
    # same stream of bytes.
    for path in sorted(_PACKAGE.rglob("*")):
        if path.suffix in _SOURCES:
            name = path.relative_to(_PACKAGE).as_posix()
            digest.update(f"{name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def maker() -> dict[str, JSON]:
    """Describe what this process computes with: versions, sources, machine."""
    return {
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "source": source_hash(),
        "machine": platform.machine(),
    }


def stage_meta(workspace: Workspace, maker: Mapping[str, JSON]) -> dict[str, JSON]:
    """Return the notes about the computation of a stage that has just been finished.

    Parameters
    ----------
    workspace : Workspace
        The stage's workspace, which has the time it took and the makers of its earlier parts.
    maker : Mapping[str, JSON]
        The maker of the last part, as `maker()` returned it when that part began.

    Returns
    -------
    dict[str, JSON]
        ``created`` (UTC), ``seconds``, the entries of the maker, and ``earlier`` makers, if any.
    """
    meta: dict[str, JSON] = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(workspace.seconds, 3),
        **maker,
    }
    if workspace.earlier:
        meta["earlier"] = workspace.earlier
    return meta
