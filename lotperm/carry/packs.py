"""Stages in a few files of bounded size, to carry a run from one machine to another.

A file ``pack-<hash>.bin`` consists of a line that identifies the format, the length of the header,
the header (JSON), and chunks of files: at most 1 MiB each, compressed where that helps, and named
by the sha256 of their content, so that content which several stages share is carried once. Every
pack's header lists all stages and checkpoints of its set, each of their files as a list of chunks;
a pack holds some of the chunks. Nothing that is read from a pack is used before its checksum has
been verified, a stage must match its key (`lotperm.carry.adopt`), and no path comes from a pack.

Checksums find damage, not forgery: unpack only what you trust.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lotperm.carry.adopt import Outcome, adopt_checkpoint, adopt_stage
from lotperm.config.canonical import canonical_json
from lotperm.errors import IntegrityError, ParameterError, StorageError
from lotperm.store.files import (
    MALFORMED,
    MAX_HEADER_BYTES,
    decode_tensors,
    read_bytes,
    write_atomic,
)
from lotperm.store.folders import STAGE_JSON, TENSOR_FILE
from lotperm.store.stages import STAGE_NAME, Store
from lotperm.store.workspace import Workspace

_MAGIC = b"lotperm-pack-1\n\0"
_CHUNK = 2**20
_CHECKPOINT = "checkpoint.safetensors"
_HASH = re.compile(r"[0-9a-f]{64}")
_DAMAGED = (*MALFORMED, zlib.error)


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
    # A process killed between the two leaves progress of a stage that is finished.
    stages = dict.fromkeys([*finished, *store.in_progress()])
    return [Parcel(name, key) for name, key in stages]


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
    # Every pack's header lists the whole set, so all is read once to name its chunks, and again to
    # write them: together they may be larger than the memory.
    items: list[dict[str, Any]] = []
    # sha256 of a chunk -> where it is: in which file, or content, from which byte on.
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
        # Read a second time, so it is compared with the hash that the headers have already.
        raw = _chunk(source, offset)
        if hashlib.sha256(raw).hexdigest() != sha:
            raise StorageError(f"a file of {store.root} changed while it was packed. Pack again.")
        writer.add(sha, raw)
    writer.close()
    return writer.written


def _contents(store: Store, parcel: Parcel) -> dict[str, Path | bytes]:
    """Return what to carry of a stage: files if it is finished, else its newest checkpoint."""
    stage = store.load(parcel.name, parcel.key)
    if stage is None:
        newest = _newest_checkpoint(store.workspace(parcel.name, parcel.key))
        return {} if newest is None else {_CHECKPOINT: newest}
    # Of a finished stage only the files that are wanted: the others are noted as left out where it
    # is unpacked.
    names = [
        name
        for name in sorted(stage.files)
        if parcel.files is None or name.removesuffix(".safetensors") in parcel.files
    ]
    return {name: stage.path / name for name in (STAGE_JSON, *names)}


def _newest_checkpoint(workspace: Workspace) -> bytes | None:
    """Return the bytes of the newest intact checkpoint; its owner may be writing the next one."""
    # Its owner deletes old checkpoints: a file may go between the listing and the reading.
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
    """Yield the chunks of a file or of bytes with their offsets; at least one, if empty."""
    size = len(source) if isinstance(source, bytes) else source.stat().st_size
    for offset in range(0, max(size, 1), _CHUNK):
        yield offset, _chunk(source, offset)


def _chunk(source: Path | bytes, offset: int) -> bytes:
    if isinstance(source, bytes):
        return source[offset : offset + _CHUNK]
    try:
        with open(source, "rb") as file:
            file.seek(offset)
            return file.read(_CHUNK)
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
        The packs that are full, and after `close` the last one.
    """

    def __init__(self, folder: Path, items: list[dict[str, Any]], max_bytes: int) -> None:
        self.written: list[Path] = []
        self._folder, self._items, self._max = folder, items, max_bytes
        # What a pack takes before there is a chunk in it.
        empty = {"body": "0" * 64, "chunks": [], "items": items, "sha256": "0" * 64}
        self._least = len(_MAGIC) + 8 + len(canonical_json(empty))
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
        # Its line in the header with a comma, and the chunk itself.
        more = len(canonical_json(entry)) + 1 + len(data)
        if self._least + more > self._max:
            raise ParameterError(
                f"packs of {self._max:,} bytes are too small: "
                f"these need {self._least + more:,} at the least."
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
        header = _sealed(content)
        data = b"".join([_MAGIC, len(header).to_bytes(8, "little"), header, *self._body])
        # Named by content: packing again overwrites a pack with itself.
        path = self._folder / f"pack-{hashlib.sha256(data).hexdigest()[:16]}.bin"
        write_atomic(path, data)
        self.written.append(path)
        self._begin()


def _sealed(content: Mapping[str, Any]) -> bytes:
    """Serialize a header with its own checksum in it."""
    seal = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    return canonical_json({**content, "sha256": seal}).encode()


@dataclass
class Unpacked:
    """Outcome of unpacking some packs.

    Attributes
    ----------
    counts : dict[Outcome, int]
        Number of stages and checkpoints by outcome.
    problems : list[str]
        One line for each damaged pack, and each stage that couldn't be put together.
    """

    counts: dict[Outcome, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def unpack(store: Store, packs: Iterable[Path]) -> Unpacked:
    """Unpack finished stages that a store lacks, and checkpoints further than its own.

    Each pack is verified to its last byte first; what a damaged one held is left out and reported.
    Doing it again changes nothing. Other processes may be computing in the store: stages that they
    are working on are left to them.

    Parameters
    ----------
    store : Store
        The store to unpack into.
    packs : Iterable[Path]
        Files, in any order.

    Returns
    -------
    Unpacked
        The outcome.

    Raises
    ------
    StorageError
        If a pack can't be read or the store can't be written.
    """
    done = Unpacked()
    spans: dict[str, _Span] = {}
    items: dict[str, dict[str, Any]] = {}
    for path in packs:
        try:
            found, listed = _verify(path)
        except IntegrityError as error:
            done.problems.append(str(error))
            continue
        spans |= found
        # Each pack of a set lists the same items.
        items |= {canonical_json(item): item for item in listed}
    for item in items.values():
        what = f"{item['name']}-{item['key'][:16]}"
        # All or nothing: a stage isn't put together from some of its files.
        if any(sha not in spans for shas in item["files"].values() for sha in shas):
            done.problems.append(
                f"{what} is incomplete: another pack of its set is missing or damaged."
            )
            continue
        try:
            outcome = _put(store, item, spans)
        except IntegrityError as error:
            done.problems.append(f"{what} was refused: {error}")
            continue
        done.counts[outcome] = done.counts.get(outcome, 0) + 1
    return done


class _Span(NamedTuple):
    """Place of a chunk: its pack, its offset there, its size there, and its size unpacked."""

    path: Path
    offset: int
    size: int
    raw: int


def _verify(path: Path) -> tuple[dict[str, _Span], list[dict[str, Any]]]:
    """Check every byte of a pack; return places of its chunks by sha256, and its set's items."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            header = _read_header(file, size)
            began, spans, body = file.tell(), {}, hashlib.sha256()
            for sha, packed, raw in header["chunks"]:
                span = _Span(path, file.tell(), packed, raw)
                data = file.read(packed)
                body.update(data)
                _unzip(data, sha, raw)
                spans[sha] = span
            # Compressed data have bits that change nothing; a changed one is damage all the same.
            if body.hexdigest() != header["body"]:
                raise ValueError("its chunks don't have the checksum that it claims")
            expected = began + sum(packed for _, packed, _ in header["chunks"])
            if size != expected:
                raise ValueError(f"it has {size} bytes; expected {expected}")
        for item in header["items"]:
            _check_item(item)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}.") from error
    except _DAMAGED as error:
        raise IntegrityError(f"{path} is damaged: {error}. Fetch or pack it again.") from error
    return spans, header["items"]


def _read_header(file: BinaryIO, size: int) -> dict[str, Any]:
    """Read the header of an open pack of `size` bytes; raise a ValueError if it was changed."""
    if file.read(len(_MAGIC)) != _MAGIC:
        raise ValueError("it doesn't begin as a pack of this version")
    length = int.from_bytes(file.read(8), "little")
    # Before anything of that size is allocated.
    if length > min(size, MAX_HEADER_BYTES):
        raise ValueError(f"its header claims {length} bytes")
    text = file.read(length)
    header: dict[str, Any] = json.loads(text)
    seal = header.pop("sha256")
    if seal != hashlib.sha256(canonical_json(header).encode()).hexdigest():
        raise ValueError("its header doesn't have the checksum that it claims")
    # The same content could be written differently.
    if text != _sealed(header):
        raise ValueError("its header was changed")
    return header


def _check_item(item: dict[str, Any]) -> None:
    """Refuse, with a ValueError, names that no store gives: they become names of files."""
    names = item["files"].keys()
    if not (
        STAGE_NAME.fullmatch(item["name"])
        and _HASH.fullmatch(item["key"])
        and (names == {_CHECKPOINT} or STAGE_JSON in names)
        and all(name == STAGE_JSON or TENSOR_FILE.fullmatch(name) for name in names)
        and all(_HASH.fullmatch(sha) for shas in item["files"].values() for sha in shas)
    ):
        raise ValueError(f"it lists what no store has: {item['name']!r}, {sorted(names)[:4]}")


def _unzip(data: bytes, sha: str, raw: int) -> bytes:
    """Return the content of a chunk, never more than the size of a chunk.

    Raises
    ------
    ValueError
        If it doesn't have the size or the checksum that the header claims.
    """
    # A bound that doesn't come from the file.
    if not 0 <= raw <= _CHUNK:
        raise ValueError(f"a chunk claims {raw} bytes")
    if len(data) != raw:
        stream = zlib.decompressobj()
        # Never more than one byte too many, whatever a bomb would unpack to.
        data = stream.decompress(data, _CHUNK + 1)
        if not stream.eof or stream.unused_data:
            raise ValueError(f"chunk {sha[:16]} is cut or followed by something else")
    if len(data) != raw or hashlib.sha256(data).hexdigest() != sha:
        raise ValueError(f"chunk {sha[:16]} doesn't have the content that it claims")
    return data


def _put(store: Store, item: Mapping[str, Any], spans: Mapping[str, _Span]) -> Outcome:
    """Put one item of a pack into the store."""
    listed: Mapping[str, list[str]] = item["files"]
    if STAGE_JSON not in listed:
        content = _join(spans, listed[_CHECKPOINT])
        return adopt_checkpoint(store, item["name"], item["key"], content)
    # One file at a time is in memory: no more than what computes the stage holds anyway.
    return adopt_stage(store, ((file, _join(spans, shas)) for file, shas in listed.items()))


def _join(spans: Mapping[str, _Span], shas: Iterable[str]) -> bytes:
    """Return the content of a file; its chunks are verified again on the bytes that are used."""
    parts = []
    for sha in shas:
        span = spans[sha]
        with open(span.path, "rb") as file:
            # The pack was verified before, but may have been replaced since.
            file.seek(span.offset)
            try:
                parts.append(_unzip(file.read(span.size), sha, span.raw))
            except (ValueError, zlib.error) as error:
                raise IntegrityError(f"{span.path} changed while it was read: {error}.") from error
    return b"".join(parts)
