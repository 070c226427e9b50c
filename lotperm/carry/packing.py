"""Packing: files of a store are cut into chunks, and the chunks are written into packs."""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lotperm.carry import packs
from lotperm.carry.packs import CHECKPOINT, MAGIC, sealed
from lotperm.config.canonical import canonical_json
from lotperm.errors import IntegrityError, ParameterError, StorageError
from lotperm.store.files import MALFORMED, decode_tensors, read_bytes, write_atomic
from lotperm.store.folders import STAGE_JSON
from lotperm.store.stages import Store
from lotperm.store.workspace import Workspace


@dataclass(frozen=True)
class Parcel:
    """A stage to carry.

    Attributes
    ----------
    name, key : str
        Name and key of the stage.
    files : frozenset[str] | None
        Names (without suffix) of the files to carry; None: all.
    """

    name: str
    key: str
    files: frozenset[str] | None = None


def everything(store: Store) -> list[Parcel]:
    """List every finished stage with all of its files, and every stage in progress."""
    finished = [(stage.name, stage.key) for stage in store.stages()]
    # A process killed after finishing a stage may leave its checkpoints: the stage is listed once.
    stages = dict.fromkeys([*finished, *store.in_progress()])
    return [Parcel(name, key) for name, key in stages]


def lacking(store: Store, parcels: Iterable[Parcel]) -> list[str]:
    """Name the files to carry that a store doesn't have, as stages came without them.

    Parameters
    ----------
    store : Store
        The store to pack from.
    parcels : Iterable[Parcel]
        The stages to pack. One that names no files is to carry those that are here.

    Returns
    -------
    list[str]
        "FOLDER/FILE", sorted. Where the packs are unpacked, no stage that reads such a file can be
        computed.
    """
    return sorted(
        f"{stage.path.name}/{name}"
        for parcel in parcels
        if parcel.files and (stage := store.load(parcel.name, parcel.key))
        for name in stage.left_out
        if name.removesuffix(".safetensors") in parcel.files
    )


def pack(
    store: Store, parcels: Iterable[Parcel], folder: Path, max_bytes: int = 16 * 2**20
) -> list[Path]:
    """Write finished stages, and the newest checkpoints of stages in progress, into packs.

    Parameters
    ----------
    store : Store
        The store to pack from; other processes may be computing there.
    parcels : Iterable[Parcel]
        The stages to pack; those that the store doesn't have are left out.
    folder : Path
        The folder for the packs; made if it doesn't exist.
    max_bytes : int, optional
        Largest size of one pack.

    Returns
    -------
    list[Path]
        The packs. The same content gives the same files.

    Raises
    ------
    ParameterError
        If `max_bytes` is too little for a pack's header and one chunk.
    StorageError
        If a file can't be read or written, or changed while it was packed.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make folder {folder}: {error.strerror or error}.") from error
    # Every pack's header lists the whole set, so everything is read once to name the chunks, and
    # again to write them: together they may be larger than the memory.
    items: list[dict[str, Any]] = []
    # sha256 of a chunk -> its source (a file, or bytes) and the offset at which it begins there.
    sources: dict[str, tuple[Path | bytes, int]] = {}
    for parcel in parcels:
        listed: dict[str, list[str]] = {}
        for name, source in _contents(store, parcel).items():
            listed[name] = []
            for offset, raw in _cut(source):
                sha = hashlib.sha256(raw).hexdigest()
                sources.setdefault(sha, (source, offset))
                listed[name].append(sha)
        if listed:
            items.append({"name": parcel.name, "key": parcel.key, "files": listed})
    writer = _Writer(folder, items, max_bytes)
    for sha, (source, offset) in sources.items():
        # This is the second reading, so it is compared with the hash that the headers already have.
        raw = _chunk(source, offset)
        if hashlib.sha256(raw).hexdigest() != sha:
            raise StorageError(f"a file of {store.root} changed while it was packed. Pack again.")
        writer.add(sha, raw)
    writer.close()
    return writer.written


def _contents(store: Store, parcel: Parcel) -> dict[str, Path | bytes]:
    """Return the files to carry of a finished stage, or the newest checkpoint of another."""
    stage = store.load(parcel.name, parcel.key)
    if stage is None:
        newest = _newest_checkpoint(store.workspace(parcel.name, parcel.key))
        return {} if newest is None else {CHECKPOINT: newest}
    # Only the wanted files of a finished stage are carried: where it is unpacked, the others are
    # noted as left out.
    names = [
        name
        for name in sorted(stage.files)
        if parcel.files is None or name.removesuffix(".safetensors") in parcel.files
    ]
    return {name: stage.path / name for name in (STAGE_JSON, *names)}


def _newest_checkpoint(workspace: Workspace) -> bytes | None:
    """Return the bytes of the newest intact checkpoint; its owner may be writing the next one."""
    # The owner deletes old checkpoints: a file may vanish between being listed and being read.
    for _ in range(3):
        paths = workspace.checkpoints()
        for path in reversed(paths):
            with contextlib.suppress(IntegrityError, StorageError, *MALFORMED):
                data = read_bytes(path)
                if decode_tensors(data, path, checked=True)[1]["key"] == workspace.key:
                    return data
        if paths == workspace.checkpoints():
            break
    return None


def _cut(source: Path | bytes) -> Iterator[tuple[int, bytes]]:
    """Yield offset and content of each chunk of a file or of bytes; if empty, one empty chunk."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    for offset in range(0, max(size, 1), packs.CHUNK):
        yield offset, _chunk(source, offset)


def _chunk(source: Path | bytes, offset: int) -> bytes:
    if isinstance(source, bytes):
        return source[offset : offset + packs.CHUNK]
    try:
        with open(source, "rb") as file:
            file.seek(offset)
            return file.read(packs.CHUNK)
    except OSError as error:
        raise StorageError(
            f"cannot read {source}: {error.strerror or error}. Pack again."
        ) from error


class _Writer:
    """Packs of one set, filled one after another.

    Parameters
    ----------
    folder : Path
        The folder for the packs.
    items : list[dict[str, Any]]
        Contents of the set, listed in each of its packs.
    max_bytes : int
        Largest size of one pack.

    Attributes
    ----------
    written : list[Path]
        The packs that are full and, after `close`, the last one.
    """

    def __init__(self, folder: Path, items: list[dict[str, Any]], max_bytes: int) -> None:
        self.written: list[Path] = []
        self._folder, self._items, self._max = folder, items, max_bytes
        # The size of a pack that has no chunk in it yet.
        empty = {"body": "0" * 64, "chunks": [], "items": items, "sha256": "0" * 64}
        self._least = len(MAGIC) + 8 + len(canonical_json(empty))
        self._begin()

    def _begin(self) -> None:
        self._chunks: list[list[Any]] = []
        self._body: list[bytes] = []
        self._size = self._least

    def add(self, sha: str, raw: bytes) -> None:
        """Put a chunk into the pack, or into a new one if it no longer fits."""
        # Masks and JSON shrink at any level, weights at none.
        data = zlib.compress(raw, 1)
        # A chunk stored at its full size is known to be uncompressed: no flag is needed.
        data = data if len(data) < len(raw) else raw
        entry = [sha, len(data), len(raw)]
        # The chunk's entry in the header with a comma, and the chunk itself.
        more = len(canonical_json(entry)) + 1 + len(data)
        if self._least + more > self._max:
            raise ParameterError(
                f"packs of {self._max:,} bytes are too small: "
                f"these need {self._least + more:,} at least."
            )
        if self._size + more > self._max:
            self.close()
        self._chunks.append(entry)
        self._body.append(data)
        self._size += more

    def close(self) -> None:
        """Write the pack, if there is anything in it."""
        if not self._chunks:
            return
        body = hashlib.sha256(b"".join(self._body)).hexdigest()
        content = {"body": body, "chunks": self._chunks, "items": self._items}
        header = sealed(content)
        data = b"".join([MAGIC, len(header).to_bytes(8, "little"), header, *self._body])
        # Named by content: packing again overwrites a pack with itself.
        path = self._folder / f"pack-{hashlib.sha256(data).hexdigest()[:16]}.bin"
        write_atomic(path, data)
        self.written.append(path)
        self._begin()
