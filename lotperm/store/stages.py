"""Content-addressed results: every stage of an experiment is computed once.

A stage is named by its key, a hash of everything that its result depends on: its configuration,
which includes the keys of the stages that it uses. So the same question finds the same folder on
any machine, and a changed parameter never finds an old answer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from lotperm.config.canonical import SCHEMA, sha256_json
from lotperm.errors import IntegrityError, ParameterError, StorageError
from lotperm.parallel import distributed
from lotperm.store import locks
from lotperm.store.files import (
    JSON,
    MALFORMED,
    decode_tensors,
    home,
    move_aside,
    read_bytes,
    require_equal,
)
from lotperm.store.folders import STAGE_JSON, TENSOR_FILE, read_folder, write_folder
from lotperm.store.provenance import maker, stage_meta
from lotperm.store.workspace import Workspace, read_notes

STAGE_NAME = re.compile(r"[a-z][a-z0-9_]*")


def stage_key(name: str, config: Mapping[str, JSON]) -> str:
    """Return the key of a stage; stages that depend on it have the key in their configuration.

    Parameters
    ----------
    name : str
        The kind of stage.
    config : Mapping[str, JSON]
        Everything that its result depends on.

    Returns
    -------
    str
        64 hex digits.
    """
    return sha256_json({"stage": name, "schema": SCHEMA, "config": dict(config)})


@dataclass(frozen=True)
class StageResult:
    """The outcome of computing a stage.

    Attributes
    ----------
    results : Mapping[str, JSON]
        Small plain data (numbers, lists), kept in ``stage.json``.
    tensors : Mapping[str, Mapping[str, Tensor]]
        File name without suffix -> name -> tensor, one safetensors file each.
    meta : Mapping[str, JSON]
        Further notes about the computation (device, precision) that aren't part of the result.
    """

    results: Mapping[str, JSON] = field(default_factory=dict)
    tensors: Mapping[str, Mapping[str, Tensor]] = field(default_factory=dict)
    meta: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A finished stage; all of its files were verified when it was found.

    Attributes
    ----------
    name : str
        The kind of stage.
    key : str
        64 hex digits.
    path : Path
        Its folder.
    config, results : dict[str, JSON]
        As they were given to the store.
    meta : dict[str, JSON]
        When it was computed (``created``, UTC), in how many ``seconds``, with which versions and
        sources, and what its function added.
    files : dict[str, JSON]
        File name -> {"sha256", "bytes"}, for the files that are here.
    left_out : tuple[str, ...]
        Names of the files that were left behind when the stage was carried here from another
        machine.
    """

    name: str
    key: str
    path: Path
    config: dict[str, JSON]
    results: dict[str, JSON]
    meta: dict[str, JSON]
    files: dict[str, JSON]
    left_out: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path, key: str) -> Stage | None:
        """Verify and return the stage in a folder; None if there is no such folder.

        Raises
        ------
        IntegrityError
            If it is damaged, incomplete or of another key.
        StorageError
            If it can't be read.
        """
        if (found := read_folder(path, key)) is None:
            return None
        content, left_out = found
        return cls(
            name=content["stage"],
            key=key,
            path=path,
            config=content["config"],
            results=content["results"],
            meta=content["meta"],
            files=content["files"],
            left_out=left_out,
        )

    def load(self, file: str) -> dict[str, Tensor]:
        """Load the tensors of one file on the CPU; the bytes that are used are verified once more.

        Parameters
        ----------
        file : str
            Name of the file, without suffix.

        Returns
        -------
        dict[str, Tensor]
            By name, in alphabetical order.

        Raises
        ------
        IntegrityError
            If the file was damaged since the stage was found.
        ParameterError
            If the stage has no such file.
        StorageError
            If it was left out when the stage was packed, or can't be read.
        """
        if f"{file}.safetensors" in self.left_out:
            raise StorageError(
                f"{self.path} has no {file}.safetensors: "
                "it was left out when the stage was packed. Unpack a pack that has it, "
                "or delete this folder to compute the stage again."
            )
        if f"{file}.safetensors" not in self.files:
            names = ", ".join(self.files) or "none"
            raise ParameterError(f"stage {self.name!r} has no file {file!r}. It has: {names}.")
        path = self.path / f"{file}.safetensors"
        # The bytes that are hashed are the bytes that are parsed: the file may change between two
        # reads.
        data = read_bytes(path)
        require_equal(path, hashlib.sha256(data).hexdigest(), self.files[path.name]["sha256"])
        return decode_tensors(data, path, checked=True)[0]


class Store:
    """All finished stages under one folder, safe for any number of processes at once.

    Parameters
    ----------
    root : Path
        The folder; made when something is first computed.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        # Read now: in the hours until a stage is written, the source files may be edited.
        self._maker = maker()

    @classmethod
    def default(cls) -> Store:
        """Return the store in `home()`."""
        return cls(home())

    def find(self, name: str, config: Mapping[str, JSON]) -> Stage | None:
        """Return the stage if it is finished and intact, else None.

        No lock is taken and no result is changed. If there are several ranks
        (`lotperm.parallel.distributed`), all must ask, and all get what rank 0 finds.
        """
        path, key = self._locate(name, config)

        def look() -> Stage | None:
            try:
                stage = Stage.read(path, key)
            # Damage is left alone here: only the holder of the lock moves a stage aside, in
            # `stage`.
            except (IntegrityError, StorageError):
                return None
            if stage is not None:
                # A process killed after finishing a stage may have left its checkpoints.
                self.workspace(name, key).clear()
            return stage

        # If each rank looked for itself, one could find the stage and another miss it, and
        # compute alone.
        return distributed.once(look)

    def exists(self, name: str, config: Mapping[str, JSON]) -> bool:
        """Return True if there is a folder of the finished stage; unlike `find`, read nothing."""
        return self._locate(name, config)[0].exists()

    def stage(
        self, name: str, config: Mapping[str, JSON], compute: Callable[[Workspace], StageResult]
    ) -> Stage:
        """Load a stage, or compute it: once, even if other processes ask for it at the same time.

        In a job of several ranks (`lotperm.parallel.distributed`) all of them call this and
        `compute`; only rank 0 looks for the stage, holds its lock and writes it.

        Parameters
        ----------
        name : str
            The kind of stage: lower case, digits, ``_``.
        config : Mapping[str, JSON]
            Everything that its result depends on, as plain JSON, with the keys of its input stages.
        compute : Callable[[Workspace], StageResult]
            Computes the stage if it isn't there, resuming from the checkpoint in its `Workspace`.

        Returns
        -------
        Stage
            Finished and verified.

        Raises
        ------
        StorageError
            If it must be computed and the folder can't be written. This is raised before `compute`
            is called.
        """
        if (found := self.find(name, config)) is not None:
            return found
        path, key = self._locate(name, config)

        def look() -> Stage | None:
            try:
                return Stage.read(path, key)
            except IntegrityError as error:
                move_aside(path, f"{error} Stage {name!r} is computed again")
                return None

        # Looking needs no lock, since a folder appears by one rename; computing does.
        with self.lock(name, key):
            # Another process may have finished it while this one waited.
            if (found := distributed.once(look)) is not None:
                return found
            # On every rank: all call `compute`, and rank 0 alone writes checkpoints there.
            workspace = Workspace(self._work(name, key), key, self._maker)
            result = compute(workspace)

            def write() -> Stage | None:
                content = {
                    "schema": SCHEMA,
                    "stage": name,
                    "key": key,
                    "config": dict(config),
                    "results": dict(result.results),
                    "meta": {**stage_meta(workspace, self._maker), **result.meta},
                }
                write_folder(path, content, result.tensors)
                workspace.clear()
                # Read back: what is on the disk now, not what was meant to be there.
                return Stage.read(path, key)

            stage = distributed.once(write)
        if stage is None:
            raise StorageError(
                f"{path} vanished while it was written. Does another program delete the store?"
            )
        return stage

    def load(self, name: str, key: str) -> Stage | None:
        """Return the stage of a key if it is finished and intact, else None."""
        with contextlib.suppress(IntegrityError, StorageError):
            return Stage.read(self.folder(name, key), key)
        return None

    def stages(self) -> Iterator[Stage]:
        """Yield all finished stages that are intact, sorted by folder."""
        for path in sorted((self.root / "stages").glob(f"[!.]*/{STAGE_JSON}")):
            with contextlib.suppress(IntegrityError, StorageError):
                name, key = identify(path.parent)
                # A folder that somebody renamed or copied isn't where its key leads to.
                if path.parent == self.folder(name, key) and (stage := self.load(name, key)):
                    yield stage

    def in_progress(self) -> Iterator[tuple[str, str]]:
        """Yield name and key of all stages that have a checkpoint; the key is unverified."""
        for path in sorted((self.root / "work").glob("*-*")):
            name = path.name.rpartition("-")[0]
            # The folder's name has only the beginning of the key.
            key = str(read_notes(path).get("key"))
            if path == self._work(name, key):
                yield name, key

    def folder(self, name: str, key: str) -> Path:
        """Return the folder that a stage has once it is finished."""
        # 64 bits of the key tell stages apart; the whole key is kept in the folder and compared.
        return self.root / "stages" / f"{name}-{key[:16]}"

    def workspace(self, name: str, key: str) -> Workspace:
        """Return the workspace of a stage; only the holder of the stage's lock may write there."""
        return Workspace(self._work(name, key), key)

    def lock(self, name: str, key: str, *, wait: bool = True) -> AbstractContextManager[bool]:
        """Hold the lock of a stage; see `lotperm.store.locks.hold`."""
        return locks.hold(self.root, self.folder(name, key).name, wait=wait)

    def in_other_hands(self, name: str, key: str) -> bool:
        """Return True if another process is computing a stage at this moment.

        False also where the lock can't be asked for: whoever computes the stage will learn why.
        """
        try:
            with self.lock(name, key, wait=False) as free:
                return not free
        except StorageError:
            return False

    def _work(self, name: str, key: str) -> Path:
        return self.root / "work" / self.folder(name, key).name

    def _locate(self, name: str, config: Mapping[str, JSON]) -> tuple[Path, str]:
        # The name becomes part of a path.
        if not STAGE_NAME.fullmatch(name):
            raise ParameterError(f"stage name {name!r} must be lower case letters, digits and '_'.")
        key = stage_key(name, config)
        return self.folder(name, key), key


def identify(folder: Path) -> tuple[str, str]:
    """Return name and key of the stage in a folder; the key is computed from its configuration.

    Raises
    ------
    IntegrityError
        If there is no ``stage.json``, or it has names that no store gives.
    """
    file = folder / STAGE_JSON
    try:
        content = json.loads(file.read_bytes())
        name, key = content["stage"], stage_key(content["stage"], content["config"])
        # These names become paths, and may come from another machine.
        if not STAGE_NAME.fullmatch(name) or not all(map(TENSOR_FILE.fullmatch, content["files"])):
            raise ValueError("no such names")
    except (OSError, ParameterError, *MALFORMED) as error:
        raise IntegrityError(f"{file} is corrupt or not of a stage: {error!r}.") from error
    return name, key
