"""Augmentation whose random draws belong to the individual examples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from lotperm.config.choices import Augment
from lotperm.config.seeds import derive_seed
from lotperm.errors import ParameterError
from lotperm.types import Bool, Int64, Num


def draw_augmentation(
    n: int, seed: int, epoch: int, kind: Augment = "flip_crop", pad: int = 4
) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " n"], Bool[Tensor, " n"]]:
    """Draw crops and flips of n images for one epoch, the same on every device.

    Parameters
    ----------
    n : int
        Number of images.
    seed, epoch : int
        Each pair has its own random stream.
    kind : Augment, optional
        ``none``, ``crop`` (a random crop after padding) or ``flip_crop`` (also a flip with
        probability 1/2).
    pad : int, optional
        Pixels of padding on each side.

    Returns
    -------
    dy, dx : Tensor of int64, shape (n,)
        The crop's corner in the padded image, in 0..2·pad; on the CPU.
    flip : Tensor of bool, shape (n,)
        True where the image is flipped from left to right; on the CPU.
    """
    generator = torch.Generator().manual_seed(derive_seed("augmentation", seed, epoch))
    # Both are drawn whatever the kind, so the crops of a seed are the same with and without flips.
    corner = torch.randint(2 * pad + 1, (2, n), generator=generator)
    flip = torch.rand(n, generator=generator) < 0.5
    if kind == "none":
        corner = torch.full_like(corner, pad)
    if kind != "flip_crop":
        flip = torch.zeros_like(flip)
    return corner[0], corner[1], flip


def augment(
    images: Num[Tensor, " ..."],
    dy: Int64[Tensor, " ..."],
    dx: Int64[Tensor, " ..."],
    flip: Bool[Tensor, " ..."],
    *,
    pad: int = 4,
    padded: bool = False,
) -> Num[Tensor, "*leading channels height width"]:
    """Crop each image at its own corner, then flip it from left to right if `flip` says so.

    The result equals that of torchvision's ``pad``, ``crop`` and ``hflip`` on each image, but takes
    one gather for any number of leading dimensions (members, batch).

    Parameters
    ----------
    images : Tensor, shape (..., C, H, W)
        Of any number type, not yet normalized, as padding is zero. With `padded`, the shape is
        (..., C, H + 2·pad, W + 2·pad).
    dy, dx : Tensor of int64, shape (...,)
        In 0..2·pad, on the same device.
    flip : Tensor of bool, shape (...,)
        On the same device.
    pad : int, optional
        Pixels of padding on each side.
    padded : bool, optional
        Whether the images are padded already.

    Returns
    -------
    Tensor, shape (..., C, H, W)
        In the dtype of the images.

    Raises
    ------
    ParameterError
        If the leading dimensions differ.
    """
    if not (images.ndim >= 3 and images.shape[:-3] == dy.shape == dx.shape == flip.shape):
        shapes = ", ".join(str(tuple(t.shape)) for t in (images, dy, dx, flip))
        raise ParameterError(
            f"augment needs images (..., C, H, W) and dy, dx, flip (...); got {shapes}."
        )
    if not padded:
        images = functional.pad(images, (pad, pad, pad, pad))
    channels, wide = images.shape[-3], images.shape[-1]
    height, width = images.shape[-2] - 2 * pad, wide - 2 * pad
    y = dy[..., None] + torch.arange(height, device=images.device)
    x = torch.arange(width, device=images.device)
    # To flip is to read the columns backwards, which takes no extra pass.
    x = dx[..., None] + torch.where(flip[..., None], width - 1 - x, x)
    # (..., H·W): indices into flattened rows and columns, so that one gather moves both axes.
    index = (y[..., :, None] * wide + x[..., None, :]).flatten(-2)
    # This is a view: all channels share one index in memory.
    index = index[..., None, :].expand(*index.shape[:-1], channels, height * width)
    return images.flatten(-2).gather(-1, index).view(*images.shape[:-2], height, width)
