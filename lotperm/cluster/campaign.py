"""Campaigns: experiments in order of importance, computed in slices, recorded as they finish.

A campaign file is YAML, or the same content as JSON::

    name: desktop                      # the file's name if it isn't given
    results: book/results              # where finished entries are recorded
    defaults: {profile: desktop}       # parameters that every entry starts from
    entries:
      - name: resnet8_cifar10          # name of the folder it is recorded in
        kind: table                    # the question: table, early, diversity, connectivity, ...
        figure: resnet20_cifar10       # its parameters at the profile; or only flat parameters
        sparsity: [0.8, 0.9]           # any flat parameter, see `lotperm parameters`

An entry may also have ``widths`` (one experiment each, with a figure), ``keep`` (`Experiment`),
``compile`` and ``members`` (`Runtime`; not part of a result's key), and the options of its
question. Everything is checked when the file is read, so that nothing is refused after hours of
training.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lotperm.cluster.beside import Beside
from lotperm.cluster.campaign_file import read_entry, read_file, require_known
from lotperm.cluster.entry import Entry
from lotperm.engine.runtime import Runtime
from lotperm.errors import IntegrityError, ParameterError, PreemptedError, unknown_name
from lotperm.store.stages import Store
from lotperm.store.tasks import Task, chain
from lotperm.studies.records import load_record
from lotperm.studies.subject import Datasets
from lotperm.studies.workbench import Workbench


@dataclass(frozen=True)
class Campaign:
    """Experiments in order of importance.

    Attributes
    ----------
    name : str
        The campaign's name, for reports.
    entries : tuple of Entry
        The experiments, in the order in which they are computed.
    results : Path
        The folder in which finished entries are recorded.
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
            If anything in it makes no sense; the message names the entry. Nothing has been computed.
        """
        path = Path(path)
        content = read_file(path)
        where = f"campaign {path}"
        require_known(where, content, ("name", "results", "defaults", "entries"))
        # A key without a value is None in YAML.
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
            # By number, as its name may be what is wrong.
            label = f"{where}, entry {number}"
            if not isinstance(item, Mapping):
                raise ParameterError(f"{label} is {item!r}; expected keys and values.")
            entry = read_entry({**defaults, **item}, label)
            if entry.name in entries:
                raise ParameterError(f"{label}: the name {entry.name!r} is taken by another entry.")
            # The same stages under two names would be recorded twice: likely a slip in copying an
            # entry.
            for other in entries.values():
                if other.asks == entry.asks:
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
        """Return the campaign with some of its entries; all if no names are given."""
        if not names:
            return self
        for name in names:
            if name not in {entry.name for entry in self.entries}:
                raise unknown_name("entry", name, [entry.name for entry in self.entries])
        return dataclasses.replace(self, entries=tuple(e for e in self.entries if e.name in names))

    def set(self, **options: Any) -> Campaign:
        """Return the campaign with ``compile`` or ``members`` set in every entry."""
        entries = tuple(dataclasses.replace(entry, **options) for entry in self.entries)
        return dataclasses.replace(self, entries=entries)

    def tasks(self, store: Store, runtime: Runtime | None = None) -> list[Task]:
        """List the tasks of all entries in order, each once; the data needn't be there."""
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
        """Divide the campaign into parts, in order, each recorded in a folder of its own.

        Parameters
        ----------
        store : Store
            Where stages are kept.
        results : Path, optional
            Holds the folders; the campaign's own if None.
        runtime, datasets : optional
            As in `Entry.benches`.
        """
        results = self.results if results is None else results
        datasets = {} if datasets is None else datasets
        parts = []
        for entry in self.entries:
            benches = entry.benches(store, runtime, datasets)
            # Each width is recorded as it finishes; groups of seeds of one width share a record.
            widths = [list(g) for _, g in itertools.groupby(benches, lambda b: b.experiment.model)]
            for same in widths:
                name = (
                    f"{entry.name}_x{same[0].experiment.model.width:g}"
                    if len(widths) > 1
                    else entry.name
                )
                parts.append(Part(entry, results / name, same))
        return parts

    def missing(self, store: Store, results: Path | None = None) -> list[Task]:
        """List the tasks that the store lacks and that parts not recorded yet need.

        The parameters are those of `parts`.
        """
        # A record counts, whatever the store has: a lost store shouldn't cost the hours again.
        parts = [part for part in self.parts(store, results) if not part.recorded()]
        return [
            task
            for task in chain(t for part in parts for t in part.own_tasks())
            if not task.exists()
        ]


@dataclass(frozen=True)
class Part:
    """The experiments that are recorded together: an entry, or one width of it.

    Attributes
    ----------
    entry : Entry
        The entry that it belongs to.
    folder : Path
        The folder of its record, named for the entry, and for the width if there are several.
    benches : list of Workbench
        One; with the question's option ``together``, one for each group of seeds.
    """

    entry: Entry
    folder: Path
    benches: list[Workbench]

    def own_tasks(self) -> list[Task]:
        """List the tasks that the part asks for: `Entry.own_tasks` of all its workbenches."""
        return [task for bench in self.benches for task in self.entry.own_tasks(bench)]

    def tasks(self) -> list[Task]:
        """List all its tasks in an order in which they can be computed."""
        return chain(self.own_tasks())

    def recorded(self) -> bool:
        """Return True if its folder holds a whole record of these very stages.

        They may have been computed elsewhere: no store is needed.
        """
        try:
            content = load_record(self.folder)
        except IntegrityError:
            return False
        # Keys follow from everything that the result depends on. A changed entry has other keys,
        # and is computed again.
        return {stage["key"] for stage in content["stages"]} == {task.key for task in self.tasks()}


class Budget:
    """Tell, after every step of training, whether the time is used up.

    Parameters
    ----------
    minutes : float, optional
        Length of the budget, counted from now; without limit if None.
    """

    def __init__(self, minutes: float | None = None) -> None:
        # Stated as what is allowed, so that NaN is refused as well.
        if minutes is not None and not 0 <= minutes < math.inf:
            raise ParameterError(
                f"the budget is {minutes} minutes; expected a number of 0 or more."
            )
        # Not the time of day, which may be set while the campaign runs.
        self._deadline = None if minutes is None else time.monotonic() + 60 * minutes

    def __call__(self) -> bool:
        """Return True if the run should stop now."""
        return self._deadline is not None and time.monotonic() > self._deadline


def run(
    campaign: Campaign,
    store: Store,
    runtime: Runtime,
    results: Path | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, str]:
    """Compute what is neither recorded nor in the store, and record every entry as it finishes.

    Parameters
    ----------
    campaign : Campaign
        What to compute.
    store : Store
        Where stages are kept.
    runtime : Runtime
        How to compute. Its `stop` ends the run after a step; the same call goes on from there.
    results : Path, optional
        Folder to record in; the campaign's own if None.
    say : callable, optional
        Gets one line for everything that begins or is finished.

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
    beside = Beside(runtime, say)
    parts = campaign.parts(store, results, beside.runtime, datasets)
    with beside:
        beside.start(
            lambda: [
                (part.entry.name, task)
                for part in parts
                if not part.recorded() and not part.entry.lacking(datasets)
                for task in part.tasks()
            ]
        )
        for part in parts:
            name = part.entry.name
            if part.recorded():
                say(f"{name}: is recorded in {part.folder}; --out FOLDER computes it anew")
                continue
            # Another entry may have its data, so one that lacks them doesn't end the campaign.
            if lacking := part.entry.lacking(datasets):
                if lacking not in skipped.values():
                    say(lacking)
                skipped[name] = lacking
                continue
            for task in part.tasks():
                if task.done():
                    continue
                # Training asks after every step; stages that train nothing are only asked about
                # here.
                if stop():
                    raise PreemptedError(
                        f"stopped before {task.label} of {name}. Run it again to go on."
                    )
                beside.run(name, task)
            entry = part.entry
            if published := entry.study.publish(part.benches, entry.options, part.folder):
                say(f"{name}: {published}")
            # Last of all: from now on the part counts as finished.
            record(part)
            say(f"{name}: recorded in {part.folder}")
    return skipped


def record(part: Part) -> None:
    """Write the finished results of a part for the book (`lotperm.studies.published.recorded`)."""
    part.entry.study.record(part.benches, part.entry.options, part.folder)
