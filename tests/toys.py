"""A small data set that can be learned, and small networks, for tests of the engine."""

import torch

from lotperm.data.dataset import Dataset, Split
from lotperm.engine.models import build

SIGNAL, IMAGE = (1, 40), (3, 32, 32)


def toy(shape, n=96, classes=5, seed=0):
    """A small learnable data set: noise plus a pattern for each class."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.randn(classes, *shape, generator=generator)

    def split(size):
        targets = torch.randint(classes, (size,), generator=generator)
        inputs = patterns[targets] + torch.randn(size, *shape, generator=generator)
        if len(shape) == 3:
            inputs = (inputs * 30 + 128).clamp(0, 255).to(torch.uint8)
        return Split(inputs, targets)

    channels = shape[0]
    scale = 255 if len(shape) == 3 else 1
    mean, std = (
        torch.full((channels,), v / scale) for v in ((128.0, 45.0) if scale > 1 else (0.0, 1.0))
    )
    return Dataset("toy", split(n), split(n // 2), classes, mean, std)


def factory(name, shape, classes=5):
    width = {"mlp": 0.125, "vgg11": 0.0625, "resnet8": 0.25, "resnet20": 0.25, "vit_tiny": 0.25}[
        name
    ]
    return lambda: build(name, input_shape=shape, classes=classes, width=width)
