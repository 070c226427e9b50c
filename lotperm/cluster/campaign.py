"""A campaign: experiments in order of worth, read from a file, computed in slices, recorded as
they finish.

A campaign file is YAML, or the same content as JSON::

    name: desktop                      # the file's name if it isn't given
    results: book/results              # where finished entries are recorded
    defaults: {profile: desktop}       # parameters that every entry starts from
    entries:
      - name: resnet8_cifar10          # of the folder it is recorded in
        kind: table                    # table, early, diversity or connectivity
        figure: resnet20_cifar10       # its parameters at the profile; or flat parameters alone
        sparsity: [0.8, 0.9]           # any flat parameter, see `lotperm parameters`

An entry may also say ``widths`` (one experiment each, with a figure), ``keep`` (see `Experiment`),
``compile`` and ``members`` (see `Runtime`; no part of a result's key), and what its kind asks for
(`KINDS`). Everything is checked when the file is read, so that nothing is refused after hours of
training.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lotperm.cluster.campaign_file import read_entry, read_file, require_known
from lotperm.cluster.entry import RUNTIME, Entry
from lotperm.engine.runtime import Runtime
from lotperm.errors import IntegrityError, ParameterError, PreemptedError, unknown_name
from lotperm.store.stages import Store
from lotperm.store.tasks import Task, chain, provenance
from lotperm.studies import tickets
from lotperm.studies.pipeline import Datasets, Pipeline
from lotperm.studies.results import Results, load_record, records, save_record


@dataclass(frozen=True)
class Campaign:
    """Experiments in order of worth.

    Attributes
    ----------
    name : str
        In words for reports.
    entries : tuple[Entry, ...]
        In the order in which they are computed.
    results : Path
        Folder that finished entries are recorded in.
    """

    name: str
    entries: tuple[Entry, ...]
    results: Path = Path("book/results")

    @classmethod
    def load(cls, path: Path | str) -> Campaign:
        """Read a campaign file, ``.yaml``, ``.yml`` or ``.json``, and check every value in it.

        Raises
        ------
        StorageError
            If it can't be read.
        ParameterError
            For anything in it that makes no sense, naming the entry; nothing has been computed.
        """
        path = Path(path)
        content = read_file(path)
        where = f"campaign {path}"
        require_known(where, content, ("name", "results", "defaults", "entries"))
        defaults, items = content.get("defaults") or {}, content.get("entries")
        if not isinstance(defaults, Mapping):
            raise ParameterError(f"{where}: defaults is {defaults!r}; expected parameters by name.")
        if not isinstance(items, list) or not items:
            raise ParameterError(f"{where} has no entries; expected a list of one or more.")
        for key in ("name", "results"):
            if key in content and not isinstance(content[key], str):
                raise ParameterError(f"{where}: {key} is {content[key]!r}; expected text.")
        entries: dict[str, Entry] = {}
        for number, item in enumerate(items, 1):
            label = f"{where}, entry {number}"
            if not isinstance(item, Mapping):
                raise ParameterError(f"{label} is {item!r}; expected keys and values.")
            entry = read_entry({**defaults, **item}, label)
            if entry.name in entries:
                raise ParameterError(f"{label}: the name {entry.name!r} is taken by another entry.")
            for other in entries.values():
                if (other.kind, other.experiments, other.options) == (
                    entry.kind,
                    entry.experiments,
                    entry.options,
                ):
                    raise ParameterError(
                        f"{label} ({entry.name}) computes the same as entry {other.name}."
                    )
            entries[entry.name] = entry
        return cls(
            content.get("name", path.stem),
            tuple(entries.values()),
            Path(content.get("results", cls.results)),
        )

    def only(self, names: Sequence[str] | None) -> Campaign:
        """The campaign with some of its entries; None: all."""
        if not names:
            return self
        for name in names:
            if name not in {entry.name for entry in self.entries}:
                raise unknown_name("entry", name, [entry.name for entry in self.entries])
        return dataclasses.replace(self, entries=tuple(e for e in self.entries if e.name in names))

    def set(self, **options: Any) -> Campaign:
        """The campaign with options such as ``compile`` set in every entry, over what its file
        says.
        """
        return dataclasses.replace(
            self,
            entries=tuple(
                dataclasses.replace(e, options={**e.options, **options}) for e in self.entries
            ),
        )

    def tasks(self, store: Store, runtime: Runtime | None = None) -> list[Task]:
        """The tasks of all entries in order, each once; the data needn't be there."""
        datasets: Datasets = {}
        return chain(
            task for entry in self.entries for task in entry.tasks(store, runtime, datasets)
        )

    def parts(
        self,
        store: Store,
        results: Path | None = None,
        runtime: Runtime | None = None,
        datasets: Datasets | None = None,
    ) -> list[Part]:
        """What is recorded in a folder of its own, of all entries in order; `results`: in it,
        None: the campaign's.
        """
        results = self.results if results is None else results
        datasets = {} if datasets is None else datasets
        parts = []
        for entry in self.entries:
            pipelines = entry.pipelines(store, runtime, datasets)
            widths = [
                list(g) for _, g in itertools.groupby(pipelines, lambda p: p.experiment.model)
            ]
            for same in widths:
                name = (
                    f"{entry.name}_x{same[0].experiment.model.width:g}"
                    if len(widths) > 1
                    else entry.name
                )
                parts.append(Part(entry, results / name, same))
        return parts

    def missing(self, store: Store, results: Path | None = None) -> list[Task]:
        """The tasks, in order, that what isn't recorded yet in `results` needs and `store`
        hasn't; as `parts`.
        """
        parts = [part for part in self.parts(store, results) if not part.recorded()]
        return [
            task
            for task in chain(t for part in parts for t in part.own_tasks())
            if not task.exists()
        ]


@dataclass(frozen=True)
class Part:
    """What is recorded together: an entry, or one width of it.

    Attributes
    ----------
    entry : Entry
        That it belongs to.
    folder : Path
        To record it in; named for the entry, and for the width if the entry has several.
    pipelines : list[Pipeline]
        One, or with ``together`` one for each group of seeds.
    """

    entry: Entry
    folder: Path
    pipelines: list[Pipeline]

    def own_tasks(self) -> list[Task]:
        """As `Entry.own_tasks`, of all its pipelines."""
        return [task for pipeline in self.pipelines for task in self.entry.own_tasks(pipeline)]

    def tasks(self) -> list[Task]:
        """All its tasks in an order in which they can be computed."""
        return chain(self.own_tasks())

    def recorded(self) -> bool:
        """Whether its folder holds, whole, what these very stages gave, here or elsewhere; no
        store is needed.
        """
        try:
            content = load_record(self.folder)
        except IntegrityError:
            return False
        return {stage["key"] for stage in content["stages"]} == {task.key for task in self.tasks()}


class Stop:
    """Asked after every step of training: whether the time is used up.

    Parameters
    ----------
    minutes : float | None, optional
        Of the budget, counted from now; None: no limit.
    """

    def __init__(self, minutes: float | None = None) -> None:
        if minutes is not None and not 0 <= minutes < math.inf:
            raise ParameterError(
                f"the budget is {minutes} minutes; expected a number of 0 or more."
            )
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes

    def __call__(self) -> bool:
        """Whether to stop now."""
        return self._deadline is not None and time.monotonic() > self._deadline


def run(
    campaign: Campaign,
    store: Store,
    runtime: Runtime,
    results: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Compute what is neither recorded nor in the store, in order, and record every entry as it
    finishes.

    Parameters
    ----------
    campaign, store : Campaign
        What, and where stages are kept.
    runtime : Runtime
        How; its `Runtime.stop` ends the run after a step, and the same call goes on from there.
    results : Path | None, optional
        Folder to record in; None: the campaign's.
    say : Callable[[str], None], optional
        Told in one line what begins and what is finished.

    Returns
    -------
    dict
        Entries that were skipped because a data set isn't there -> why.

    Raises
    ------
    PreemptedError
        If it was stopped.
    """
    stop = runtime.stop or (lambda: False)
    datasets: Datasets = {}
    skipped: dict[str, str] = {}
    for part in campaign.parts(store, results, runtime, datasets):
        name = part.entry.name
        if part.recorded():
            say(f"{name}: is recorded in {part.folder}; --out FOLDER computes it anew")
            continue
        if lacking := part.entry.lacking(datasets):
            if lacking not in skipped.values():
                say(lacking)
            skipped[name] = lacking
            continue
        for task in part.tasks():
            if task.done():
                continue
            if stop():
                raise PreemptedError(
                    f"stopped before {task.label} of {name}. Run it again to go on."
                )
            say(f"{name}: {task.label}")
            task.run()
        if part.entry.kind == "table":
            say(f"{name}: {_publish(part)}")
        # Last of all: from then on the part is taken for finished.
        record(part)
        say(f"{name}: recorded in {part.folder}")
    return skipped


TICKET_BYTES = 2**23

"""Tickets of a recorded table are published as long as they aren't larger, all together."""


def _publish(part: Part) -> str:
    """Write the tickets of a recorded table; in words, which."""
    folder = part.folder / "tickets"
    stages = {task.key: task.run() for task in part.tasks()}
    # Tickets hold what the arms read. Of a table that was finished before, and then carried here
    # from another machine, the store may lack that.
    read = [
        (key, file) for t in part.own_tasks() for key, names in t.reads.items() for file in names
    ]
    if any(f"{file}.safetensors" not in stages[key].files for key, file in read):
        return (
            "its tickets stay as they are"
            if folder.exists()
            else "its tickets can't be written, as the store lacks files of its stages"
        )
    shutil.rmtree(folder, ignore_errors=True)  # of another run, maybe with other seeds
    paths: list[Path] = []
    left = TICKET_BYTES
    for pipeline in part.pipelines:
        written = tickets.save_tickets(pipeline, folder, left)
        paths += written
        left -= sum(path.stat().st_size for path in written)
        if len(written) < len(pipeline.experiment.seeds) * len(pipeline.experiment.rewind_epochs):
            break  # not even this one's fit
    return (
        f"{len(paths)} files of tickets in {folder}"
        if paths
        else "its tickets are too large to publish"
    )


def record(part: Part) -> None:
    """Write the finished results of a part, for the book (see
    `lotperm.studies.published.recorded`).
    """
    entry, pipeline = part.entry, part.pipelines[0]
    if entry.kind == "table":
        Results.join([p.run() for p in part.pipelines]).save(part.folder)
        return
    e, o = pipeline.experiment, entry.options
    if entry.kind == "connectivity":
        table = pipeline.connectivity(o["alphas"], o["repairs"], replicates=o["replicates"])
    else:
        tables = []
        for sparsity, k in ((sparsity, k) for sparsity in e.sparsities for k in e.rewind_epochs):
            if entry.kind == "early":
                cell = pipeline.early_matching(sparsity, k, o["match_epochs"])
            else:
                cell = pipeline.diversity(sparsity, k)
            cell.insert(0, "sparsity", sparsity)
            cell.insert(1, "rewind_epoch", k)
            tables.append(cell)
        table = pd.concat(tables, ignore_index=True)
    # Stored results are sorted by name: what a row is about comes first.
    about = [
        "sparsity",
        "rewind_epoch",
        "seed",
        "method",
        "members",
        "ends",
        "repair",
        "alpha",
        "matching_epoch",
    ]
    table = table[[*(c for c in about if c in table), *(c for c in table if c not in about)]]
    content = {
        "kind": entry.kind,
        "experiment": e.to_dict(),
        "options": {key: value for key, value in o.items() if key not in RUNTIME},
        "summary": records(table),
        "stages": provenance(part.tasks()),
    }
    save_record(part.folder, content, {"results": table})
