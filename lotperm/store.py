"""Content-addressed results: every stage of an experiment is computed once, checked whenever it is read.

A finished stage is a folder ``<root>/stages/<name>-<first 16 hex digits of its key>/`` with a
``stage.json`` (config, small results, where and when it was computed, the sha256 of every file) and
any number of ``*.safetensors``. It is written next to its place and moved there by one rename, so it
is either whole or not there. Progress inside a stage is kept in the folder ``work``. Nothing that is
read from disk is used before its checksum was verified on the very bytes that are used; what fails
is moved aside to ``*.corrupt`` and computed again.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import filelock
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from lotperm import distributed
from lotperm.config import SCHEMA, canonical_json, sha256_json
from lotperm.errors import IntegrityError, ParameterError, StorageError, shown

MAX_HEADER_BYTES = 100_000_000
_BLANK = b"0" * 64
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin")
_MALFORMED = (ValueError, KeyError, AttributeError, TypeError, RecursionError, safetensors.SafetensorError)
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*\.safetensors")
_log = logging.getLogger(__name__)

LEFT_OUT = "left-out.json"
"""In the folder of a stage that was packed without all of its files: the names of the others."""

JSON = Any
"""None, bool, int, finite float, str, and lists and string-keyed dicts of these."""


# --- files ------------------------------------------------------------------------------------------


def home() -> Path:
    """The folder that holds all results: ``$LOTPERM_HOME``, else ``.lotperm`` in the working directory."""
    return Path(os.environ.get("LOTPERM_HOME") or ".lotperm")


@contextlib.contextmanager
def _storage_errors(action: str, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot {action} {path}: {error.strerror or error}. Nothing that was finished is lost: make room or "
            "choose a writable folder (LOTPERM_HOME), then run again."
        ) from error


def _write_synced(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that `path` holds, at every instant, either its old content or all of the new.

    Missing parent folders are made. Raises `StorageError` if the disk is full or read-only.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    with _storage_errors("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _write_synced(temporary, data)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)


def move_aside(path: Path, reason: str) -> Path:
    """Rename a bad file or folder to a unique ``*.corrupt``, log a warning, and return the new path."""
    aside = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.corrupt")
    with _storage_errors("move aside", path):
        os.rename(path, aside)
    _log.warning("%s (moved aside to %s)", reason, aside.name)
    return aside


def _read(path: Path) -> bytes:
    """All bytes of a safetensors file, read once; absurd headers and pickles are refused before that."""
    try:
        with open(path, "rb") as file:
            start, size = file.read(9), os.fstat(file.fileno()).st_size
            length = int.from_bytes(start[:8], "little")
            if start[8:] == b"{" and length <= min(size - 8, MAX_HEADER_BYTES):
                return start + file.read()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}. Check the path.") from error
    if path.suffix in _PICKLES or start[:1] == b"\x80" or start[:2] == b"PK":
        raise IntegrityError(
            f"{path} looks like a pickle, which can run code when it is loaded: it was not opened. Convert it: "
            "lotperm convert WEIGHTS.pt WEIGHTS.safetensors"
        )
    raise IntegrityError(
        f"{path} is corrupt or not a safetensors file: its header claims {length} bytes, the file has {size} and "
        f"at most {MAX_HEADER_BYTES} are allowed. Fetch or compute it again."
    )


def _encode(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Safetensors bytes, equal for equal input, with the sha256 of the file (digest blanked) in the metadata."""
    copies = {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in tensors.items()}
    plain = safetensors.torch.save(copies)
    end = 8 + int.from_bytes(plain[:8], "little")
    # The library writes metadata in random order; a rerun must give the same bytes.
    notes = {"sha256": _BLANK.decode(), "lotperm": str(SCHEMA), **dict(sorted(metadata.items()))}
    header = json.dumps({"__metadata__": notes, **json.loads(plain[8:end])}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    blank = b"".join((len(header).to_bytes(8, "little"), header, memoryview(plain)[end:]))
    return blank.replace(_BLANK, hashlib.sha256(blank).hexdigest().encode(), 1)


def _no_name_twice(pairs: list[tuple[str, JSON]]) -> dict[str, JSON]:
    """Readers differ in which of two equal names they take."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name stands in the header twice")
    return dict(pairs)


def _decode(data: bytes, path: Path, *, checked: bool) -> tuple[dict[str, Tensor], dict[str, str]]:
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        metadata = json.loads(data[8:end], object_pairs_hook=_no_name_twice).get("__metadata__", {})
        # Two marks, so that no single flipped bit turns a checked file into one without a checksum.
        if checked or "sha256" in metadata or "lotperm" in metadata:
            claimed = metadata["sha256"]
            digest = hashlib.sha256(data[:end].replace(claimed.encode(), _BLANK, 1))
            digest.update(memoryview(data)[end:])
            if digest.hexdigest() != claimed:
                raise IntegrityError(f"{path} is corrupt: sha256 {digest.hexdigest()}, expected {claimed}.")
        loaded = safetensors.torch.load(data)
    except _MALFORMED as error:
        raise IntegrityError(f"{path} is corrupt or not a safetensors file: {error!r}.") from error
    # safetensors returns them in an order that varies from process to process.
    tensors = {name: loaded[name] for name in sorted(loaded)}
    return tensors, {name: text for name, text in metadata.items() if name not in ("sha256", "lotperm")}


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors (any device, any strides) atomically as safetensors with a checksum in the metadata.

    Parameters
    ----------
    path : where, usually ``*.safetensors``
    tensors : name -> tensor; bool, integers, float16/32/64 and bfloat16
    metadata : text notes; the names ``sha256`` and ``lotperm`` are taken

    Raises
    ------
    StorageError
        If the disk is full or read-only; an older file at `path` is then untouched.
    """
    write_atomic(path, _encode(tensors, metadata or {}))


def load_tensors(path: Path, *, checked: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file into CPU tensors.

    Parameters
    ----------
    path : the file
    checked : whether a checksum must be there. If one is there, it must match in any case.

    Returns
    -------
    tensors, metadata

    Raises
    ------
    IntegrityError
        If the file is corrupt, is a pickle, or its header is absurd.
    StorageError
        If it can't be read.
    """
    return _decode(_read(path), path, checked=checked)


def seal(content: Mapping[str, JSON]) -> bytes:
    """JSON of some content, equal for equal content, with the sha256 of its canonical form in it.

    Raises
    ------
    ParameterError
        If it holds NaN, an infinity or anything that isn't plain JSON data.
    """
    sealed = {"sha256": sha256_json(dict(content)), **content}
    return (json.dumps(sealed, sort_keys=True, indent=1) + "\n").encode()


def unseal(data: bytes, path: Path) -> dict[str, JSON]:
    """The content of bytes that `seal` made, verified.

    Parameters
    ----------
    data : all of the file
    path : where they come from, for the error

    Raises
    ------
    IntegrityError
        If they aren't what `seal` wrote, to the last byte.
    """
    try:
        content = json.loads(data)
        claimed = content.pop("sha256")
        _compare(path, sha256_json(content), claimed)
        # Byte for byte, so that not even a space can differ.
        _compare(path, hashlib.sha256(data).hexdigest(), hashlib.sha256(seal(content)).hexdigest())
    except _MALFORMED as error:
        raise IntegrityError(
            f"{path} is corrupt, or was written without a checksum: {shown(error)}."
        ) from error
    return dict(content)


# --- stages -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StageResult:
    """What a stage's function returns.

    results : small and plain (numbers, lists), kept in ``stage.json``
    tensors : file name without suffix -> name -> tensor, one safetensors file each
    meta : further notes about the computation (device, precision), not part of the result
    """

    results: Mapping[str, JSON] = field(default_factory=dict)
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    meta: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """A finished stage, verified when it was found.

    results, config : as given; meta : created (UTC), seconds, versions, host and what the function added
    files : file name -> {"sha256", "bytes"}, of those that are here
    left_out : names of the files that were left behind when the stage was packed for another machine
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
        """The CPU tensors of one file (name without suffix), verified again on the bytes that are used."""
        if f"{file}.safetensors" in self.left_out:
            raise StorageError(
                f"{self.path} has no {file}.safetensors: it was left out when the stage was packed. Unpack a pack that "
                "has it, or delete this folder to compute the stage again."
            )
        if f"{file}.safetensors" not in self.files:
            names = ", ".join(self.files) or "none"
            raise ParameterError(f"stage {self.name!r} has no file {file!r}. It has: {names}.")
        path = self.path / f"{file}.safetensors"
        data = _read(path)
        _compare(path, hashlib.sha256(data).hexdigest(), self.files[path.name]["sha256"])
        return _decode(data, path, checked=True)[0]


class Workspace:
    """Progress of a stage that is being computed: its last two good checkpoints.

    Parameters
    ----------
    path : the folder of this stage's progress
    key : the stage's key; a checkpoint of another key is never used
    maker : what computes it here: versions, sources (plain JSON); checkpoints hand it on

    Attributes
    ----------
    earlier : makers, other than `maker`, of what came before the checkpoint that was resumed from
    """

    def __init__(self, path: Path, key: str, maker: Mapping[str, JSON] | None = None) -> None:
        self.path = path
        self.earlier: list[JSON] = []
        self._key, self._maker = key, dict(maker or {})
        self._started = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds spent on this stage, those before the checkpoint that it resumed from included."""
        return time.monotonic() - self._started

    def _checkpoints(self) -> list[Path]:
        return sorted(self.path.glob("checkpoint-*.safetensors"))

    def checkpoint(self, tensors: Mapping[str, Tensor], info: JSON) -> None:
        """Save the state atomically. The one before is kept, older ones are deleted.

        Parameters
        ----------
        tensors : name -> tensor, on any device
        info : plain JSON: counters, random states as numbers
        """
        older = self._checkpoints()
        for path in self.path.glob(".*.tmp"):  # left by a killed process: the lock is ours
            path.unlink(missing_ok=True)
        makers = canonical_json([*self.earlier, self._maker])
        notes = {
            "key": self._key,
            "info": canonical_json(info),
            "seconds": repr(self.seconds),
            "makers": makers,
        }
        save_tensors(self.next(), tensors, notes)
        with _storage_errors("tidy up", self.path):
            for path in older[:-1]:
                path.unlink(missing_ok=True)

    def next(self) -> Path:
        """The file of the next checkpoint."""
        older = self._checkpoints()
        number = int(older[-1].stem.removeprefix("checkpoint-")) + 1 if older else 0
        return self.path / f"checkpoint-{number:08d}.safetensors"

    def newest(self) -> bytes | None:
        """The bytes of the newest good checkpoint, or None; its owner may be writing the next one."""
        for _ in range(3):
            paths = self._checkpoints()
            for path in reversed(paths):
                with contextlib.suppress(IntegrityError, StorageError, *_MALFORMED):
                    data = _read(path)
                    if _decode(data, path, checked=True)[1]["key"] == self._key:
                        return data
            if paths == self._checkpoints():
                break
        return None

    def peek(self) -> JSON | None:
        """What the newest checkpoint says of itself (its info), for reports: neither verified nor changed."""
        for path in reversed(self._checkpoints()):
            with contextlib.suppress(OSError, *_MALFORMED), open(path, "rb") as file:
                length = min(int.from_bytes(file.read(8), "little"), MAX_HEADER_BYTES)
                return json.loads(json.loads(file.read(length))["__metadata__"]["info"])
        return None

    def latest(self) -> tuple[dict[str, Tensor], JSON] | None:
        """The newest good checkpoint as (tensors, info), or None. Corrupt ones are moved aside."""
        for path in reversed(self._checkpoints()):
            try:
                tensors, notes = load_tensors(path, checked=True)
                _compare(path, notes["key"], self._key)
            except IntegrityError as error:
                move_aside(path, f"{error} The checkpoint before it is used")
                continue
            self._started = time.monotonic() - float(notes["seconds"])
            self.earlier = [maker for maker in json.loads(notes.get("makers", "[]")) if maker != self._maker]
            return tensors, json.loads(notes["info"])
        return None

    def clear(self) -> None:
        """Delete the checkpoints; files that were moved aside stay."""
        with contextlib.suppress(OSError):
            for path in (*self._checkpoints(), *self.path.glob(".*.tmp")):
                path.unlink(missing_ok=True)
            self.path.rmdir()


class Store:
    """All finished stages under one folder. Safe for any number of processes at once.

    Parameters
    ----------
    root : the folder; made when something is first computed
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        # Of what runs: in the hours until a stage is written the files may be edited.
        self._maker = _maker()

    @classmethod
    def default(cls) -> Store:
        """The store in `home()`."""
        return cls(home())

    def find(self, name: str, config: Mapping[str, JSON]) -> Stage | None:
        """The stage if it is finished and whole, else None. Changes nothing, takes no lock.

        Of several ranks (`lotperm.distributed`) all must ask, and all get what rank 0 finds.
        """
        path, key = self._locate(name, config)

        def look() -> Stage | None:
            try:
                stage = _load_stage(path, key)
            except (IntegrityError, StorageError):
                return None
            if stage is not None:
                # A process killed between the two leaves progress of a stage that is finished.
                Workspace(self.root / "work" / path.name, key).clear()
            return stage

        return distributed.once(look)

    def exists(self, name: str, config: Mapping[str, JSON]) -> bool:
        """Whether there is a folder of the finished stage; unlike `find`, nothing in it is read."""
        return self._locate(name, config)[0].exists()

    def stage(
        self, name: str, config: Mapping[str, JSON], compute: Callable[[Workspace], StageResult]
    ) -> Stage:
        """Load a stage, or compute it once, whoever else asks for it at the same time.

        In a job of several ranks (`lotperm.distributed`) all of them call this and `compute`; rank 0 alone looks for
        the stage, holds its lock and writes it.

        Parameters
        ----------
        name : the kind of stage: lower case, digits, ``_``
        config : all that its result depends on, plain JSON, the keys of its input stages included
        compute : called with a `Workspace` if the stage isn't there; resumes from its checkpoint

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
                return _load_stage(path, key)
            except IntegrityError as error:
                move_aside(path, f"{error} Stage {name!r} is computed again")
                return None

        with self._lock(path.name):
            if (found := distributed.once(look)) is not None:
                return found
            workspace = Workspace(self.root / "work" / path.name, key, self._maker)
            result = compute(workspace)

            def write() -> Stage | None:
                meta = {**_provenance(workspace, self._maker), **result.meta}
                _write_stage(path, name, key, dict(config), result, meta)
                workspace.clear()
                return _load_stage(path, key)

            stage = distributed.once(write)
        if stage is None:
            raise StorageError(
                f"{path} vanished while it was written. Does another program delete the store?"
            )
        return stage

    def load(self, name: str, key: str) -> Stage | None:
        """The stage of a key if it is finished and whole, else None."""
        with contextlib.suppress(IntegrityError, StorageError):
            return _load_stage(self._folder(name, key), key)
        return None

    def stages(self) -> Iterator[Stage]:
        """All finished stages that are whole, sorted by folder."""
        for file in sorted((self.root / "stages").glob("[!.]*/stage.json")):
            with contextlib.suppress(IntegrityError, StorageError):
                name, key = _identity(file)
                if file.parent == self._folder(name, key) and (stage := _load_stage(file.parent, key)):
                    yield stage

    def workspace(self, name: str, key: str) -> Workspace:
        """Where the progress of a stage is kept; only the one who holds its lock may write there."""
        return Workspace(self.root / "work" / self._folder(name, key).name, key)

    def adopt(self, folder: Path) -> str:
        """Take over a finished stage that was computed elsewhere; one that is here and whole is never replaced.

        Parameters
        ----------
        folder : the stage's files, in this store's file system; moved, or left where it is. Files that its
            ``stage.json`` names and that aren't there must be listed in its ``left-out.json``

        Returns
        -------
        str
            "added"; "completed", if the one that is here lacked files; "present"; or "busy": a process computes it.

        Raises
        ------
        IntegrityError
            If a file isn't what ``stage.json`` says, or that isn't what its key says: nothing was taken over.
        """
        name, key = _identity(folder / "stage.json")
        path, new = self._folder(name, key), _load_stage(folder, key)
        assert new is not None
        with self._lock(path.name, wait=False) as mine, _storage_errors("write", path):
            if not mine:
                return "busy"
            try:
                old = _load_stage(path, key)
            except IntegrityError as error:
                move_aside(path, f"{error} It is replaced")
                old = None
            if old is None:
                os.rename(folder, path)
                _sync_folder(path.parent)
                self.workspace(name, key).clear()
                return "added"
            # The same stage computed on another machine may differ in its last bits: the two aren't mixed.
            same = (folder / "stage.json").read_bytes() == (path / "stage.json").read_bytes()
            wanted = [file for file in new.files if file in old.left_out] if same else []
            for file in wanted:
                os.replace(folder / file, path / file)
            if left := [file for file in old.left_out if file not in wanted]:
                write_atomic(path / LEFT_OUT, canonical_json(left).encode())
            else:
                (path / LEFT_OUT).unlink(missing_ok=True)
            return "completed" if wanted else "present"

    def adopt_checkpoint(self, name: str, key: str, data: bytes) -> str:
        """Take over the progress of a stage that another machine began, if it is further than what is here.

        Parameters
        ----------
        name, key : of the stage
        data : a checkpoint file

        Returns
        -------
        str
            As `adopt`.

        Raises
        ------
        IntegrityError
            If it is corrupt or another stage's.
        """
        path, workspace = self._folder(name, key), self.workspace(name, key)
        where = workspace.path / "checkpoint"
        try:
            notes = _decode(data, where, checked=True)[1]
            _compare(where, notes["key"], key)
            info = json.loads(notes["info"])
        except _MALFORMED as error:
            raise IntegrityError(f"{where} is corrupt or not a checkpoint: {error!r}.") from error
        with self._lock(path.name, wait=False) as mine:
            if not mine:
                return "busy"
            with contextlib.suppress(IntegrityError):
                if _load_stage(path, key) is not None:
                    return "present"
            old = workspace.latest()
            if old is not None and _progress(old[1]) >= _progress(info):
                return "present"
            write_atomic(workspace.next(), data)
            return "added"

    def _locate(self, name: str, config: Mapping[str, JSON]) -> tuple[Path, str]:
        if not _NAME.fullmatch(name):
            raise ParameterError(f"stage name {name!r} must be lower case letters, digits and '_'.")
        key = stage_key(name, config)
        return self._folder(name, key), key

    def _folder(self, name: str, key: str) -> Path:
        return self.root / "stages" / f"{name}-{key[:16]}"

    @contextlib.contextmanager
    def _lock(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold the lock of one stage, on rank 0; the system frees it when its owner dies.

        Yields False if it isn't to be had and one doesn't want to `wait`.
        """
        lock = filelock.FileLock(self.root / "locks" / f"{name}.lock")

        def acquire(timeout: float) -> bool:
            with _storage_errors("write to", self.root), contextlib.suppress(filelock.Timeout):
                lock.acquire(timeout=timeout)
            return lock.is_locked

        def begin() -> bool:
            probe = self.root / "stages" / f".{name}.probe"
            with _storage_errors("write to", self.root):
                for folder in ("stages", "work", "locks"):
                    (self.root / folder).mkdir(parents=True, exist_ok=True)
                # Only writing tells whether one can write; it must not come out after hours of training.
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
    """The key (64 hex digits) of a stage: what other stages put into their config to depend on it."""
    return sha256_json({"stage": name, "schema": SCHEMA, "config": dict(config)})


def _identity(file: Path) -> tuple[str, str]:
    """Name and key of the stage that a ``stage.json`` describes: the key is that of its config."""
    try:
        content = json.loads(file.read_bytes())
        name, key = content["stage"], stage_key(content["stage"], content["config"])
        if not _NAME.fullmatch(name) or not all(_FILE.fullmatch(f) for f in content["files"]):
            raise ValueError("no such names")
    except (OSError, ParameterError, *_MALFORMED) as error:
        raise IntegrityError(f"{file} is corrupt or not of a stage: {error!r}.") from error
    return name, key


def _progress(info: JSON) -> tuple[int, int]:
    """How far a training is, from its checkpoint's notes."""
    return info["epoch"], sum(info["steps"])


def _compare(path: Path, got: str, expected: str) -> None:
    if got != expected:
        raise IntegrityError(f"{path} is corrupt: sha256 or key {got}, expected {expected}.")


def source_hash() -> str:
    """The sha256 (64 hex digits) of the package's sources: names and contents of its modules and scripts."""
    digest, package = hashlib.sha256(), Path(__file__).parent
    for path in [*sorted(package.glob("*.py")), *sorted(package.glob("js/*"))]:
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def _maker() -> dict[str, JSON]:
    """What this process computes with."""
    return {
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
        "source": source_hash(),
        "machine": platform.machine(),
    }


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
    path: Path, name: str, key: str, config: dict[str, JSON], result: StageResult, meta: dict[str, JSON]
) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with _storage_errors("write", path):
            # The lock is ours: a folder of that name is what a killed process left.
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            files = {}
            for file, tensors in sorted(result.tensors.items()):
                if not re.fullmatch(r"[A-Za-z0-9_.-]+", file):
                    raise ParameterError(f"file name {file!r} of {name!r} must be letters, digits, '_.-'.")
                data = _encode(tensors, {})
                _write_synced(temporary / f"{file}.safetensors", data)
                files[f"{file}.safetensors"] = {
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "bytes": len(data),
                }
            content = {
                "schema": SCHEMA, "stage": name, "key": key, "config": config,
                "results": dict(result.results), "meta": meta, "files": files,
            }  # fmt: skip
            _write_synced(temporary / "stage.json", seal(content))
            _sync_folder(temporary)
            os.rename(temporary, path)
            _sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _load_stage(path: Path, key: str) -> Stage | None:
    """The stage in a folder, every file verified; None if there is no such folder."""
    if not path.exists():
        return None
    file = path / "stage.json"
    try:
        content = unseal(file.read_bytes(), file)
        _compare(file, content["key"], key)
        left_out = _left_out(path)
        for name, expected in list(content["files"].items()):
            if name in left_out:
                del content["files"][name]
                continue
            with open(path / name, "rb") as stream:
                _compare(path / name, hashlib.file_digest(stream, "sha256").hexdigest(), expected["sha256"])
    except (FileNotFoundError, NotADirectoryError, *_MALFORMED) as error:
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
    """The files that a stage is allowed to lack; one that came since the list was written isn't missing."""
    if not (path / LEFT_OUT).exists():
        return ()
    names = json.loads((path / LEFT_OUT).read_bytes())
    return tuple(name for name in names if not (path / name).exists())
