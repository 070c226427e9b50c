"""Packs: stages in a few files of bounded size, to carry a run from one machine to another.

A file ``pack-<hash>.bin`` consists of a line that identifies the format, the length of the header,
the header (JSON), and chunks of files: at most 1 MiB each, compressed where that helps, and named
by the sha256 of their content, so that content which several stages share is carried once. Every
pack's header lists all stages and checkpoints of its set, and the chunks of each of their files;
a pack holds some of these chunks. Nothing that is read from a pack is used before its checksum has
been verified, a stage must match its key (`lotperm.carry.adopt`), and no path comes from a pack.

Checksums find damage, not forgery: unpack only what you trust.

This is the format; `lotperm.carry.packing` writes packs, `lotperm.carry.unpacking` reads them.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO

from lotperm.config.canonical import canonical_json
from lotperm.store.files import MALFORMED, MAX_HEADER_BYTES
from lotperm.store.folders import STAGE_JSON, TENSOR_FILE
from lotperm.store.stages import STAGE_NAME

MAGIC = b"lotperm-pack-1\n\0"

# The most bytes of a file that one chunk holds.
CHUNK = 2**20

# The one file of a stage that isn't finished.
CHECKPOINT = "checkpoint.safetensors"

# The exceptions that reading a damaged pack may raise.
DAMAGED = (*MALFORMED, zlib.error)

_HASH = re.compile(r"[0-9a-f]{64}")


def sealed(content: Mapping[str, Any]) -> bytes:
    """Serialize a header together with its own checksum."""
    seal = hashlib.sha256(canonical_json(content).encode()).hexdigest()
    return canonical_json({**content, "sha256": seal}).encode()


def read_header(file: BinaryIO, size: int) -> dict[str, Any]:
    """Read the header of an open pack of `size` bytes.

    Raises
    ------
    ValueError
        If the file isn't a pack, or its header was changed.
    """
    if file.read(len(MAGIC)) != MAGIC:
        raise ValueError("it doesn't begin as a pack of this version")
    length = int.from_bytes(file.read(8), "little")
    # Checked before anything of that size is allocated.
    if length > min(size, MAX_HEADER_BYTES):
        raise ValueError(f"its header claims {length} bytes")
    text = file.read(length)
    header: dict[str, Any] = json.loads(text)
    seal = header.pop("sha256")
    if seal != hashlib.sha256(canonical_json(header).encode()).hexdigest():
        raise ValueError("its header doesn't have the checksum that it claims")
    # The checksum is of the content, which could also be written differently.
    if text != sealed(header):
        raise ValueError("its header was changed")
    return header


def check_item(item: dict[str, Any]) -> None:
    """Refuse an item with names that no store gives, since they become names of files.

    Raises
    ------
    ValueError
        If the item has such a name.
    """
    names = item["files"].keys()
    if not (
        STAGE_NAME.fullmatch(item["name"])
        and _HASH.fullmatch(item["key"])
        and (names == {CHECKPOINT} or STAGE_JSON in names)
        and all(name == STAGE_JSON or TENSOR_FILE.fullmatch(name) for name in names)
        and all(_HASH.fullmatch(sha) for shas in item["files"].values() for sha in shas)
    ):
        raise ValueError(f"it lists what no store has: {item['name']!r}, {sorted(names)[:4]}")


def unzip(data: bytes, sha: str, raw: int) -> bytes:
    """Return the content of a chunk, decompressed if need be; refuse more than `CHUNK` bytes.

    Raises
    ------
    ValueError
        If the content doesn't have the size or the checksum that the header claims.
    """
    # This bound doesn't come from the file.
    if not 0 <= raw <= CHUNK:
        raise ValueError(f"a chunk claims {raw} bytes")
    if len(data) != raw:
        stream = zlib.decompressobj()
        # At most one byte too many, however much a zip bomb would unpack to.
        data = stream.decompress(data, CHUNK + 1)
        if not stream.eof or stream.unused_data:
            raise ValueError(f"chunk {sha[:16]} is cut or followed by something else")
    if len(data) != raw or hashlib.sha256(data).hexdigest() != sha:
        raise ValueError(f"chunk {sha[:16]} doesn't have the content that it claims")
    return data
