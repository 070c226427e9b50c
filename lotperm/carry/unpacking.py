"""Unpacking: packs are verified, and stages are put together from chunks and adopted by a store."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from lotperm.carry.adopt import Outcome, adopt_checkpoint, adopt_stage
from lotperm.carry.packs import CHECKPOINT, DAMAGED, check_item, read_header, unzip
from lotperm.config.canonical import canonical_json
from lotperm.errors import IntegrityError, StorageError
from lotperm.store.folders import STAGE_JSON
from lotperm.store.stages import Store


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

    Each pack is first verified to its last byte; what a damaged one held is left out and reported.
    Unpacking again changes nothing. Other processes may be computing in the store: stages that they
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
    """Check every byte of a pack; return its chunks' places by sha256, and the items of its set."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            header = read_header(file, size)
            began, spans, body = file.tell(), {}, hashlib.sha256()
            for sha, packed, raw in header["chunks"]:
                span = _Span(path, file.tell(), packed, raw)
                data = file.read(packed)
                body.update(data)
                unzip(data, sha, raw)
                spans[sha] = span
            # Flipping some bits of compressed data changes no content, but is damage all the same.
            if body.hexdigest() != header["body"]:
                raise ValueError("its chunks don't have the checksum that it claims")
            expected = began + sum(packed for _, packed, _ in header["chunks"])
            if size != expected:
                raise ValueError(f"it has {size} bytes; expected {expected}")
        for item in header["items"]:
            check_item(item)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}.") from error
    except DAMAGED as error:
        raise IntegrityError(f"{path} is damaged: {error}. Fetch or pack it again.") from error
    return spans, header["items"]


def _put(store: Store, item: Mapping[str, Any], spans: Mapping[str, _Span]) -> Outcome:
    """Put one item of a pack into the store."""
    listed: Mapping[str, list[str]] = item["files"]
    if STAGE_JSON not in listed:
        content = _join(spans, listed[CHECKPOINT])
        return adopt_checkpoint(store, item["name"], item["key"], content)
    # Only one file at a time is in memory: no more than computing the stage needs anyway.
    return adopt_stage(store, ((file, _join(spans, shas)) for file, shas in listed.items()))


def _join(spans: Mapping[str, _Span], shas: Iterable[str]) -> bytes:
    """Return the content of a file, verifying its chunks again on the very bytes that are used."""
    parts = []
    for sha in shas:
        span = spans[sha]
        with open(span.path, "rb") as file:
            # The pack was verified before, but may have been replaced since.
            file.seek(span.offset)
            try:
                parts.append(unzip(file.read(span.size), sha, span.raw))
            except (ValueError, zlib.error) as error:
                raise IntegrityError(f"{span.path} changed while it was read: {error}.") from error
    return b"".join(parts)
