"""A small vision transformer, for images and for signals.

It is ViT (Dosovitskiy et al. 2021) at the size of MNIST-1D: patches, learned positions, blocks of
attention and MLP that add to a residual stream, each after a layer norm, and a classifier on the
mean over positions, as in Beyer et al. (2022), instead of a class token.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

PATCHES = {1: 8, 2: 4}
"""Number of spatial dimensions -> number of patches along each of them."""

_CONV: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d}


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017) with separate linear layers for q, k and v.

    Parameters
    ----------
    dim, heads : int
        Width of the residual stream, and the number of heads that share it equally.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, dim) to (B, T, dim)."""
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        # Written out because the fused kernel can't be mapped over networks on a CPU.
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, each applied after a layer norm and added to the residual stream.

    Parameters
    ----------
    dim, heads, hidden : int
        Width of the stream, number of heads, hidden units of the MLP.
    """

    def __init__(self, dim: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, dim) to (B, T, dim)."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class VisionTransformer(nn.Module):
    """A ViT for small data sets, not to be confused with ViT-Ti, which is far larger.

    Parameters
    ----------
    shape : tuple of int
        ``(C, *spatial)`` of an example; each side must be a multiple of `PATCHES`.
    classes : int
        Number of outputs.
    width : float, optional
        Multiplies the 8 units of each head. The stream has as many units as all 4 heads together,
        the MLP twice as many.
    depth : int, optional
        Number of blocks.
    """

    HEADS: ClassVar[int] = 4
    stay_dense: ClassVar[frozenset[str]] = frozenset({"positions"})
    """Biases by position, which aren't weights, so the paper's pruning rule leaves them alone."""

    def __init__(
        self, shape: tuple[int, ...], classes: int, *, width: float = 1, depth: int = 2
    ) -> None:
        super().__init__()
        dim = self.HEADS * max(1, round(8 * width))
        dims = len(shape) - 1
        patch = tuple(side // PATCHES[dims] for side in shape[1:])
        self.patches = _CONV[dims](shape[0], dim, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn(PATCHES[dims] ** dims, dim))
        self.blocks = nn.Sequential(*(Block(dim, self.HEADS, 2 * dim) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of inputs ``(B, C, *spatial)``."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return self.classifier(self.norm(self.blocks(x)).mean(1))
