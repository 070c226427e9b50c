"""A small image folder made from pictures that Matplotlib ships."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lotperm.config.seeds import derive_seed
from lotperm.errors import StorageError

_TILE, _CROP = 64, 48
_CROPS = {"train": 6, "val": 3}


def write_picture_crops(root: Path) -> None:
    """Write a small image folder of crops from three real pictures that Matplotlib ships.

    They are its sample data: a photograph (a portrait of Grace Hopper by the US Navy, in the
    public domain), an elevation map (of the Jacksboro fault), and a slice of a magnetic resonance
    scan of a head. A class is a region of one of them: six in the photograph, two in the map, one
    in the scan. Each region is a grid of tiles of 64 pixels. Like the squares of a chessboard,
    tiles alternate between training, with 6 random crops of 48 pixels each, and validation, with 3.
    So no pixel is in both splits.

    Parameters
    ----------
    root : Path
        The folder to create, with ``train`` and ``val``.

    Raises
    ------
    StorageError
        If Matplotlib's sample data aren't installed.
    """
    for picture, pixels in _pictures().items():
        rows, columns = pixels.shape[0] // _TILE, pixels.shape[1] // _TILE
        # Rows and columns of regions in each picture; each region is a class.
        high, wide = {"photograph": (3, 2), "elevation": (1, 2), "head": (1, 1)}[picture]
        for y, x in np.ndindex(rows, columns):
            # By tile instead of by crop, since crops of one tile overlap.
            split = "train" if (x + y) % 2 == 0 else "val"
            folder = root / split / f"{picture}-{y * high // rows}{x * wide // columns}"
            folder.mkdir(parents=True, exist_ok=True)
            # A random stream for each tile, so that its crops don't depend on the tiles before it.
            generator = torch.Generator().manual_seed(
                derive_seed("picture_crops", picture, int(y), int(x))
            )
            corners = torch.randint(
                _TILE - _CROP + 1, (_CROPS[split], 2), generator=generator
            ).tolist()
            for number, (dy, dx) in enumerate(corners):
                top, left = y * _TILE + dy, x * _TILE + dx
                crop = Image.fromarray(pixels[top : top + _CROP, left : left + _CROP])
                crop.save(folder / f"tile-{y}-{x}-{number:02}.png")


def _pictures() -> dict[str, np.ndarray[Any, Any]]:
    """Read the pictures, uint8 (H, W, 3), by name."""
    import matplotlib

    def grey(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        # Scaled by the range of the whole picture, so that tiles stay comparable with each other.
        share = (values - values.min()) / (float(values.max()) - float(values.min()))
        return np.repeat((255 * share).round().astype(np.uint8)[..., None], 3, axis=2)

    folder = Path(matplotlib.get_data_path()) / "sample_data"
    try:
        with Image.open(folder / "grace_hopper.jpg") as image:
            photograph = np.asarray(image.convert("RGB"))
        with np.load(folder / "jacksboro_fault_dem.npz") as file:
            elevation = grey(file["elevation"].astype(np.float64))
        with gzip.open(folder / "s1045.ima.gz") as scan:
            head = grey(np.frombuffer(scan.read(), np.uint16).reshape(256, 256).astype(np.float64))
    except (OSError, ValueError, LookupError) as error:
        raise StorageError(
            f"picture_crops are cut from Matplotlib's sample data, which can't be read ({error}). "
            "Install Matplotlib with them, or name an image folder of yours in LOTPERM_IMAGEFOLDER "
            "and use dataset=imagefolder."
        ) from error
    return {"photograph": photograph, "elevation": elevation, "head": head}
