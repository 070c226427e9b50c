"""Loss along the line between two networks, and the barrier on it.

Two networks are linearly mode connected if the loss on the straight line between them never rises
above the losses of the ends (Frankle et al. 2020). Entezari et al. 2022 conjecture that networks
found by SGD are linearly mode connected once the units of one are permuted suitably; the barrier
that remains after matching measures how far this holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lotperm.errors import ParameterError, unknown_name
from lotperm.science.evaluation import Batches, evaluate
from lotperm.science.repair import (
    Statistics,
    between,
    preactivation_statistics,
    repaired,
    reset_batch_norm,
)
from lotperm.science.state_dicts import copy_of, read_weights

Repair = Literal["none", "bn", "repair"]

REPAIRS: tuple[Repair, ...] = ("none", "bn", "repair")


def interpolate(
    weights_a: Mapping[str, Tensor], weights_b: Mapping[str, Tensor], alpha: float
) -> dict[str, Tensor]:
    """Return the state dict ``(1 - alpha) a + alpha b``.

    Parameters
    ----------
    weights_a, weights_b : Mapping[str, Tensor]
        State dicts of one architecture.
    alpha : float
        Position on the line, within [0, 1].

    Returns
    -------
    dict
        In the dtypes and on the devices of `weights_a`. Integer buffers (`num_batches_tracked`)
        are those of `weights_a`.
    """
    return {
        name: torch.lerp(a, weights_b[name].to(a), alpha) if a.is_floating_point() else a.clone()
        for name, a in weights_a.items()
    }


def loss_barrier(
    model: nn.Module,
    weights_a: Mapping[str, Any] | nn.Module,
    weights_b: Mapping[str, Any] | nn.Module,
    data: Mapping[str, Batches],
    alphas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    *,
    repair: Repair = "none",
    statistics: Iterable[Tensor] | None = None,
) -> pd.DataFrame:
    """Evaluate the networks on the straight line between two networks.

    Permute A onto B first (`permute`) to see the barrier that remains after alignment.

    Parameters
    ----------
    model : nn.Module
        The architecture. A copy of it is used; its own weights don't matter.
    weights_a, weights_b : Mapping[str, Any] | nn.Module
        State dicts of the two ends, alpha = 0 and alpha = 1, or modules.
    data : Mapping[str, Batches]
        Split name -> batches of (inputs, targets). They are iterated once per alpha: a list or a
        `DataLoader`, not a generator.
    alphas : Sequence[float], optional
        Positions on the line, within [0, 1].
    repair : Repair, optional
        What is done to the interpolated network before it is evaluated, at the ends too.
        ``"none"``: nothing. ``"bn"``: `reset_batch_norm`. ``"repair"``: `repaired` (Jordan et al.
        2023).
    statistics : Iterable[Tensor] | None, optional
        Batches of training inputs for the repairs; without it, the inputs of ``data["train"]``.

    Returns
    -------
    pandas.DataFrame
        One row per alpha and split: `alpha`, `repair`, `split`, `loss` (nats), `accuracy`
        (fraction).

    Raises
    ------
    ParameterError
        Unknown repair, an alpha outside [0, 1], or no data to take the statistics from.
    """
    if repair not in REPAIRS:
        raise unknown_name("repair", repair, REPAIRS)
    if not all(0 <= alpha <= 1 for alpha in alphas):
        raise ParameterError(f"loss_barrier: alphas must lie in [0, 1], got {list(alphas)}.")
    batches: list[Tensor] = []
    if repair != "none":
        if statistics is None and "train" not in data:
            raise ParameterError(
                f"loss_barrier: repair={repair!r} needs training inputs, got data only for "
                f"{sorted(data)}; pass statistics=... or a 'train' split."
            )
        # Kept in memory, so that all networks on the line see the same batches.
        batches = (
            list(statistics) if statistics is not None else [inputs for inputs, _ in data["train"]]
        )

    network = copy_of(model).eval()
    names = network.state_dict()
    weights_a = read_weights(weights_a, names, "weights_a")
    weights_b = read_weights(weights_b, names, "weights_b")
    ends: list[Statistics] = []
    if repair == "repair":
        for weights in (weights_a, weights_b):
            network.load_state_dict(weights)
            ends.append(preactivation_statistics(network, batches))

    rows = []
    for alpha in alphas:
        network.load_state_dict(interpolate(weights_a, weights_b, alpha))
        if repair == "bn":
            reset_batch_norm(network, batches)
        with (
            repaired(network, between(ends[0], ends[1], alpha), batches) if ends else nullcontext()
        ):
            for split, pairs in data.items():
                result = evaluate(network, pairs)
                rows.append((alpha, repair, split, result.loss, result.accuracy))
    return pd.DataFrame(rows, columns=["alpha", "repair", "split", "loss", "accuracy"])


def barrier_height(curve: pd.DataFrame) -> pd.DataFrame:
    """Measure the height of the barrier for each (repair, split) of a table of `loss_barrier`.

    Parameters
    ----------
    curve : pandas.DataFrame
        As `loss_barrier` returns it; several such tables may be concatenated.

    Returns
    -------
    pandas.DataFrame
        One row per (repair, split). `loss_barrier` (nats) is the maximum over alpha of
        ``loss(alpha) - ((1 - alpha) loss(0) + alpha loss(1))`` (Entezari et al. 2022; Ainsworth et
        al. 2023).
        `accuracy_barrier` (fraction) is the mean accuracy of the ends minus that of the midpoint;
        NaN if alpha = 0.5 is not in the table.

    Raises
    ------
    ParameterError
        The ends (alpha = 0 and alpha = 1) are missing.
    """
    rows = []
    for (repair, split), part in curve.groupby(["repair", "split"], sort=False):
        alpha, loss = part["alpha"].to_numpy(float), part["loss"].to_numpy(float)
        accuracy = dict(zip(alpha, part["accuracy"].to_numpy(float), strict=True))
        if not {0.0, 1.0} <= accuracy.keys():
            raise ParameterError(
                f"barrier_height: the curve needs alpha 0 and 1, got {sorted(accuracy)}; add the "
                "ends."
            )
        straight = (1 - alpha) * loss[alpha == 0][0] + alpha * loss[alpha == 1][0]
        middle = (accuracy[0.0] + accuracy[1.0]) / 2 - accuracy.get(0.5, np.nan)
        rows.append((repair, split, float(np.max(loss - straight)), float(middle)))
    return pd.DataFrame(rows, columns=["repair", "split", "loss_barrier", "accuracy_barrier"])


def accuracy_barriers(lines: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Compute the accuracy barrier of each line of each seed.

    It is the mean accuracy of the ends minus that of the midpoint.

    Parameters
    ----------
    lines : pandas.DataFrame
        Columns `seed`, `ends` (which networks), `repair`, `alpha` (0, 0.5 and 1 among them) and
        `accuracy` (fraction).
    by : Sequence[str], optional
        Further columns that tell lines apart.

    Returns
    -------
    pandas.DataFrame
        One row per line: the columns `by`, seed, ends, repair, and `barrier`, a fraction.
    """
    wide = lines[lines["alpha"].isin([0.0, 0.5, 1.0])].pivot_table(
        index=[*by, "seed", "ends", "repair"], columns="alpha", values="accuracy", sort=False
    )
    return ((wide[0.0] + wide[1.0]) / 2 - wide[0.5]).rename("barrier").reset_index()


def error_barriers(lines: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Compute the error barrier of every line (Frankle et al. 2020).

    It is the maximum over alpha of the error minus the straight line between the errors of the
    ends. It is never below 0, so noise alone makes a mean of such barriers positive.

    Parameters
    ----------
    lines : pandas.DataFrame
        Columns `repair`, `alpha` (0 and 1 among them) and `accuracy` (fraction).
    by : Sequence[str], optional
        Further columns that tell lines apart.

    Returns
    -------
    pandas.DataFrame
        One row per line: the columns `by`, repair, and `barrier`, a fraction.
    """
    wide = lines.pivot_table(index=[*by, "repair"], columns="alpha", values="accuracy", sort=False)
    alphas = wide.columns.to_numpy(float)
    accuracy = wide.to_numpy()
    # Columns are sorted: the ends of the line are the first and the last.
    straight = np.outer(accuracy[:, 0], 1 - alphas) + np.outer(accuracy[:, -1], alphas)
    barrier = pd.Series((straight - accuracy).max(1), index=wide.index, name="barrier")
    return barrier.reset_index()
