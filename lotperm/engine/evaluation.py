"""Accuracy and loss of many networks at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from lotperm.data.batches import normalize, raw_batches
from lotperm.data.dataset import Dataset, Split
from lotperm.engine.stacking import StackedNetworks
from lotperm.parallel import distributed

EXAMPLES_AT_ONCE = {"cuda": 1000, "cpu": 250}
"""Type of a device -> examples per forward pass. A CPU's caches hold the activations of few: with
250 images, ResNet20 is evaluated in 0.6 of the time that it takes with 1,000.
"""


@torch.no_grad()
def evaluate_stack(
    networks: StackedNetworks,
    split: Split,
    data: Dataset,
    batch: int | None = None,
    workers: int = 0,
) -> dict[str, list[float]]:
    """Measure accuracy and mean cross-entropy of M networks on a split.

    Every example has the same weight. If there are several ranks, each takes a part of the split,
    and their counts are added up; all of them must call this.

    Parameters
    ----------
    networks : StackedNetworks
        The stack.
    split : Split
        Inputs ``(N, C, *spatial)`` and targets (N,) on the stack's device, or the files of an image
        folder.
    data : Dataset
        The data set that the split belongs to; its mean and standard deviation are used.
    batch : int, optional
        Number of examples per forward pass, by default `EXAMPLES_AT_ONCE`; fewer if images come
        from files and are large.
    workers : int, optional
        Number of processes that read files.

    Returns
    -------
    dict[str, list[float]]
        ``{"accuracy": [M fractions], "loss": [M nats]}``; for image folders with more than five
        classes also ``"top5"``, the fraction of examples whose target is among the five largest
        logits, as is usual for ImageNet.
    """
    networks.module.eval()
    device = networks.flat.device
    batch = batch or EXAMPLES_AT_ONCE[device.type]
    # Counted in integers, which is exact however batches and ranks divide the examples.
    hits, hits5 = torch.zeros(2, networks.members, dtype=torch.long, device=device)
    # In float64, since the sum has as many terms as there are examples.
    loss = torch.zeros(networks.members, dtype=torch.double, device=device)
    top5 = data.streamed and data.classes > 5
    own = distributed.share(len(split.targets))
    mine = Split(split.inputs[own], split.targets[own])
    for inputs, targets in raw_batches(mine, batch, workers, pin=device.type == "cuda"):
        x = normalize(inputs.to(device, non_blocking=True), data, networks.flat.dtype)
        # All members see the same examples; `expand` doesn't copy them. Under autocast, logits are
        # bfloat16, which is too coarse for a loss.
        logits = networks.module(x.unsqueeze(1).expand(-1, networks.members, *x.shape[1:])).float()
        hits += (logits.argmax(2) == targets).sum(1)
        if top5:
            hits5 += (logits.topk(5).indices == targets[:, None]).sum((1, 2))
        each = F.cross_entropy(
            logits.flatten(0, 1), targets.repeat(networks.members), reduction="none"
        )
        loss += each.view(networks.members, -1).double().sum(1)
    # Ranks may have parts of different size, so they exchange sums instead of means.
    size, hits, hits5, loss = len(split), *map(distributed.total, (hits, hits5, loss))
    found = {"accuracy": (hits / size).tolist(), "loss": (loss / size).tolist()}
    return {**found, "top5": (hits5 / size).tolist()} if top5 else found
