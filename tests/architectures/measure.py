"""Trace, permute and rematch networks of other libraries, with random weights."""

from __future__ import annotations

import copy
import time
import warnings
from collections import Counter
from inspect import signature
from typing import Any

import torch
from architectures import hugging_face
from torch import Tensor, nn

from lotperm.science.matching import match_activations
from lotperm.science.symmetry import PermutationSpec, invert, permute
from lotperm.store.provenance import source_hash

# Library -> names, some with the size of their images where that isn't free.
ARCHITECTURES: dict[str, tuple[str, ...]] = {
    "torchvision": (
        "alexnet 224",
        "vgg11 32",
        "vgg16_bn 32",
        "resnet18",
        "resnet50",
        "resnext50_32x4d",
        "wide_resnet50_2",
        "densenet121",
        "googlenet",
        "inception_v3 299",
        "mnasnet1_0",
        "mobilenet_v2",
        "mobilenet_v3_large",
        "squeezenet1_1",
        "shufflenet_v2_x1_0",
        "efficientnet_b0",
        "efficientnet_v2_s",
        "regnet_x_400mf",
        "regnet_y_400mf",
        "convnext_tiny",
        "vit_b_16 224",
        "vit_b_32 224",
        "swin_t",
        "swin_v2_t",
        "maxvit_t 224",
        "fcn_resnet50",
        "deeplabv3_mobilenet_v3_large",
        "lraspp_mobilenet_v3_large",
    ),
    "timm": (
        "deit_tiny_patch16_224 224",
        "vit_small_patch32_224 224",
        "vit_little_patch16_reg4_gap_256 256",
        "eva02_tiny_patch14_224 224",
        "cait_xxs24_224 224",
        "xcit_nano_12_p16_224 224",
        "mixer_s32_224 224",
        "gmlp_ti16_224 224",
        "resmlp_12_224 224",
        "convmixer_768_32",
        "poolformer_s12",
        "pit_ti_224 224",
        "levit_128s 224",
        "coat_lite_tiny 224",
        "twins_pcpvt_small 224",
        "pvt_v2_b0",
        "swin_tiny_patch4_window7_224 224",
        "davit_tiny",
        "sequencer2d_s 224",
        "hiera_tiny_224 224",
        "mobilevit_xxs",
        "edgenext_xx_small",
        "efficientformer_l1 224",
        "fastvit_t8",
        "visformer_tiny 224",
        "convnextv2_atto",
        "res2net50_26w_4s",
        "skresnet18",
        "resnest14d",
        "ghostnet_100",
        "hrnet_w18_small",
        "mobileone_s0",
        "repvgg_a0",
        "nf_regnet_b0",
        "rexnet_100",
    ),
    "transformers": tuple(f"{name} 32" for name in hugging_face.NETWORKS),
}


def every() -> list[tuple[str, str, int]]:
    """Return library, name and image size of every network."""
    found = []
    for library, names in ARCHITECTURES.items():
        for name in names:
            name, _, size = name.partition(" ")
            found.append((library, name, int(size or 64)))
    return found


def network(library: str, name: str, batch: Tensor) -> nn.Module:
    """Make a network whose weights are random, those of norms too, with statistics of a batch."""
    torch.manual_seed(0)
    if library == "timm":
        import timm

        model = timm.create_model(name, num_classes=10)
    elif library == "transformers":
        model = hugging_face.build(name)
    else:
        import torchvision

        builder = torchvision.models.get_model_builder(name)
        # The networks for segmentation would fetch trained weights of their backbones.
        own = {"weights_backbone": None} if "weights_backbone" in str(signature(builder)) else {}
        model = builder(weights=None, num_classes=10, **own)
    if name == "vgg11" or name == "vgg16_bn":  # the same layers, without 120 million weights
        model.avgpool = nn.AdaptiveAvgPool2d(1)
        model.classifier[0], model.classifier[3] = nn.Linear(512, 256), nn.Linear(256, 128)
        model.classifier[6] = nn.Linear(128, 10)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.dim() < 2 or tensor.min() == tensor.max():
                tensor += 0.2 * torch.rand(tensor.shape)
        norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.momentum = None
        if norms:
            for module in model.modules():
                if isinstance(module, nn.Dropout) or type(module).__name__ == "DropPath":
                    module.eval()
            model.train()(batch)
    return model.eval()


def output(model: nn.Module, batch: Tensor) -> Tensor:
    found = model(batch)
    return found["logits" if "logits" in found else "out"] if isinstance(found, dict) else found


@torch.no_grad()
def deviation(
    model: nn.Module, weights: dict[str, Tensor], moved: dict[str, Tensor], batch: Tensor
) -> float:
    """Return by how much permuting changes the output, relative to its norm."""
    found = []
    for state in (weights, moved):
        model.load_state_dict(state)
        model.train().eval()  # some keep what they computed from the weights before
        found.append(output(model, batch))
    before, after = found
    return float((after - before).norm() / before.norm())


def measure(library: str, name: str, size: int) -> dict[str, Any]:
    """Return a row of the table; ``error`` says in a line why there is no more of it."""
    images = 16 if size <= 64 else 4
    if library == "transformers":
        batch = hugging_face.inputs(name, images)
    else:
        batch = torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(0))
    row: dict[str, Any] = {"library": library, "name": name, "pixels": size, "traced": False}
    row["source"] = source_hash()
    model = network(library, name, batch)
    row["parameters"] = sum(p.numel() for p in model.parameters())
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            spec = PermutationSpec.trace(model, batch[:2])
        except Exception as error:  # what stopped it is a result
            return row | {"error": str(error).splitlines()[0][:200]}
    fixed = Counter[str]()
    for part in spec.fixed:
        fixed[part.operation or "no unit like it"] += len(part.units)
    row |= {
        "traced": True,
        "seconds": round(time.process_time() - began, 1),
        "groups": len(spec.sizes),
        # Single weights of grouped convolutions are in groups of their own.
        "units": sum(n for group, n in spec.sizes.items() if not group.endswith("/weights")),
        "heads": sum(n for group, n in spec.sizes.items() if group.endswith("/heads")),
        "fixed": sum(fixed.values()),
        "by": dict(fixed.most_common(3)),
    }
    p = spec.random(torch.Generator().manual_seed(1))
    weights = copy.deepcopy(model.state_dict())  # with PyTorch's metadata, which some need
    moved = permute(weights, spec, p)
    row["deviation"] = deviation(model, weights, moved, batch)
    # Rounding in a deep network, or a mistake: float64 tells.
    if row["deviation"] > 1e-5:
        exact = batch.double() if batch.is_floating_point() else batch
        row["deviation"] = deviation(model.double(), weights, moved, exact)
        row["precision"] = "float64"
    found = match_activations(moved, weights, [batch], spec, keep_correlations=True)
    right = shown = missed = 0
    for group, order in invert(p).items():
        matrix = (found.correlations or {}).get(group)
        if matrix is None:  # no activation shows it, or it is a group of mere blocks
            continue
        units = torch.arange(len(order))
        alive = matrix[units, order] > 0.999
        same = found[group] == order
        equal = matrix[units, found[group]] > 0.999  # another unit with the same activation
        shown += len(order)
        right += int(same.sum())
        missed += int((alive & ~same & ~equal).sum())
    return row | {"shown": shown, "recovered": right, "missed": missed}
