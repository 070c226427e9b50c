"""Named random streams."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from lotperm.config.canonical import canonical_json


def derive_seed(*parts: str | int) -> int:
    """Derive a seed in [0, 2**63) from names and numbers, which name a random stream.

    Examples
    --------
    >>> derive_seed("dense_a", 0, "init") != derive_seed("dense_b", 0, "init")
    True
    """
    # A hash, not a sum: neighbouring seeds and names give streams that have nothing in common.
    digest = hashlib.sha256(canonical_json(list(parts)).encode()).digest()
    # 63 bits, so that it also fits a signed integer of 64.
    return int.from_bytes(digest[:8], "big") >> 1


@dataclass(frozen=True)
class Seeds:
    """The random streams of one network: initialization, order of the examples, augmentation."""

    init: int
    order: int
    augment: int

    @classmethod
    def of(cls, network: str, seed: int) -> Seeds:
        """Return the streams of a network (``"a"``, ``"b"``, ``"lth"``, …) of one replicate."""
        return cls(*(derive_seed(network, seed, stream) for stream in ("init", "order", "augment")))
