"""The paper's numbers and this project's recorded ones, to stand beside what was just computed.

Both are files of the repository, under ``book/``. Numbers of three kinds meet here and are never
mixed: each keeps a column, and the column's name says which kind it is.
"""

from __future__ import annotations

import base64
import html
import json
import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lotperm.config.experiment import Experiment
from lotperm.config.parameters import ARMS
from lotperm.errors import IntegrityError, unknown_name
from lotperm.science.barrier import accuracy_barriers
from lotperm.science.statistics import interval
from lotperm.store.provenance import source_hash
from lotperm.studies.clone import clone_folder

from lotperm.studies.records import load_record
from lotperm.studies.results import Results

# Of what a page runs: until it ends the files may be edited.
_SOURCE = source_hash()

_WORDS = {"lth": "LTH", "permuted": "permuted", "naive": "naive"}


def book_folder() -> Path:
    """Return the folder ``book`` of the repository (`clone_folder`).

    Raises
    ------
    StorageError
        If the package was installed without the repository, and there is no clone here.
    """
    return clone_folder() / "book"


def paper(name: str) -> pd.DataFrame:
    """A table of the paper's numbers from ``book/paper``, in percent as printed there.

    Parameters
    ----------
    name : str
        The file's name without ``.csv``.

    Returns
    -------
    DataFrame
        With ``attrs["source"]``: where the numbers come from, the file's first line.

    Raises
    ------
    ParameterError
        If there is no such table.
    """
    folder = book_folder() / "paper"
    known = sorted(path.stem for path in folder.glob("*.csv"))
    if name not in known:
        raise unknown_name("table of the paper", name, known)
    path = folder / f"{name}.csv"
    table = pd.read_csv(path, comment="#")
    table.attrs["source"] = path.read_text().splitlines()[0].removeprefix("# Source: ")
    return table


@dataclass(frozen=True)
class Recorded:
    """A recorded run: ``book/results/<name>/results.json``.

    Attributes
    ----------
    name : str
        Of its folder.
    kind : str
        "table", "early", "diversity" or "connectivity" (see `lotperm.cluster.entry.KINDS`).
    experiment : dict[str, Any]
        What was run, as plain data (`Experiment.to_dict`).
    summary : pd.DataFrame
        Of a table as `Results.summary`; of the other kinds all rows, as in ``results.csv``.
    how : dict[str, Any]
        Device, versions, source hash of the last stage.
    """

    name: str
    kind: str
    experiment: dict[str, Any]
    summary: pd.DataFrame
    how: dict[str, Any]

    def rows(self) -> pd.DataFrame:
        """One row for each seed, as in ``results.csv``; of all kinds."""
        return pd.read_csv(book_folder() / "results" / self.name / "results.csv")

    @property
    def label(self) -> str:
        """What stands over its numbers: that they are recorded, of what, and at which profile."""
        e = self.experiment
        return f"recorded, {e['data']['name']}, {e['model']['name']}×{e['model']['width']:g}, {e['profile']}"


def recorded(
    dataset: str | None = None,
    model: str | None = None,
    width: float | None = None,
    *,
    kind: str = "table",
) -> list[Recorded]:
    """The recorded runs of a kind, on a data set, of a network and a width if these are given;
    sorted by name.

    `model` may be the begin of a network's name: "resnet" for all of these.

    Raises
    ------
    IntegrityError
        If a recorded run isn't what was written: its ``results.json`` has a checksum, and those of
        its other files.
    """
    found = []
    for path in sorted((book_folder() / "results").glob("*/results.json")):
        try:
            content = load_record(path.parent)
        except IntegrityError as error:
            raise IntegrityError(
                f"{error} It is kept in git: git checkout -- {path.parent}"
            ) from error
        e, its_kind = content["experiment"], content.get("kind", "table")
        if (
            its_kind != kind
            or dataset not in (None, e["data"]["name"])
            or not e["model"]["name"].startswith(model or "")
        ):
            continue
        if width is None or e["model"]["width"] == width:
            summary = pd.DataFrame(content["summary"])
            if kind != "table":
                # JSON is kept sorted by name; the table beside it begins with what a row is about.
                summary = summary[
                    pd.read_csv(path.with_name("results.csv"), nrows=0).columns.to_list()
                ]
            if "rewind_epoch" in summary:
                summary["rewind_epoch"] = summary["rewind_epoch"].astype("Int64")
            found.append(Recorded(path.parent.name, kind, e, summary, content["stages"][-1]))
    return found


class _Number(NamedTuple):
    """A number of a table: in percent or points, with the half width of its 95 % interval over
    seeds, or NaN.
    """

    value: float
    half_width: float = math.nan

    @classmethod
    def of(cls, fractions: pd.Series) -> _Number:
        """The mean over seeds, one value a seed."""
        return cls(*(100 * x for x in interval(fractions.to_numpy())))

    def less(self, published: float) -> _Number:
        """The difference from a published mean; its interval is ours alone: of theirs only a
        spread is known.
        """
        return _Number(self.value - published, self.half_width)

    def text(self, digits: int) -> str:
        """As "49.8 ± 2.1"; empty for NaN."""
        if math.isnan(self.value):
            return ""
        half = "" if math.isnan(self.half_width) else f" ± {self.half_width:.{digits}f}"
        return f"{self.value:.{digits}f}{half}"


def _with_what_follows(arms: dict[str, _Number], gain: _Number | None = None) -> dict[str, _Number]:
    """The arms, and what permuting gains; `gain` is given where seeds can be paired."""
    found = dict(arms)
    if {"permuted", "naive"} <= arms.keys():
        found["permuted − naive"] = gain or arms["permuted"].less(arms["naive"].value)
    if set(ARMS) <= arms.keys() and arms["lth"].value != arms["naive"].value:
        gap = arms["lth"].value - arms["naive"].value
        found["gap closed (%)"] = _Number(100 * found["permuted − naive"].value / gap)
    return found


def _our_arms(rows: pd.DataFrame, sparsity: float, rewind_epoch: int) -> dict[str, _Number]:
    """The arms at one sparsity and rewind epoch, of a tidy table of results."""
    at = rows[(rows["sparsity"] == sparsity) & (rows["rewind_epoch"] == rewind_epoch)]
    by_seed = at[at["metric"] == "test_accuracy"].pivot(
        index="seed", columns="method", values="value"
    )
    gain = _Number.of(by_seed["permuted"] - by_seed["naive"])
    return _with_what_follows({arm: _Number.of(by_seed[arm]) for arm in ARMS}, gain)


def _nearest(share: float, available: list[int], epochs: int) -> int:
    """The rewind epoch nearest to a share of training; of two, the later one, so that 0 stands
    beside no other.
    """
    return min(available, key=lambda k: (round(abs(k / epochs - share), 9), -k))


def beside(
    ours: Mapping[str, Results | Recorded],
    reference: pd.DataFrame | None = None,
    *,
    paper_epochs: int = 200,
    paper_rewind: int = 20,
) -> pd.DataFrame:
    """Our arms beside the paper's: accuracy of each arm, their difference and the gap closed,
    sparsity by sparsity.

    Ours are taken at the rewind epoch that is nearest to the paper's as a share of dense training,
    with 95 % intervals over seeds, paired for permuted − naive. The gap closed is the ratio of the
    means, which has none.

    Parameters
    ----------
    ours : Mapping[str, Results | Recorded]
        Label ("live, MNIST-1D", "recorded, ...") -> results. A label must say which kind of number
        it is.
    reference : pd.DataFrame | None, optional
        Columns sparsity, method, rewind_epoch (or none), test_acc_mean in percent; None: nothing
        is published.
    paper_epochs, paper_rewind : int, optional
        Of the paper's column.

    Returns
    -------
    DataFrame
        Index (sparsity, quantity); a column for each of ours, "paper", and "ours − paper" for each
        of ours; rounded texts, "" where there is none.
    """
    columns: dict[str, dict[tuple[float, str], _Number]] = {}
    for label, results in ours.items():
        rows = results.table if isinstance(results, Results) else results.rows()
        e = results.experiment
        plain = e.to_dict() if isinstance(e, Experiment) else e
        epochs = plain["dense"]["epochs"]
        k = _nearest(paper_rewind / paper_epochs, plain["rewind_epochs"], epochs)
        columns[f"{label} (k = {k} of {epochs})"] = {
            (s, what): number
            for s in plain["sparsities"]
            for what, number in _our_arms(rows, s, k).items()
        }
    theirs: dict[tuple[float, str], _Number] = {}
    if reference is not None and len(reference):
        if "rewind_epoch" in reference:
            reference = reference[reference["rewind_epoch"] == paper_rewind]
        sparsity: Any
        for sparsity, part in reference.groupby("sparsity"):
            means = part.set_index("method")["test_acc_mean"]
            arms = _with_what_follows({arm: _Number(means[arm]) for arm in ARMS if arm in means})
            theirs |= {(float(sparsity), what): number for what, number in arms.items()}
    name = f"paper (k = {paper_rewind} of {paper_epochs})"
    differences = {
        f"{label.partition(' (')[0]} − paper": {
            key: number.less(theirs[key].value) for key, number in column.items() if key in theirs
        }
        for label, column in columns.items()
    }
    shown = {**columns, name: theirs, **differences}
    order = [*ARMS, "permuted − naive", "gap closed (%)"]
    keys = {key for column in shown.values() for key in column}
    index = sorted(keys, key=lambda key: (key[0], order.index(key[1])))
    table = pd.DataFrame(
        {
            label: [column.get(key, _Number(math.nan)).text(1) for key in index]
            for label, column in shown.items()
        }
    )
    table.index = pd.MultiIndex.from_tuples(
        [(f"{s:g}", _WORDS.get(what, what)) for s, what in index], names=["sparsity", ""]
    )
    return table


def live_label(experiment: Experiment) -> str:
    """What stands over numbers that were computed while the page was built: that they are live,
    and of what.
    """
    return f"live, {experiment.data.name}"


def live_and_recorded(
    results: Results, dataset: str | None = None, model: str | None = None
) -> dict[str, Results | Recorded]:
    """What a page has just computed and what is recorded, each under its label, as `beside` takes
    it.

    Runs that have the same label bear their names, too.

    Parameters
    ----------
    results : Results
        Live.
    dataset, model : str | None, optional
        Of the recorded runs, as in `recorded`.
    """
    runs = recorded(dataset, model)
    shared = Counter(run.label for run in runs)
    named = {
        run.label if shared[run.label] == 1 else f"{run.label}, {run.name}": run for run in runs
    }
    return {live_label(results.experiment): results, **named}


def _few_decimals(table: pd.DataFrame, digits: int) -> pd.DataFrame:
    """Numbers as texts, "" where there is none."""
    return table.map(lambda x: "" if pd.isna(x) else f"{x:.{digits}f}")


def beside_diversity(table: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """Our diversity, live and recorded, beside the paper's Table 1.

    Parameters
    ----------
    table : pd.DataFrame
        As `Pipeline.diversity` gives it.
    experiment : Experiment
        What was run for it.

    Returns
    -------
    DataFrame
        Index (whose, method): first the paper's networks, then ours, each followed by its
        differences from the paper's first. Columns accuracy (percent, ours with the 95 % interval
        over members), gain (the ensemble's accuracy less the members', points), disagreement (a
        fraction), KL and JS (nats); texts, "" where there is none.
    """

    def columns(rows: pd.DataFrame, mean: str, ensemble: str, scale: float) -> pd.DataFrame:
        rows = rows.set_index("method")
        return pd.DataFrame(
            {
                "accuracy": scale * rows[mean],
                "half_width": scale * rows["half_width"] if "half_width" in rows else math.nan,
                "gain": scale * (rows[ensemble] - rows[mean]),
                "disagreement": rows["disagreement"],
                "KL": rows["kl"],
                "JS": rows["js"],
            }
        )

    found = {
        f"paper, {model}, {dataset}": columns(rows, "test_acc_mean", "ensemble_acc", 1)
        for (model, dataset), rows in paper("table1_diversity").groupby(["model", "dataset"])
    }
    first, theirs = next(iter(found.items()))
    ours = {live_label(experiment): table}
    for run in recorded(kind="diversity"):
        for (s, k), rows in run.summary.groupby(["sparsity", "rewind_epoch"]):
            ours[f"{run.label}, S = {s:g}, k = {k}"] = rows
    for label, rows in ours.items():
        found[label] = columns(rows, "mean", "ensemble_accuracy", 100)
        found[f"{label} − {first}"] = (found[label] - theirs).assign(
            half_width=found[label]["half_width"]
        )
    both = pd.concat(found).rename_axis(["", "method"])
    halves = both.pop("half_width")
    shown = _few_decimals(both, 2)
    shown["accuracy"] = [
        _Number(*pair).text(2) for pair in zip(both["accuracy"], halves, strict=True)
    ]
    return shown


def early_means(
    table: pd.DataFrame, results: Results, sparsity: float, rewind_epoch: int
) -> tuple[float, float, dict[int, float]]:
    """Test accuracies of LTH, of naive, and of permuted for every matching epoch: fractions, means
    over the seeds.

    Parameters as in `beside_early_matching`; the last one is matching epoch -> accuracy.
    """
    lth, naive = (
        float(results.values(arm, sparsity, rewind_epoch).mean()) for arm in ("lth", "naive")
    )
    permuted = table[table["metric"] == "test_accuracy"].groupby("matching_epoch")["value"].mean()
    return lth, naive, dict(zip(permuted.index.tolist(), permuted.tolist(), strict=True))


def _recorded_arms(run: Recorded, sparsity: float, rewind_epoch: int) -> dict[str, _Number]:
    """Test accuracies of LTH and naive for a recorded run of early matching; {} if there are none.

    They are in the recorded table of the same experiment, which may have more seeds; taken are
    those of the run.
    """
    free = ("seeds", "sparsities", "rewind_epochs", "keep")
    own = {key: value for key, value in run.experiment.items() if key not in free}
    seeds = set(run.experiment["seeds"])
    for table in recorded(run.experiment["data"]["name"]):
        same = {key: value for key, value in table.experiment.items() if key not in free} == own
        if not same or not seeds <= set(table.experiment["seeds"]):
            continue
        rows = table.rows()
        rows = rows[(rows["metric"] == "test_accuracy") & rows["seed"].isin(seeds)]
        rows = rows[(rows["sparsity"] == sparsity) & (rows["rewind_epoch"] == rewind_epoch)]
        arms = {arm: part["value"] for arm, part in rows.groupby("method")}
        if {"lth", "naive"} <= arms.keys():
            return {"LTH": _Number.of(arms["lth"]), "naive": _Number.of(arms["naive"])}
    return {}


def beside_early_matching(
    table: pd.DataFrame, results: Results, sparsity: float, rewind_epoch: int
) -> pd.DataFrame:
    """Our accuracies at every matching epoch, live and recorded, beside the paper's; epochs as
    shares of training.

    Parameters
    ----------
    table : pd.DataFrame
        As `Pipeline.early_matching` gives it.
    results : Results
        Of the same experiment, for LTH and naive.
    sparsity, rewind_epoch : float
        Of the arms.

    Returns
    -------
    DataFrame
        Index (whose, sparsity): the paper's, ours, and their differences where both have that
        sparsity and share. Columns LTH, ``t = … % of T``, naive; percent, ours with 95 % intervals
        over seeds; texts, "" where there is none.
    """

    def at(t: Any, epochs: int) -> str:
        return f"t = {100 * t / epochs:.3g} % of T"

    theirs = "paper, cifar10"
    rows: dict[tuple[str, str], dict[str, _Number]] = {}
    for s, part in paper("early_matching_resnet20x1_cifar10").groupby("sparsity"):
        fixed = part[part["method"] != "permuted"].set_index("method")["test_acc_mean"]
        early = part[part["method"] == "permuted"].set_index("matching_epoch")["test_acc_mean"]
        rows[theirs, f"{s:g}"] = {
            "LTH": _Number(fixed["lth"]),
            **{at(t, 200): _Number(value) for t, value in early.items()},
            "naive": _Number(fixed["naive"]),
        }
    e = results.experiment
    lth, naive = (
        _Number.of(results.values(arm, sparsity, rewind_epoch)) for arm in ("lth", "naive")
    )
    accuracies = table[table["metric"] == "test_accuracy"].groupby("matching_epoch")["value"]
    live = {at(t, e.dense.epochs): _Number.of(values) for t, values in accuracies}
    rows[live_label(e), f"{sparsity:g}"] = {"LTH": lth, **live, "naive": naive}
    for run in recorded(kind="early"):
        found = run.summary[run.summary["metric"] == "test_accuracy"]
        key: Any
        for key, values in found.groupby(["sparsity", "rewind_epoch", "matching_epoch"])["value"]:
            s, k, t = key
            name = (f"{run.label}, k = {k}", f"{s:g}")
            if name not in rows:
                rows[name] = _recorded_arms(run, s, k)
            rows[name][at(t, run.experiment["dense"]["epochs"])] = _Number.of(values)
    for label, s in [name for name in rows if name[0] != theirs]:
        if same := rows.get((theirs, s)):
            row = rows[label, s]
            rows[f"{label} − paper", s] = {
                what: v.less(same[what].value) for what, v in row.items() if what in same
            }
    shares = {what for row in rows.values() for what in row} - {"LTH", "naive"}
    ordered = sorted(shares, key=lambda what: float(what.split()[2]))
    columns = ["LTH", *ordered, "naive"]
    shown = {
        name: [numbers.get(what, _Number(math.nan)).text(1) for what in columns]
        for name, numbers in rows.items()
    }
    return pd.DataFrame(shown, index=columns).T.rename_axis(["", "sparsity"])


def beside_connectivity(
    experiments: Sequence[Experiment], lines: Sequence[pd.DataFrame], dataset: str | None = None
) -> pd.DataFrame:
    """Midpoints and accuracy barriers of matched networks: published ones, ours live and recorded.

    Parameters
    ----------
    experiments : Sequence[Experiment]
        What was run, one for each width.
    lines : Sequence[pd.DataFrame]
        Of each, as `Pipeline.connectivity` gives it.
    dataset : str | None, optional
        Only what is published of this data set, or recorded on it; None: all.

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
            _Number(r["midpoint_test_acc"]),
            _Number(r["barrier"]),
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
    stages = {"none": "permuted", "bn": "permuted+bn_reset", "repair": "permuted+repair"}
    for label, network, line in ours:
        barriers, middles = accuracy_barriers(line), line[line["alpha"] == 0.5]
        for repair in line["repair"].unique():
            rows[label, network, stages[repair]] = [
                _Number.of(
                    part.loc[(part["ends"] == "permuted") & (part["repair"] == repair), what]
                )
                for part, what in ((middles, "accuracy"), (barriers, "barrier"))
            ]
    shown = {name: [number.text(1) for number in row] for name, row in rows.items()}
    table = pd.DataFrame(shown, index=["midpoint accuracy (%)", "barrier (points)"]).T
    return table.rename_axis(["", "network", "stage"])


def csv_link(table: pd.DataFrame, filename: str) -> str:
    """An HTML link that downloads a table as CSV, carried in the page itself."""
    data = base64.b64encode(table.to_csv(index=False, lineterminator="\n").encode()).decode()
    return (
        f'<a class="csv-download" download="{html.escape(filename)}" href="data:text/csv;base64,{data}">'
        f"Download the data of this figure: {html.escape(filename)}</a>"
    )


def how_made(notebook: str, experiment: Experiment, given: Mapping[str, Any]) -> str:
    """One line of HTML: which parameters made the page, from which sources, and the command that
    does it again.

    Parameters
    ----------
    notebook : str
        Its name in ``notebooks/`` without number and suffix, as `lotperm run` takes it.
    experiment : Experiment
        What the page computed (the first, if it computed several).
    given : Mapping[str, Any]
        The page's parameters; those that are None come from the profile and aren't named, nor is
        the CPU.
    """
    named = {
        n: v
        for n, v in given.items()
        if v is not None and n != "profile" and (n, v) != ("device", "cpu")
    }
    texts = {
        n: v if isinstance(v, str) else json.dumps(v, separators=(",", ":"))
        for n, v in named.items()
    }
    options = "".join(" -p " + shlex.quote(f"{n}={text}") for n, text in texts.items())
    command = f"lotperm run {notebook} --profile {experiment.profile}{options}"
    return (
        f"<p>How this was made: profile <code>{experiment.profile}</code>, {len(experiment.seeds)} seeds, "
        f"{experiment.data.name}, {experiment.model.name}; sources <code>{_SOURCE[:12]}</code>. "
        f"Again: <code>{html.escape(command)}</code></p>"
    )
