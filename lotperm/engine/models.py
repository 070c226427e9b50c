"""The networks of the paper, and their 1-D versions for MNIST-1D.

Every network is a plain `torch.nn.Module`; nothing here knows about masks or permutations. `build`
makes one by name, `initialize` draws its weights from a seed. The distributions are those of the
authors' code: Kaiming normal (He et al. 2015), by fan-in for ResNets and by fan-out for VGG11;
PyTorch's default for the MLP and the vision transformer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lotperm.engine.transformer import PATCHES, VisionTransformer
from lotperm.errors import ParameterError, unknown_name

Weights = dict[str, Tensor]

_CONV = {1: nn.Conv1d, 2: nn.Conv2d}
_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}
_MAX_POOL = {1: nn.MaxPool1d, 2: nn.MaxPool2d}
_GLOBAL_POOL = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d}


class MLP(nn.Module):
    """Fully connected ReLU network.

    Parameters
    ----------
    in_features : int
        Number of inputs after flattening.
    hidden : Sequence[int]
        Width of each hidden layer.
    classes : int
        Number of outputs.
    """

    def __init__(self, in_features: int, hidden: Sequence[int], classes: int) -> None:
        super().__init__()
        sizes = [in_features, *hidden]
        layers: list[nn.Module] = [nn.Flatten()]
        for n_in, n_out in itertools.pairwise(sizes):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(sizes[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of inputs (B, ...)."""
        return self.classifier(self.features(x))


class BasicBlock(nn.Module):
    """Two 3-wide convolutions with batch norm, and a shortcut that is added to their output.

    If the shape changes, the shortcut is a 3-wide convolution with batch norm. This is the paper's
    choice; He et al. (2016) use a 1-wide convolution or none.
    """

    def __init__(self, n_in: int, n_out: int, stride: int, dims: int) -> None:
        super().__init__()
        conv, norm = _CONV[dims], _NORM[dims]
        # No biases, since the batch norm after each convolution would subtract them again.
        self.conv1 = conv(n_in, n_out, 3, stride=stride, padding=1, bias=False)
        self.bn1 = norm(n_out)
        self.conv2 = conv(n_out, n_out, 3, padding=1, bias=False)
        self.bn2 = norm(n_out)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        # The paper's 3-wide shortcut, which stays dense under the paper's pruning rule.
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(
                conv(n_in, n_out, 3, stride=stride, padding=1, bias=False), norm(n_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, n_in, *spatial)`` to ``(B, n_out, *spatial / stride)``."""
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet(nn.Module):
    """The CIFAR ResNet of depth 6n + 2 (He et al. 2016), in one or two spatial dimensions.

    Parameters
    ----------
    in_channels, classes : int
        Sizes of input and output.
    blocks : int, optional
        n, the number of residual blocks per stage; 3 gives ResNet20, 1 gives ResNet8.
    width : float, optional
        Multiplies the 16, 32 and 64 channels of the three stages.
    dims : int, optional
        1 for signals, 2 for images.
    """

    def __init__(
        self, in_channels: int, classes: int, *, blocks: int = 3, width: float = 1, dims: int = 2
    ) -> None:
        super().__init__()
        # Even the narrowest stage has at least one channel.
        channels = [max(1, round(16 * 2**stage * width)) for stage in range(3)]
        self.conv1 = _CONV[dims](in_channels, channels[0], 3, padding=1, bias=False)
        self.bn1 = _NORM[dims](channels[0])
        self.relu = nn.ReLU()
        n_in = channels[0]
        stages = []
        for stage, n_out in enumerate(channels):
            stage_blocks = []
            for block in range(blocks):
                stage_blocks.append(
                    BasicBlock(n_in, n_out, 2 if stage > 0 and block == 0 else 1, dims)
                )
                n_in = n_out
            stages.append(nn.Sequential(*stage_blocks))
        self.layer1, self.layer2, self.layer3 = stages
        self.pool = _GLOBAL_POOL[dims](1)
        self.classifier = nn.Linear(n_in, classes)
        # Norms keep PyTorch's initial weight 1 and bias 0; the mode is the default, fan-in.
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of inputs ``(B, in_channels, *spatial)``."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.classifier(torch.flatten(self.pool(x), 1))


class VGG11(nn.Module):
    """VGG11 for CIFAR (Simonyan and Zisserman 2015), without batch norm and with one linear layer.

    Parameters
    ----------
    in_channels, classes : int
        Sizes of input and output.
    width : float, optional
        Multiplies every channel count.
    dims : int, optional
        1 for signals, 2 for images. Five poolings halve the input, so each side needs at least 32
        values.
    """

    LAYOUT = (64, "M", 128, "M", 256, 256, "M", 512, 512, "M", 512, 512, "M")

    def __init__(self, in_channels: int, classes: int, *, width: float = 1, dims: int = 2) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in = in_channels
        for item in self.LAYOUT:
            if isinstance(item, str):
                layers.append(_MAX_POOL[dims](2))
            else:
                n_out = max(1, round(item * width))
                # With a bias, as no batch norm follows.
                layers += [_CONV[dims](n_in, n_out, 3, padding=1), nn.ReLU()]
                n_in = n_out
        # With 32 pixels a side, the five poolings leave one value, and this one does nothing.
        self.features = nn.Sequential(*layers, _GLOBAL_POOL[dims](1))
        self.classifier = nn.Linear(n_in, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv1d | nn.Conv2d):
                # By fan-out, as in the authors' code; ResNets use the fan-in.
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        # As in torchvision's VGG.
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of inputs ``(B, in_channels, *spatial)``."""
        return self.classifier(torch.flatten(self.features(x), 1))


def torchvision_resnet50(classes: int, width: float = 1) -> nn.Module:
    """Make torchvision's ResNet50, in its wide form above width 1, with fewer channels below 1."""
    # Imported here because no other network needs torchvision.
    from torchvision.models import resnet50
    from torchvision.models.resnet import Bottleneck, ResNet

    if width >= 1:
        # In torchvision this widens the two inner convolutions of each bottleneck, but not the
        # stream between bottlenecks.
        return resnet50(weights=None, num_classes=classes, width_per_group=round(64 * width))

    # torchvision's constructor has its 64 to 512 channels built in, so this one replaces it; the
    # attributes are those that `_make_layer` reads.
    class NarrowResNet50(ResNet):  # type: ignore[misc]  # torchvision has no types
        def __init__(self) -> None:
            nn.Module.__init__(self)
            channels = [max(1, round(64 * 2**stage * width)) for stage in range(4)]
            self._norm_layer, self.groups, self.base_width, self.dilation = nn.BatchNorm2d, 1, 64, 1
            self.inplanes = channels[0]
            self.conv1 = nn.Conv2d(3, self.inplanes, 7, stride=2, padding=3, bias=False)
            self.bn1 = nn.BatchNorm2d(self.inplanes)
            self.relu = nn.ReLU(inplace=True)
            self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
            for stage, blocks in enumerate((3, 4, 6, 3)):
                layer = self._make_layer(
                    Bottleneck, channels[stage], blocks, stride=1 if stage == 0 else 2
                )
                self.add_module(f"layer{stage + 1}", layer)
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.fc = nn.Linear(4 * channels[3], classes)
            for module in self.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    return NarrowResNet50()


def _dims(name: str, shape: tuple[int, ...]) -> int:
    """Return the number of spatial dimensions, or raise an error if it is neither 1 nor 2."""
    dims = len(shape) - 1
    if dims not in _CONV:
        raise ParameterError(
            f"{name} needs inputs (C, L) or (C, H, W), got {shape}. Use model='mlp'."
        )
    return dims


def _mlp(shape: tuple[int, ...], classes: int, width: float, hidden: Sequence[int]) -> nn.Module:
    return MLP(math.prod(shape), [max(1, round(h * width)) for h in hidden], classes)


def _resnet(
    name: str,
    blocks: int,
    shape: tuple[int, ...],
    classes: int,
    width: float,
    hidden: Sequence[int],
) -> nn.Module:
    return ResNet(shape[0], classes, blocks=blocks, width=width, dims=_dims(name, shape))


def _resnet50(
    shape: tuple[int, ...], classes: int, width: float, hidden: Sequence[int]
) -> nn.Module:
    if _dims("resnet50", shape) != 2 or shape[0] != 3 or min(shape[1:]) < 32:
        raise ParameterError(
            f"resnet50 needs RGB images of at least 32x32, got {shape}. Use resnet20."
        )
    return torchvision_resnet50(classes, width)


def _vgg11(shape: tuple[int, ...], classes: int, width: float, hidden: Sequence[int]) -> nn.Module:
    dims = _dims("vgg11", shape)
    if min(shape[1:]) < 32:
        raise ParameterError(
            f"vgg11 halves its input five times: needs 32 values a side, got {shape}. Use resnet20."
        )
    return VGG11(shape[0], classes, width=width, dims=dims)


def _vit_tiny(
    shape: tuple[int, ...], classes: int, width: float, hidden: Sequence[int]
) -> nn.Module:
    patches = PATCHES[_dims("vit_tiny", shape)]
    if any(side % patches for side in shape[1:]):
        raise ParameterError(
            f"vit_tiny cuts each side into {patches} equal patches: needs multiples of {patches}, "
            f"got {shape}. Use resnet8."
        )
    return VisionTransformer(shape, classes, width=width)


Builder = Callable[[tuple[int, ...], int, float, Sequence[int]], nn.Module]
"""Makes a network from the shape of an example, the number of classes, the width and the hidden
widths, as in `build`; raises `ParameterError` if it has no form for the shape.
"""

NETWORKS: Mapping[str, Builder] = {
    "mlp": _mlp,
    "resnet8": partial(_resnet, "resnet8", 1),
    "resnet20": partial(_resnet, "resnet20", 3),
    "resnet50": _resnet50,
    "vgg11": _vgg11,
    "vit_tiny": _vit_tiny,
}
"""The networks by name; the names are those of `lotperm.config.choices.MODELS`."""


def build(
    name: str,
    *,
    input_shape: tuple[int, ...],
    classes: int,
    width: float = 1,
    hidden: Sequence[int] = (128, 128),
) -> nn.Module:
    """Make a network by name, its weights as PyTorch's global generator draws them.

    Parameters
    ----------
    name : str
        One of `NETWORKS`. ``resnet8``, ``resnet20``, ``vgg11`` and ``vit_tiny`` are 1-D if the
        input is a signal; ``resnet50`` is torchvision's, for images of at least 32 pixels a side.
    input_shape : tuple[int, ...]
        ``(C, *spatial)`` of one example.
    classes : int
        Number of outputs.
    width : float, optional
        Multiplies the channels (the hidden widths of ``mlp``). Above 1, for ``resnet50``, it
        multiplies only those of the two inner convolutions of each bottleneck, as in torchvision's
        wide form; 2 gives ``wide_resnet50_2``.
    hidden : Sequence[int], optional
        Hidden widths of ``mlp``; other networks ignore it.

    Returns
    -------
    nn.Module
        The network, in training mode, float32, on the CPU.

    Raises
    ------
    ParameterError
        If the name is unknown, or the network has no form for this input.
    """
    if name not in NETWORKS:
        raise unknown_name("model", name, NETWORKS)
    return NETWORKS[name](input_shape, classes, width, hidden)


class _Unfilled(TorchFunctionMode):
    """Skip the operations that fill new tensors with random numbers."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init" or func in _RANDOM:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


_RANDOM = (Tensor.normal_, Tensor.uniform_)


@contextmanager
def shapes_alone() -> Iterator[None]:
    """Build networks that have shapes but no values, on PyTorch's meta device, within a context.

    This takes no memory, however large the networks are.
    """
    # On that device, even drawing no numbers takes two seconds: PyTorch does it in Python, and
    # loads its compiler for that.
    with torch.device("meta"), _Unfilled():
        yield


def initialize(factory: Callable[[], nn.Module], seed: int) -> Weights:
    """Draw a new initialization of a network from a seed.

    Parameters
    ----------
    factory : Callable[[], nn.Module]
        Makes the network, e.g. ``lambda: build("mlp", input_shape=(1, 40), classes=10)``.
    seed : int
        0 ≤ seed < 2**63; the same seed gives the same weights whatever device trains them.

    Returns
    -------
    Weights
        A complete state dict on the CPU. PyTorch's global generator is left as it was.
    """
    # Networks are made on the CPU, so only the CPU's generator is used and must be restored.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = factory()
    # Clones, as a state dict shares its memory with the module.
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
