"""The page of ResNet50."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure

from lotperm.config.experiment import Experiment
from lotperm.data.datasets import info
from lotperm.science.sparsity import Mask, round_sparsities
from lotperm.studies import charts
from lotperm.studies.arms import page as arms
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.connectivity.page import Lines
from lotperm.studies.examples import class_examples
from lotperm.studies.imagenet.study import STUDY
from lotperm.studies.study import Study

VIEWS = 4
"""Number of augmented versions that are shown of each example."""


class Page(arms.Page, Lines):
    """The page of the arms and the lines of ResNet50."""

    study: ClassVar[Study[Any]] = STUDY

    def examples(self) -> Figure:
        """Draw an image of each class, as evaluation and as training see it."""
        data = self.pipeline.data
        pictures = class_examples(data.train, classes=min(9, data.classes), views=VIEWS)
        rows = ["evaluation", *["training"] * VIEWS]
        return charts.example_images(pictures, rows, title=f"What a network sees ({self.about})")

    def images_in_short(self) -> str:
        """Say how many images there are, and of how many classes."""
        train, test = self.pipeline.data.train, self.pipeline.data.test
        classes = [int(split.targets.unique().numel()) for split in (train, test)]
        return (
            f"{len(train)} images to train on, {len(test)} to validate on; "
            f"classes seen in each: {classes}"
        )

    @cached_property
    def mask(self) -> Mask:
        """Ticket of the first replicate, at the first sparsity and rewind epoch."""
        e = self.experiment
        return self.pipeline.masks(e.sparsities[0], e.rewind_epochs[0])[0]

    def _groups(self) -> tuple[list[str], list[str]]:
        """Name the groups of residual streams, and those inside bottlenecks."""
        spec = self.pipeline.spec
        # Every block adds to its stage's stream, so a stream can be observed at several points; a
        # unit inside a bottleneck only at one. The stem is neither.
        streams = [g for g in spec.sizes if len(spec.points[g]) > 1]
        return streams, [g for g in spec.sizes if g not in streams and g != "conv1"]

    def groups(self) -> pd.DataFrame:
        """Return the permutation groups of the network, by kind."""
        # The ticket is made here, where progress may be shown: the next cell's output is checked.
        _ = self.mask
        sizes, (streams, inner) = self.pipeline.spec.sizes, self._groups()
        # Units inside ResNet50's bottlenecks at width 1, stage by stage; a stream has four times as
        # many.
        whole = [64 * 2**stage for stage in range(4)]
        rows = {
            "stem": (1, f"{sizes['conv1']}", f"{whole[0]}"),
            "residual streams, one a stage": (
                len(streams),
                ", ".join(str(sizes[g]) for g in streams),
                ", ".join(str(4 * n) for n in whole),
            ),
            "inside bottlenecks": (
                len(inner),
                ", ".join(map(str, sorted({sizes[g] for g in inner}))),
                ", ".join(map(str, whole)),
            ),
        }
        width = f"units each, width {self.experiment.model.width:g}"
        return pd.DataFrame(rows, index=["permutations", width, "at width 1"]).T

    def groups_in_short(self) -> str:
        """Say how many groups there are, and what the mask prunes."""
        streams, inner = self._groups()
        kept = sum(int(m.sum()) for m in self.mask.values())
        total = sum(m.numel() for m in self.mask.values())
        return "\n".join(
            [
                f"permutation groups: {len(self.pipeline.spec.sizes)} streams: {len(streams)} "
                f"inside bottlenecks: {len(inner)}",
                f"downsample convolutions pruned: {any('downsample' in name for name in self.mask)}",
                f"sparsity of the mask: {1 - kept / total:.4f}",
            ]
        )

    def midpoints(self) -> pd.DataFrame:
        """Put the midpoints of the lines beside the published one."""
        words = {"midpoint accuracy (%)": "midpoint, top-1 (%)"}
        return self.beside_lines("imagenet")[[*words]].rename(columns=words)

    def full_scale(self) -> pd.DataFrame:
        """Return the protocol and the size of the profile `paper`, beside the authors' scripts."""
        # Whatever the page's profile, this table gives the full size.
        figures = {"paper": self.figure, "scripts": f"{self.figure}_scripts"}
        return pd.DataFrame(
            {
                words: _scale(*Experiment.for_figure(figure, profile="paper"))
                for words, figure in figures.items()
            }
        )


def _scale(e: Experiment) -> dict[str, str]:
    """Return the protocol of an experiment, and its epochs, images and days."""
    d, tune, k, fraction = e.dense, e.pruning.finetune, e.rewind_epochs, e.pruning.fraction
    # Rounds that sparsities share are trained once.
    rounds = {t for s in e.sparsities for t in round_sparsities(s, fraction)}
    sparse_epochs = sum(e.sparse_recipe(x).epochs for x in k)
    arms_epochs = len(PAPER_ARMS) * len(e.sparsities) * sparse_epochs
    epochs = len(e.seeds) * (2 * d.epochs + len(rounds) * tune.epochs + arms_epochs)
    images = epochs * info(e.data).train
    at = " and ".join(map(str, d.milestones))
    return {
        "dense": f"{d.epochs} epochs, batch {d.batch_size}, SGD {d.lr:g}, momentum "
        f"{d.momentum:g}, weight decay {d.weight_decay:g}",
        "schedule": f"warm-up {d.warmup_epochs} epochs, × {d.gamma:g} at epochs {at}",
        "mask": f"rounds of {100 * fraction:g} %, {tune.epochs} epochs each at constant "
        f"{tune.lr:g}; no downsample convolution",
        "arms": f"{d.epochs} − k epochs, the schedule anew at {e.sparse_lr:g}",
        "settings": f"k = {', '.join(map(str, k))}; S = {', '.join(map(str, e.sparsities))}; "
        f"seeds {len(e.seeds)}",
        "images": f"{e.data.image_size} pixels, random resized crop and flip; evaluation "
        f"{e.data.resize_size}, centre cut out",
        "matching": f"{e.matching.samples:,} training images, not augmented",
        "epochs in all": f"{epochs:,}: {images / 1e9:.1f} billion images",
        "days at 3,000 images a second": f"{images / 3000 / 86400:.0f}",
    }
