"""Pictures of an image folder, as evaluation and training see them."""

from __future__ import annotations

import torch
from torch import Tensor

from lotperm.data.dataset import Split
from lotperm.data.images import ImageFiles
from lotperm.errors import ParameterError


def class_examples(split: Split, *, classes: int, views: int) -> dict[str, list[Tensor]]:
    """Read the first image of some classes, as evaluation and as training see it.

    Parameters
    ----------
    split : Split
        A split of an image folder.
    classes : int
        The largest number of classes, in the order in which the split has them.
    views : int
        The number of augmented versions of each image, each with another seed.

    Returns
    -------
    dict
        Class, sorted by name -> 1 + `views` images, uint8 (3, image_size, image_size).

    Raises
    ------
    ParameterError
        If the split holds no files.
    """
    files = split.inputs
    if not isinstance(files, ImageFiles):
        raise ParameterError(
            "class_examples: expected a split of an image folder, got a tensor of examples."
        )
    # A file's folder is named after its class, so choosing the images takes no decoding.
    rows: dict[str, int] = {}
    for row in range(len(split)):
        rows.setdefault(files.class_name(row), row)
        if len(rows) == classes:
            break
    return {
        name: [
            files.read(torch.tensor(row)),
            # Augmentation is drawn by seed, epoch and example. Here only the seed differs.
            *files.read_augmented(torch.tensor([[row] * views]), range(views), 0)[0],
        ]
        for name, row in sorted(rows.items())
    }
