"""A store in a few files of bounded size, to carry a run from one machine to another.

A file ``pack-<hash>.bin`` is a line that says what it is, the length of its header, the header
(JSON) and chunks of files: at most 1 MiB each, compressed where that helps, each under the sha256
of its content, so that what several stages share is carried once. Every pack's header lists all
stages and checkpoints of its set, each of their files as a list of chunks; a pack holds some of
the chunks. Nothing that is read from a pack is used before its checksum was verified, a stage must
be what its key says (`lotperm.carry.adopt`), and no path comes from a pack.

Checksums find damage, not forgery: unpack what you trust.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lotperm.carry.adopt import Outcome, adopt_checkpoint, adopt_stage
from lotperm.config.canonical import canonical_json
from lotperm.errors import IntegrityError, ParameterError, StorageError
from lotperm.store.files import MAX_HEADER_BYTES, write_atomic
from lotperm.store.stages import Store

_MAGIC = b"lotperm-pack-1\n\0"
_CHUNK = 2**20
_CHECKPOINT = "checkpoint.safetensors"
_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FILE = re.compile(r"stage\.json|[A-Za-z0-9_-][A-Za-z0-9_.-]*\.safetensors")
_MALFORMED = (ValueError, KeyError, TypeError, AttributeError, RecursionError, zlib.error)


@dataclass(frozen=True)
class Parcel:
    """A stage to carry.

    Attributes
    ----------
    name, key : str
        Of the stage.
    files : frozenset[str] | None
        Names (without suffix) of those to carry; None: all.
    """

    name: str
    key: str
    files: frozenset[str] | None = None


def everything(store: Store) -> list[Parcel]:
    """Every finished stage with all of its files, and every stage in progress."""
    items = [Parcel(stage.name, stage.key) for stage in store.stages()]
    done = {(item.name, item.key[:16]) for item in items}
    for folder in sorted((store.root / "work").glob("*-*")):
        name, _, start = folder.name.rpartition("-")
        if (name, start) not in done and (key := _key_of_progress(folder)):
            items.append(Parcel(name, key))
    return items


def _key_of_progress(folder: Path) -> str | None:
    """The key that the newest checkpoint in a folder names; it is verified where it is used."""
    for path in sorted(folder.glob("checkpoint-*.safetensors"), reverse=True):
        try:
            with open(path, "rb") as file:
                length = min(int.from_bytes(file.read(8), "little"), MAX_HEADER_BYTES)
                return str(json.loads(file.read(length))["__metadata__"]["key"])
        except (OSError, *_MALFORMED):
            continue
    return None


def pack(
    store: Store, items: Iterable[Parcel], folder: Path, max_bytes: int = 16 * 2**20
) -> list[Path]:
    """Write finished stages, and the newest checkpoints of stages in progress, into packs.

    Parameters
    ----------
    store : Store
        Where they are; processes that compute may be at work there.
    items : Iterable[Parcel]
        Which; those that the store doesn't have are left out.
    folder : Path
        For the packs; made if it isn't there.
    max_bytes : int, optional
        Of one pack.

    Returns
    -------
    list of Path
        The packs. The same content gives the same files.

    Raises
    ------
    ParameterError
        If `max_bytes` is too little for a pack's header and one chunk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make folder {folder}: {error.strerror or error}.") from error
    contents: list[dict[str, Any]] = []
    sources: dict[
        str, tuple[Path | bytes, int]
    ] = {}  # sha256 of a chunk -> file, or its content, and offset
    for item in items:
        if files := _files(store, item):
            listed = {
                name: [_remember(sources, source, *at) for at in _spans(source)]
                for name, source in files.items()
            }
            contents.append({"name": item.name, "key": item.key, "files": listed})
    base = canonical_json({"body": "0" * 64, "chunks": [], "items": contents, "sha256": "0" * 64})
    fixed = len(_MAGIC) + 8 + len(base)
    written: list[Path] = []
    chunks: list[list[Any]] = []
    body: list[bytes] = []
    size = fixed
    for sha, (source, offset) in sources.items():
        raw = _chunk(source, offset)
        if hashlib.sha256(raw).hexdigest() != sha:
            raise StorageError(f"a file of {store.root} changed while it was packed. Pack again.")
        data = zlib.compress(raw, 1)
        data = data if len(data) < len(raw) else raw
        entry = [sha, len(data), len(raw)]
        more = len(canonical_json(entry)) + 1 + len(data)
        if fixed + more > max_bytes:
            raise ParameterError(
                f"packs of {max_bytes:,} bytes are too small: these need {fixed + more:,} at the least."
            )
        if size + more > max_bytes:
            written.append(_write(folder, contents, chunks, body))
            chunks, body, size = [], [], fixed
        chunks.append(entry)
        body.append(data)
        size += more
    if chunks:
        written.append(_write(folder, contents, chunks, body))
    return written


def _files(store: Store, item: Parcel) -> dict[str, Path | bytes]:
    """What is carried of an item: files of the finished stage, or its newest good checkpoint;
    {} if it isn't there.
    """
    stage = store.load(item.name, item.key)
    if stage is not None:
        names = [
            f
            for f in stage.files
            if item.files is None or f.removesuffix(".safetensors") in item.files
        ]
        return {
            "stage.json": stage.path / "stage.json",
            **{name: stage.path / name for name in sorted(names)},
        }
    newest = store.workspace(item.name, item.key).newest()
    return {} if newest is None else {_CHECKPOINT: newest}


def _spans(source: Path | bytes) -> Iterator[tuple[int, bytes]]:
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


def _remember(
    sources: dict[str, tuple[Path | bytes, int]], source: Path | bytes, offset: int, raw: bytes
) -> str:
    sha = hashlib.sha256(raw).hexdigest()
    sources.setdefault(sha, (source, offset))
    return sha


def _write(
    folder: Path, items: list[dict[str, Any]], chunks: list[list[Any]], body: list[bytes]
) -> Path:
    content = {"body": hashlib.sha256(b"".join(body)).hexdigest(), "chunks": chunks, "items": items}
    seal = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    header = canonical_json({**content, "sha256": seal}).encode()
    data = b"".join([_MAGIC, len(header).to_bytes(8, "little"), header, *body])
    path = folder / f"pack-{hashlib.sha256(data).hexdigest()[:16]}.bin"
    write_atomic(path, data)
    return path


class _Place(NamedTuple):
    path: Path
    offset: int
    size: int
    raw: int


@dataclass
class Unpacked:
    """What became of the content of some packs.

    Attributes
    ----------
    counts : dict[str, int]
        "added", "completed", "present" or "busy" (see `lotperm.carry.adopt.Outcome`) -> number of stages and
        checkpoints.
    problems : list[str]
        One line for each damaged pack, and each stage that couldn't be put together.
    """

    counts: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def unpack(store: Store, packs: Iterable[Path]) -> Unpacked:
    """Put what packs hold into a store, as far as it isn't there: finished stages whole,
    checkpoints if further.

    Each pack is verified to its last byte first; what a damaged one held is left out, and said.
    Doing it again changes nothing. Processes that compute may be at work in the store: what they
    compute just now is left to them.

    Raises
    ------
    StorageError
        If a pack can't be read, or the store not be written.
    """
    done = Unpacked()
    places: dict[str, _Place] = {}
    items: dict[str, dict[str, Any]] = {}
    for path in packs:
        try:
            found, listed = _verify(path)
        except IntegrityError as error:
            done.problems.append(str(error))
            continue
        places |= found
        items |= {canonical_json(item): item for item in listed}
    for item in items.values():
        what = f"{item['name']}-{item['key'][:16]}"
        if any(sha not in places for shas in item["files"].values() for sha in shas):
            done.problems.append(
                f"{what} is incomplete: another pack of its set is missing or damaged."
            )
            continue
        try:
            outcome = _put(store, item, places)
        except IntegrityError as error:
            done.problems.append(f"{what} was refused: {error}")
            continue
        done.counts[outcome] = done.counts.get(outcome, 0) + 1
    return done


def _verify(path: Path) -> tuple[dict[str, _Place], list[dict[str, Any]]]:
    """Where each chunk of a pack is, and the items of its set; every byte was checked."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                raise ValueError("it doesn't begin as a pack of this version")
            length = int.from_bytes(file.read(8), "little")
            if length > min(size, MAX_HEADER_BYTES):
                raise ValueError(f"its header claims {length} bytes")
            text = file.read(length)
            header = json.loads(text)
            seal = header.pop("sha256")
            if seal != hashlib.sha256(canonical_json(header).encode()).hexdigest():
                raise ValueError("its header doesn't have the checksum that it claims")
            if text != canonical_json({**header, "sha256": seal}).encode():
                raise ValueError("its header was changed")
            places, body = {}, hashlib.sha256()
            for sha, packed, raw in header["chunks"]:
                place = _Place(path, file.tell(), packed, raw)
                data = file.read(packed)
                body.update(data)
                _unzip(data, sha, raw)
                places[sha] = place
            # Compressed data have bits that change nothing; a changed one is damage all the same.
            if body.hexdigest() != header["body"]:
                raise ValueError("its chunks don't have the checksum that it claims")
            expected = len(_MAGIC) + 8 + length + sum(packed for _, packed, _ in header["chunks"])
            if size != expected:
                raise ValueError(f"it has {size} bytes; expected {expected}")
        for item in header["items"]:
            names = item["files"].keys()
            if not (
                _NAME.fullmatch(item["name"])
                and _HASH.fullmatch(item["key"])
                and (names == {_CHECKPOINT} or "stage.json" in names)
                and all(_FILE.fullmatch(name) for name in names)
                and all(_HASH.fullmatch(sha) for shas in item["files"].values() for sha in shas)
            ):
                raise ValueError(
                    f"it lists what no store has: {item['name']!r}, {sorted(names)[:4]}"
                )
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}.") from error
    except _MALFORMED as error:
        raise IntegrityError(f"{path} is damaged: {error}. Fetch or pack it again.") from error
    return places, header["items"]


def _unzip(data: bytes, sha: str, raw: int) -> bytes:
    """The content of a chunk, never more than it may have; ValueError if it isn't what its
    checksum says.
    """
    if not 0 <= raw <= _CHUNK:
        raise ValueError(f"a chunk claims {raw} bytes")
    if len(data) != raw:
        stream = zlib.decompressobj()
        data = stream.decompress(data, _CHUNK + 1)
        if not stream.eof or stream.unused_data:
            raise ValueError(f"chunk {sha[:16]} is cut or followed by something else")
    if len(data) != raw or hashlib.sha256(data).hexdigest() != sha:
        raise ValueError(f"chunk {sha[:16]} doesn't have the content that it claims")
    return data


def _read(places: Mapping[str, _Place], shas: Iterable[str]) -> Iterator[bytes]:
    for sha in shas:
        place = places[sha]
        with open(place.path, "rb") as file:
            file.seek(place.offset)
            try:
                yield _unzip(file.read(place.size), sha, place.raw)
            except (ValueError, zlib.error) as error:
                raise IntegrityError(f"{place.path} changed while it was read: {error}.") from error


def _put(store: Store, item: Mapping[str, Any], places: Mapping[str, _Place]) -> Outcome:
    """Put one item of a pack into the store."""
    files: Mapping[str, list[str]] = item["files"]
    if "stage.json" not in files:
        content = b"".join(_read(places, files[_CHECKPOINT]))
        return adopt_checkpoint(store, item["name"], item["key"], content)
    # One file at a time is in memory: no more than what computes the stage holds anyway.
    return adopt_stage(
        store, ((file, b"".join(_read(places, shas))) for file, shas in files.items())
    )
