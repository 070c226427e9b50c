"""Arms of the paper, of recorded runs and of a page in one form, so that they can share axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.claims import numbers
from lotperm.studies.origin import HERE, Origin, of_file, of_record, of_table
from lotperm.studies.published import Recorded, paper, recorded
from lotperm.studies.results import Results

Kind = Literal["paper", "recorded", "live"]

SETTING = ["units", "sparsity", "rewind_epoch"]
"""Columns that tell the settings of a series apart."""

_FIRST = {"resnet8": 16, "resnet20": 16, "resnet50": 64, "vgg11": 64, "vit_tiny": 32}
"""Channels of the narrowest layer at width 1; the layers after it are at least as wide."""

_EPOCHS = {"imagenet": 80}
"""Dense epochs of the paper where they aren't the 200 of CIFAR."""

NAMES = {
    **numbers.NAMES,
    "mlp": "MLP",
    "resnet8": "ResNet8",
    "vit_tiny": "tiny ViT",
    "mnist1d": "MNIST-1D",
    "fashion_mnist": "Fashion-MNIST",
    "svhn": "SVHN",
    "imagefolder": "an image folder",
    "picture_crops": "crops of pictures",
    "cifar10_png": "CIFAR-10 in files",
}
"""Networks and data sets as running text writes them."""


@dataclass(frozen=True)
class Series:
    """The arms of one network on one data set at several settings.

    Attributes
    ----------
    kind : {"paper", "recorded", "live"}
        Whose numbers they are.
    label : str
        Kind, network and data set, for legends.
    table : DataFrame
        A row for each setting and seed: `SETTING`, ``rewind`` (k as a share of dense training, in
        percent), ``seed`` (0 for the paper, which prints means), lth, permuted, naive (percent),
        gain = permuted − naive and gap = lth − naive (points). NaN where an arm isn't reported.
    profile : str
        The profile that it was run at, "" for the paper.
    origins : tuple of Origin
        Where the numbers come from; by default from the page that shows them.
    """

    kind: Kind
    label: str
    table: pd.DataFrame
    profile: str = ""
    origins: tuple[Origin, ...] = (HERE,)

    @property
    def rewound(self) -> pd.DataFrame:
        """The rows with k > 0: from a truly random start there is little to gain for anyone."""
        return self.table[self.table["rewind_epoch"] > 0]

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return int(self.table["seed"].nunique())


def narrowest(model: Mapping[str, Any]) -> int:
    """Return the number of units of a network's narrowest permuted layer, from plain data.

    Networks of different kinds share an axis by it: ResNet20×4 has 64 channels there, and an MLP
    with two hidden layers of 64 has 64 units.
    """
    if model["name"] == "mlp":
        return min(max(1, round(h * model["width"])) for h in model["hidden"])
    return max(1, round(_FIRST[model["name"]] * model["width"]))


def of_paper(figure: str) -> Series:
    """Return the paper's numbers that belong to a figure of the book.

    Parameters
    ----------
    figure : str
        A figure of its Tables 5 to 14, or "svhn".

    Returns
    -------
    Series
        Without LTH for SVHN, where the paper reports only permuted and naive.
    """
    if figure == "svhn":
        raw = paper("svhn_resnet20x1")
        table = raw.pivot(
            index=["sparsity", "rewind_epoch"], columns="method", values="test_acc_mean"
        ).reset_index()
        table = table.assign(units=_FIRST["resnet20"], lth=float("nan"))
        label, origin = "paper: ResNet20 on SVHN", of_file("svhn_resnet20x1", "the table of SVHN")
        return Series("paper", label, _completed(table.assign(seed=0), 200), origins=(origin,))
    tidy = numbers.cells()
    chosen = tidy[(tidy["figure"] == figure) & (tidy["metric"] == "top1")]
    network, dataset = chosen["network"].iloc[0], chosen["dataset"].iloc[0]
    table = numbers.settings(chosen)
    table = table.assign(units=table["width"] * _FIRST[network], seed=0)
    label = f"paper: {NAMES[network]} on {NAMES[dataset]}"
    origin = of_table(*sorted(map(int, set(chosen["table"]))))
    completed = _completed(table, _EPOCHS.get(dataset, 200))
    return Series("paper", label, completed, origins=(origin,))


def of_results(results: Sequence[Results], kind: Kind = "live") -> Series:
    """Join the results of one network at several widths."""
    tables = [
        _of_rows(one.table, one.experiment.to_dict()).assign(width=one.experiment.model.width)
        for one in results
    ]
    return _series(kind, results[0].experiment.to_dict(), pd.concat(tables, ignore_index=True))


def of_records(dataset: str, model: str, *, points: bool = False) -> list[Series]:
    """Return the recorded runs of the arms of a network on a data set.

    Runs that differ only in width become one series.

    Parameters
    ----------
    dataset, model : str
        As in `lotperm.studies.published.recorded`.
    points : bool, optional
        True: those of a single setting, which make no curve; False: those that make one.
    """
    joined: dict[str, list[Recorded]] = {}
    for run in recorded(dataset, model):
        free = ("seeds", "keep", "model")
        same = {name: value for name, value in run.experiment.items() if name not in free}
        joined.setdefault(f"{run.experiment['model']['name']} {same}", []).append(run)
    found = [
        _series(
            "recorded",
            runs[0].experiment,
            pd.concat([_of_rows(run.rows(), run.experiment) for run in runs], ignore_index=True),
            tuple(map(of_record, runs)),
        )
        for runs in joined.values()
    ]
    chosen = [one for one in found if (len(one.table[SETTING].drop_duplicates()) == 1) is points]
    labels = [one.label for one in chosen]
    return [_told_apart(one) if points or labels.count(one.label) > 1 else one for one in chosen]


def _told_apart(series: Series) -> Series:
    """Add to a series' label what all of its settings have in common."""
    words = {"units": "{:g} units", "sparsity": "S = {:g}", "rewind_epoch": "k = {:g}"}
    fixed = [
        text.format(series.table[name].iloc[0])
        for name, text in words.items()
        if series.table[name].nunique() == 1
    ]
    return replace(series, label=", ".join([series.label, *fixed]))


def _series(
    kind: Kind,
    experiment: Mapping[str, Any],
    table: pd.DataFrame,
    origins: tuple[Origin, ...] = (HERE,),
) -> Series:
    label = f"{kind}: {described(experiment)}"
    return Series(kind, label, table, str(experiment["profile"]), origins)


def described(experiment: Mapping[str, Any]) -> str:
    """Name an experiment's network and data, as "ResNet8 on 10,000 images of CIFAR-10"."""
    network, data = NAMES[experiment["model"]["name"]], NAMES[experiment["data"]["name"]]
    # On MNIST-1D, all but MLPs are one-dimensional twins of the networks whose names they have.
    if experiment["data"]["name"] == "mnist1d" and network != "MLP":
        network = f"1-D {network}"
    size = experiment["data"]["train_size"]
    return f"{network} on {f'{size:,} images of ' if size and data != 'MNIST-1D' else ''}{data}"


def _of_rows(rows: pd.DataFrame, experiment: Mapping[str, Any]) -> pd.DataFrame:
    """Put the arms of every seed and setting side by side."""
    chosen = rows[(rows["metric"] == "test_accuracy") & rows["method"].isin(PAPER_ARMS)]
    wide = 100 * chosen.pivot(
        index=["sparsity", "rewind_epoch", "seed"], columns="method", values="value"
    )
    table = wide.reset_index().assign(units=narrowest(experiment["model"]))
    return _completed(table, experiment["dense"]["epochs"])


def _completed(table: pd.DataFrame, epochs: int) -> pd.DataFrame:
    table = table.assign(
        rewind=100 * table["rewind_epoch"].astype(int) / epochs,
        rewind_epoch=table["rewind_epoch"].astype(int),
        # The paper's numbers have two decimals: without rounding, ties would get tiny differences.
        gain=(table["permuted"] - table["naive"]).round(9),
        gap=(table["lth"] - table["naive"]).round(9),
    )
    columns = [*SETTING, "rewind", "seed", *PAPER_ARMS, "gain", "gap"]
    return table[columns].rename_axis(columns=None)


def download(ours: Sequence[Series], source: str) -> pd.DataFrame:
    """Return series as one table for download, whose first columns say what each row is about.

    Parameters
    ----------
    ours : sequence of Series
        Of any kind.
    source : str
        Hash of the sources that computed the live rows.
    """
    return pd.concat(
        [
            one.table.assign(
                kind=one.kind,
                of=one.label.partition(": ")[2],
                profile=one.profile,
                source=source if one.kind == "live" else "",
            )[["kind", "of", "profile", "source", *one.table.columns]]
            for one in ours
        ],
        ignore_index=True,
    )
