"""Our lines beside published ones."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.science.barrier import accuracy_barriers
from lotperm.studies.numbers import Number
from lotperm.studies.published import live_label, paper, recorded


def beside_connectivity(
    experiments: Sequence[Experiment], lines: Sequence[pd.DataFrame], dataset: str | None = None
) -> pd.DataFrame:
    """Put midpoints and barriers of matched networks, live and recorded, beside published ones.

    Parameters
    ----------
    experiments : sequence of Experiment
        The experiments that were run, one for each width.
    lines : sequence of DataFrame
        The lines of each, as `Pipeline.connectivity` returns them.
    dataset : str, optional
        Only lines on this data set; by default all.

    Returns
    -------
    DataFrame
        Index (whose, network, stage: "permuted" and what was repaired); columns midpoint accuracy
        (percent) and barrier (points), ours with 95 % intervals over seeds; texts, "" where none
        is published.
    """
    published = paper("lmc_reference")
    if dataset is not None:
        published = published[published["dataset"] == dataset]
    rows = {
        ("reference", f"{r['model']}, {r['dataset']}", r["stage"]): [
            Number(r["midpoint_test_acc"]),
            Number(r["barrier"]),
        ]
        for r in published.to_dict("records")
    }
    ours = [
        (live_label(e), f"{e.model.name}x{e.model.width:g}", line)
        for e, line in zip(experiments, lines, strict=True)
    ]
    for run in recorded(dataset, kind="connectivity"):
        model = run.experiment["model"]
        ours.append((run.label, f"{model['name']}x{model['width']:g}", run.summary))
    # The published table's words for what was repaired.
    stages = {"none": "permuted", "bn": "permuted+bn_reset", "repair": "permuted+repair"}
    for label, network, line in ours:
        # The middle is always among the positions: barriers are defined by it.
        barriers, middles = accuracy_barriers(line), line[line["alpha"] == 0.5]
        for repair in line["repair"].unique():
            rows[label, network, stages[repair]] = [
                # Only the line from π(A), since the published networks are matched.
                Number.of(part.loc[(part["ends"] == "permuted") & (part["repair"] == repair), what])
                for part, what in ((middles, "accuracy"), (barriers, "barrier"))
            ]
    shown = {name: [number.text(1) for number in row] for name, row in rows.items()}
    table = pd.DataFrame(shown, index=["midpoint accuracy (%)", "barrier (points)"]).T
    return table.rename_axis(["", "network", "stage"])


def barriers_by_width(
    experiments: Sequence[Experiment], lines: Sequence[pd.DataFrame]
) -> pd.DataFrame:
    """Collect the barrier from π(A) to B at every width, batch norm reset: the paper's Figure 3.

    Parameters
    ----------
    experiments, lines : sequence
        As in `beside_connectivity`.

    Returns
    -------
    DataFrame
        Columns source (what was computed here, recorded, and published by REPAIR's authors), width,
        barrier and half_width (points; NaN where there is no interval).
    """
    runs = [
        (f"{live_label(e)}, {e.model.name}", e.model.width, line)
        for e, line in zip(experiments, lines, strict=True)
    ]
    for run in recorded(kind="connectivity"):
        model = run.experiment["model"]
        runs.append(
            (
                f"recorded, {run.experiment['data']['name']}, {model['name']}",
                model["width"],
                run.summary,
            )
        )
    rows = []
    for source, width, line in runs:
        found = accuracy_barriers(line)
        chosen = found[(found["ends"] == "permuted") & (found["repair"] == "bn")]
        # A page may have been asked only for other repairs.
        if len(chosen):
            rows.append((source, width, *Number.of(chosen["barrier"])))
    published = paper("lmc_reference")
    published = published[published["model"].str.startswith("resnet20")].dropna(subset="barrier")
    widths = published["model"].str.rpartition("x")[2].astype(float)
    for width, barrier in zip(widths, published["barrier"], strict=True):
        rows.append(("REPAIR's authors, cifar10, resnet20", width, barrier, math.nan))
    columns = ["source", "width", "barrier", "half_width"]
    return pd.DataFrame(rows, columns=columns).sort_values(["source", "width"], kind="stable")
