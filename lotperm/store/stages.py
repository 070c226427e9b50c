"""Content-addressed results: every stage of an experiment is computed once, checked whenever it is
read.

A finished stage is a folder ``<root>/stages/<name>-<first 16 hex digits of its key>/`` with a
``stage.json`` (config, small results, where and when it was computed, the sha256 of every file)
and any number of ``*.safetensors``. It is written next to its place and moved there by one rename,
so it is either whole or not there. Progress inside a stage is kept in the folder ``work``. Nothing
that is read from disk is used before its checksum was verified on the very bytes that are used;
what fails is moved aside to ``*.corrupt`` and computed again.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import filelock
from torch import Tensor

from lotperm.config.canonical import SCHEMA, sha256_json
from lotperm.errors import IntegrityError, ParameterError, StorageError
from lotperm.parallel import distributed
from lotperm.store.files import (
    JSON,
    MALFORMED,
    decode_tensors,
    encode_tensors,
    home,
    move_aside,
    read_bytes,
    require_equal,
    seal,
    storage_errors,
    sync_folder,
    unseal,
    write_synced,
)
from lotperm.store.provenance import maker
from lotperm.store.workspace import Workspace

_NAME = re.compile(r"[a-z][a-z0-9_]*")


_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.safetensors")


_log = logging.getLogger(__name__)


LEFT_OUT = "left-out.json"

"""In the folder of a stage that was packed without all of its files: the names of the others."""


@dataclass(frozen=True)
class StageResult:
    """What a stage's function returns.

    Attributes
    ----------
    results : Mapping[str, JSON]
        Small and plain (numbers, lists), kept in ``stage.json``.
    tensors : Mapping[str, Mapping[str, Tensor]]
        File name without suffix -> name -> tensor, one safetensors file each.
    meta : Mapping[str, JSON]
        Further notes about the computation (device, precision), not part of the result.
    """

    results: Mapping[str, JSON] = field(default_factory=dict)
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    meta: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A finished stage, verified when it was found.

    Attributes
    ----------
    results, config : dict[str, JSON]
        As given; meta : created (UTC), seconds, versions, host and what the function added.
    files : dict[str, JSON]
        File name -> {"sha256", "bytes"}, of those that are here.
    left_out : tuple[str, ...]
        Names of the files that were left behind when the stage was packed for another machine.
    """

    name: str
    key: str
    path: Path
    config: dict[str, JSON]
    results: dict[str, JSON]
    meta: dict[str, JSON]
    files: dict[str, JSON]
    left_out: tuple[str, ...] = ()

    def load(self, file: str) -> dict[str, Tensor]:
        """The CPU tensors of one file (name without suffix), verified again on the bytes that
        are used.
        """
        if f"{file}.safetensors" in self.left_out:
            raise StorageError(
                f"{self.path} has no {file}.safetensors: it was left out when the stage was packed. Unpack a pack that "
                "has it, or delete this folder to compute the stage again."
            )
        if f"{file}.safetensors" not in self.files:
            names = ", ".join(self.files) or "none"
            raise ParameterError(f"stage {self.name!r} has no file {file!r}. It has: {names}.")
        path = self.path / f"{file}.safetensors"
        data = read_bytes(path)
        require_equal(path, hashlib.sha256(data).hexdigest(), self.files[path.name]["sha256"])
        return decode_tensors(data, path, checked=True)[0]


class Store:
    """All finished stages under one folder. Safe for any number of processes at once.

    Parameters
    ----------
    root : Path
        The folder; made when something is first computed.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        # Of what runs: in the hours until a stage is written the files may be edited.
        self._maker = maker()

    @classmethod
    def default(cls) -> Store:
        """The store in `home()`."""
        return cls(home())

    def find(self, name: str, config: Mapping[str, JSON]) -> Stage | None:
        """The stage if it is finished and whole, else None. Changes nothing, takes no lock.

        Of several ranks (`lotperm.parallel.distributed`) all must ask, and all get what rank 0
        finds.
        """
        path, key = self._locate(name, config)

        def look() -> Stage | None:
            try:
                stage = load_stage(path, key)
            except (IntegrityError, StorageError):
                return None
            if stage is not None:
                # A process killed between the two leaves progress of a stage that is finished.
                Workspace(self.root / "work" / path.name, key).clear()
            return stage

        return distributed.once(look)

    def exists(self, name: str, config: Mapping[str, JSON]) -> bool:
        """Whether there is a folder of the finished stage; unlike `find`, nothing in it is
        read.
        """
        return self._locate(name, config)[0].exists()

    def stage(
        self, name: str, config: Mapping[str, JSON], compute: Callable[[Workspace], StageResult]
    ) -> Stage:
        """Load a stage, or compute it once, whoever else asks for it at the same time.

        In a job of several ranks (`lotperm.parallel.distributed`) all of them call this and
        `compute`; rank 0 alone looks for the stage, holds its lock and writes it.

        Parameters
        ----------
        name : str
            The kind of stage: lower case, digits, ``_``.
        config : Mapping[str, JSON]
            All that its result depends on, plain JSON, the keys of its input stages included.
        compute : Callable[[Workspace], StageResult]
            Called with a `Workspace` if the stage isn't there; resumes from its checkpoint.

        Raises
        ------
        StorageError
            If it must be computed and the folder can't be written: before `compute` is called.
        """
        if (found := self.find(name, config)) is not None:
            return found
        path, key = self._locate(name, config)

        def look() -> Stage | None:
            try:
                return load_stage(path, key)
            except IntegrityError as error:
                move_aside(path, f"{error} Stage {name!r} is computed again")
                return None

        with self.lock(name, key):
            if (found := distributed.once(look)) is not None:
                return found
            workspace = Workspace(self.root / "work" / path.name, key, self._maker)
            result = compute(workspace)

            def write() -> Stage | None:
                meta = {**_provenance(workspace, self._maker), **result.meta}
                _write_stage(path, name, key, dict(config), result, meta)
                workspace.clear()
                return load_stage(path, key)

            stage = distributed.once(write)
        if stage is None:
            raise StorageError(
                f"{path} vanished while it was written. Does another program delete the store?"
            )
        return stage

    def load(self, name: str, key: str) -> Stage | None:
        """The stage of a key if it is finished and whole, else None."""
        with contextlib.suppress(IntegrityError, StorageError):
            return load_stage(self.folder(name, key), key)
        return None

    def stages(self) -> Iterator[Stage]:
        """All finished stages that are whole, sorted by folder."""
        for file in sorted((self.root / "stages").glob("[!.]*/stage.json")):
            with contextlib.suppress(IntegrityError, StorageError):
                name, key = identity(file)
                if file.parent == self.folder(name, key) and (
                    stage := load_stage(file.parent, key)
                ):
                    yield stage

    def workspace(self, name: str, key: str) -> Workspace:
        """Where the progress of a stage is kept; only the one who holds its lock may write
        there.
        """
        return Workspace(self.root / "work" / self.folder(name, key).name, key)

    def _locate(self, name: str, config: Mapping[str, JSON]) -> tuple[Path, str]:
        if not _NAME.fullmatch(name):
            raise ParameterError(f"stage name {name!r} must be lower case letters, digits and '_'.")
        key = stage_key(name, config)
        return self.folder(name, key), key

    def folder(self, name: str, key: str) -> Path:
        """Return where a stage is, or would be, once it is finished."""
        return self.root / "stages" / f"{name}-{key[:16]}"

    @contextlib.contextmanager
    def lock(self, name: str, key: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of one stage, on rank 0; the system frees it when its owner dies.

        Yields False if it isn't to be had and one doesn't want to `wait`.
        """
        name = self.folder(name, key).name
        lock = filelock.FileLock(self.root / "locks" / f"{name}.lock")

        def acquire(timeout: float) -> bool:
            with storage_errors("write to", self.root), contextlib.suppress(filelock.Timeout):
                lock.acquire(timeout=timeout)
            return lock.is_locked

        def begin() -> bool:
            probe = self.root / "stages" / f".{name}.probe"
            with storage_errors("write to", self.root):
                for folder in ("stages", "work", "locks"):
                    (self.root / folder).mkdir(parents=True, exist_ok=True)
                # Only writing tells whether one can write; it must not come out after hours of
                # training.
                probe.touch()
                probe.unlink(missing_ok=True)
            free = acquire(0)
            if not free and wait:
                _log.info("waiting for another process that computes %s", name)
            return free

        # Asked for again each minute, so that the other ranks' patience doesn't end.
        held = distributed.once(begin)
        if not held and not wait:
            yield False
            return
        while not held:
            held = distributed.once(lambda: acquire(60))
        try:
            yield True
        finally:
            lock.release()


def stage_key(name: str, config: Mapping[str, JSON]) -> str:
    """The key (64 hex digits) of a stage: what other stages put into their config to depend on
    it.
    """
    return sha256_json({"stage": name, "schema": SCHEMA, "config": dict(config)})


def identity(file: Path) -> tuple[str, str]:
    """Name and key of the stage that a ``stage.json`` describes: the key is that of its config."""
    try:
        content = json.loads(file.read_bytes())
        name, key = content["stage"], stage_key(content["stage"], content["config"])
        if not _NAME.fullmatch(name) or not all(_FILE.fullmatch(f) for f in content["files"]):
            raise ValueError("no such names")
    except (OSError, ParameterError, *MALFORMED) as error:
        raise IntegrityError(f"{file} is corrupt or not of a stage: {error!r}.") from error
    return name, key


def _provenance(workspace: Workspace, maker: Mapping[str, JSON]) -> dict[str, JSON]:
    found: dict[str, JSON] = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seconds": round(workspace.seconds, 3),
        **maker,
    }
    if workspace.earlier:
        found["earlier"] = workspace.earlier
    return found


def _write_stage(
    path: Path,
    name: str,
    key: str,
    config: dict[str, JSON],
    result: StageResult,
    meta: dict[str, JSON],
) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with storage_errors("write", path):
            # The lock is ours: a folder of that name is what a killed process left.
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            files = {}
            for file, tensors in sorted(result.tensors.items()):
                if not re.fullmatch(r"[A-Za-z0-9_.-]+", file):
                    raise ParameterError(
                        f"file name {file!r} of {name!r} must be letters, digits, '_.-'."
                    )
                data = encode_tensors(tensors, {})
                write_synced(temporary / f"{file}.safetensors", data)
                files[f"{file}.safetensors"] = {
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "bytes": len(data),
                }
            content = {
                "schema": SCHEMA,
                "stage": name,
                "key": key,
                "config": config,
                "results": dict(result.results),
                "meta": meta,
                "files": files,
            }
            write_synced(temporary / "stage.json", seal(content))
            sync_folder(temporary)
            os.rename(temporary, path)
            sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def load_stage(path: Path, key: str) -> Stage | None:
    """The stage in a folder, every file verified; None if there is no such folder."""
    if not path.exists():
        return None
    file = path / "stage.json"
    try:
        content = unseal(file.read_bytes(), file)
        require_equal(file, content["key"], key)
        left_out = _left_out(path)
        for name, expected in list(content["files"].items()):
            if name in left_out:
                del content["files"][name]
                continue
            with open(path / name, "rb") as stream:
                require_equal(
                    path / name,
                    hashlib.file_digest(stream, "sha256").hexdigest(),
                    expected["sha256"],
                )
    except (FileNotFoundError, NotADirectoryError, *MALFORMED) as error:
        if not path.exists():  # another process has just moved it aside
            return None
        raise IntegrityError(f"{file} is corrupt or incomplete: {error!r}.") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}.") from error
    return Stage(
        content["stage"],
        key,
        path,
        content["config"],
        content["results"],
        content["meta"],
        content["files"],
        left_out,
    )


def _left_out(path: Path) -> tuple[str, ...]:
    """The files that a stage is allowed to lack; one that came since the list was written isn't
    missing.
    """
    if not (path / LEFT_OUT).exists():
        return ()
    names = json.loads((path / LEFT_OUT).read_bytes())
    return tuple(name for name in names if not (path / name).exists())
