"""A campaign: experiments in order of worth, read from a file, computed in slices, recorded as they finish.

A campaign file is YAML, or the same content as JSON::

    name: desktop                      # the file's name if it isn't given
    results: book/results              # where finished entries are recorded
    defaults: {profile: desktop}       # parameters that every entry starts from
    entries:
      - name: resnet8_cifar10          # of the folder it is recorded in
        kind: table                    # table, early, diversity or connectivity
        figure: resnet20_cifar10       # its parameters at the profile; or flat parameters alone
        sparsity: [0.8, 0.9]           # any flat parameter, see `lotperm parameters`

An entry may also say ``widths`` (one experiment each, with a figure), ``keep`` (see `Experiment`), ``compile`` and
``members`` (see `Runtime`; no part of a result's key), and what its kind asks for (`KINDS`). Everything is checked
when the file is read, so that nothing is refused after hours of training.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd

from lotperm import tickets
from lotperm.config import PARAMETERS, Experiment
from lotperm.data import load_configured
from lotperm.errors import IntegrityError, ParameterError, PreemptedError, StorageError, unknown_name
from lotperm.evaluation import REPAIRS
from lotperm.experiments import Datasets, Pipeline, kept_epochs
from lotperm.packing import Item
from lotperm.results import Results, load_record, records, save_record
from lotperm.store import Store
from lotperm.tasks import Task, chain, provenance
from lotperm.training import Runtime

Plain = dict[str, Any]

KINDS: dict[str, Plain] = {
    "table": {"together": None},
    "early": {"match_epochs": None},
    "diversity": {},
    "connectivity": {"alphas": [i / 10 for i in range(11)], "repairs": list(REPAIRS), "replicates": None},
}
"""Kind of entry -> its own keys with their defaults.

``table``: the three arms at every sparsity and rewind epoch; with ``together`` so many seeds share a stage: other seeds
are other stages, so that a table can get more of them later, and a sweep has more jobs. The others are those of
`Pipeline`: ``early`` (`Pipeline.early_matching`; without ``match_epochs`` every epoch that is kept), ``diversity``,
``connectivity``.
"""

_RUNTIME = ("compile", "members")
_ENTRY = ("name", "kind", "figure", "widths", "keep", *_RUNTIME)


@dataclass(frozen=True)
class Entry:
    """One item of a campaign.

    Attributes
    ----------
    name : lower case letters, digits, ``_`` and ``-``
    kind : one of `KINDS`
    experiments : one for each width and, with ``together``, each group of seeds; those of a width follow one another
    options : the keys of its kind, and ``compile`` and ``members`` if given
    """

    name: str
    kind: str
    experiments: tuple[Experiment, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def lacking(self, datasets: Datasets) -> str | None:
        """Load the data sets that aren't in `datasets` yet; why that failed, or None."""
        try:
            for e in self.experiments:
                if e.data not in datasets:
                    datasets[e.data] = load_configured(e.data)
        except StorageError as error:
            return str(error)
        return None

    def pipelines(
        self, store: Store, runtime: Runtime | None = None, datasets: Datasets | None = None
    ) -> list[Pipeline]:
        """A pipeline for each experiment; data are loaded when they are needed, once if `datasets` is handed on."""
        runtime = runtime or Runtime()
        runtime = dataclasses.replace(
            runtime,
            compile=runtime.compile or self.options.get("compile", False),
            members=runtime.members or self.options.get("members"),
        )
        datasets = {} if datasets is None else datasets
        return [Pipeline(e, store, runtime, datasets) for e in self.experiments]

    def own_tasks(self, pipeline: Pipeline) -> list[Task]:
        """The tasks of one of the pipelines that this entry is about; those before them are in `tasks`."""
        e, o = pipeline.experiment, self.options
        cells = [(sparsity, k) for sparsity in e.sparsities for k in e.rewind_epochs]
        if self.kind == "early":
            return [pipeline.early_task(*cell, o["match_epochs"]) for cell in cells]
        if self.kind == "diversity":
            return [pipeline.diversity_task(*cell) for cell in cells]
        if self.kind == "connectivity":
            return [pipeline.connectivity_task(o["alphas"], o["repairs"], replicates=o["replicates"])]
        return [pipeline.sparse(*cell) for cell in cells]

    def tasks(
        self, store: Store, runtime: Runtime | None = None, datasets: Datasets | None = None
    ) -> list[Task]:
        """All tasks of the entry in an order in which they can be computed; nothing is computed by asking."""
        pipelines = self.pipelines(store, runtime, datasets)
        return chain(task for pipeline in pipelines for task in self.own_tasks(pipeline))


@dataclass(frozen=True)
class Campaign:
    """Experiments in order of worth.

    Attributes
    ----------
    name : in words for reports
    entries : in the order in which they are computed
    results : folder that finished entries are recorded in
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
        content = _parse(path)
        where = f"campaign {path}"
        _known(where, content, ("name", "results", "defaults", "entries"))
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
            entry = _entry({**defaults, **item}, label)
            if entry.name in entries:
                raise ParameterError(f"{label}: the name {entry.name!r} is taken by another entry.")
            for other in entries.values():
                if (other.kind, other.experiments, other.options) == (
                    entry.kind,
                    entry.experiments,
                    entry.options,
                ):
                    raise ParameterError(f"{label} ({entry.name}) computes the same as entry {other.name}.")
            entries[entry.name] = entry
        return cls(
            content.get("name", path.stem), tuple(entries.values()), Path(content.get("results", cls.results))
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
        """The campaign with options such as ``compile`` set in every entry, over what its file says."""
        return dataclasses.replace(
            self,
            entries=tuple(dataclasses.replace(e, options={**e.options, **options}) for e in self.entries),
        )

    def tasks(self, store: Store, runtime: Runtime | None = None) -> list[Task]:
        """The tasks of all entries in order, each once; the data needn't be there."""
        datasets: Datasets = {}
        return chain(task for entry in self.entries for task in entry.tasks(store, runtime, datasets))

    def parts(
        self,
        store: Store,
        results: Path | None = None,
        runtime: Runtime | None = None,
        datasets: Datasets | None = None,
    ) -> list[Part]:
        """What is recorded in a folder of its own, of all entries in order; `results`: in it, None: the campaign's."""
        results = self.results if results is None else results
        datasets = {} if datasets is None else datasets
        parts = []
        for entry in self.entries:
            pipelines = entry.pipelines(store, runtime, datasets)
            widths = [list(g) for _, g in itertools.groupby(pipelines, lambda p: p.experiment.model)]
            for same in widths:
                name = f"{entry.name}_x{same[0].experiment.model.width:g}" if len(widths) > 1 else entry.name
                parts.append(Part(entry, results / name, same))
        return parts

    def missing(self, store: Store, results: Path | None = None) -> list[Task]:
        """The tasks, in order, that what isn't recorded yet in `results` needs and `store` hasn't; as `parts`."""
        parts = [part for part in self.parts(store, results) if not part.recorded()]
        return [task for task in chain(t for part in parts for t in part.own_tasks()) if not task.exists()]


@dataclass(frozen=True)
class Part:
    """What is recorded together: an entry, or one width of it.

    Attributes
    ----------
    entry : that it belongs to
    folder : to record it in; named for the entry, and for the width if the entry has several
    pipelines : one, or with ``together`` one for each group of seeds
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
        """Whether its folder holds, whole, what these very stages gave, here or elsewhere; no store is needed."""
        try:
            content = load_record(self.folder)
        except IntegrityError:
            return False
        return {stage["key"] for stage in content["stages"]} == {task.key for task in self.tasks()}


# --- computing --------------------------------------------------------------------------------------


class Stop:
    """Asked after every step of training: whether the time is used up.

    Parameters
    ----------
    minutes : of the budget, counted from now; None: no limit
    """

    def __init__(self, minutes: float | None = None) -> None:
        if minutes is not None and not 0 <= minutes < math.inf:
            raise ParameterError(f"the budget is {minutes} minutes; expected a number of 0 or more.")
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
    """Compute what is neither recorded nor in the store, in order, and record every entry as it finishes.

    Parameters
    ----------
    campaign, store : what, and where stages are kept
    runtime : how; its `Runtime.stop` ends the run after a step, and the same call goes on from there
    results : folder to record in; None: the campaign's
    say : told in one line what begins and what is finished

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
                raise PreemptedError(f"stopped before {task.label} of {name}. Run it again to go on.")
            say(f"{name}: {task.label}")
            task.run()
        if part.entry.kind == "table":
            say(f"{name}: {_publish(part.pipelines, part.folder / 'tickets')}")
        # Last of all: from then on the part is taken for finished.
        record(part)
        say(f"{name}: recorded in {part.folder}")
    return skipped


TICKET_BYTES = 2**23
"""Tickets of a recorded table are published as long as they aren't larger, all together."""


def _publish(pipelines: Sequence[Pipeline], folder: Path) -> str:
    """Write the tickets of a recorded table; in words, which."""
    read = [(task, f"{file}.safetensors") for p in pipelines for task, file in tickets.reads(p)]
    if any(file in task.run().left_out for task, file in read):
        # An entry that was finished, and recorded, before its store was packed.
        return "its tickets stay as they are" if folder.exists() else "its tickets were left out of a pack"
    shutil.rmtree(folder, ignore_errors=True)  # of another run, maybe with other seeds
    paths: list[Path] = []
    left = TICKET_BYTES
    for pipeline in pipelines:
        written = tickets.save_tickets(pipeline, folder, left)
        paths += written
        left -= sum(path.stat().st_size for path in written)
        if len(written) < len(pipeline.experiment.seeds) * len(pipeline.experiment.rewind_epochs):
            break  # not even this one's fit
    return f"{len(paths)} files of tickets in {folder}" if paths else "its tickets are too large to publish"


def record(part: Part) -> None:
    """Write the finished results of a part, for the book (see `lotperm.reference.recorded`)."""
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
        "kind": entry.kind, "experiment": e.to_dict(),
        "options": {key: value for key, value in o.items() if key not in _RUNTIME},
        "summary": records(table), "stages": provenance(part.tasks()),
    }  # fmt: skip
    save_record(part.folder, content, {"results": table})


def needed(campaign: Campaign, store: Store) -> list[Item]:
    """What must travel for a campaign to go on elsewhere: of what is done, results and the files still to be read.

    Entries whose data set isn't here are left out: nothing of them can have been computed here.
    """
    datasets: Datasets = {}
    here = [entry for entry in campaign.entries if not entry.lacking(datasets)]
    reads: dict[str, set[str]] = {}
    tasks: list[Task] = []
    for entry in here:
        pipelines = entry.pipelines(store, None, datasets)
        own = chain(task for pipeline in pipelines for task in entry.own_tasks(pipeline))
        tasks += own
        missing = [task for task in own if not task.done()]
        for task in missing:
            for key, files in task.reads.items():
                reads.setdefault(key, set()).update(files)
        if missing and entry.kind == "table":
            for task, file in (read for pipeline in pipelines for read in tickets.reads(pipeline)):
                reads.setdefault(task.key, set()).add(file)
    return [Item(task.name, task.key, frozenset(reads.get(task.key, ()))) for task in chain(tasks)]


# --- reports ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Progress:
    """How far a stage of a campaign is.

    Attributes
    ----------
    entry : name of the first entry that needs it
    label : what it does
    state : "done", "in progress" or "missing"
    epoch, epochs : whole epochs that are trained, as of its last checkpoint, and all of them
    images_left : examples that are still to be trained on, all networks counted
    seconds_left : at the rate of the finished stages of the same network; None if there is none, or nothing to train
    seconds : that a finished stage took
    """

    entry: str
    label: str
    state: str
    epoch: int
    epochs: int
    images_left: int
    seconds_left: float | None
    seconds: float | None


@dataclass(frozen=True)
class Status:
    """How far a campaign is.

    Attributes
    ----------
    stages : those that what isn't recorded yet needs, each under the first entry that needs it
    skipped : as `run`: entries whose data set isn't there
    recorded : folders that are there already, of all entries
    """

    stages: list[Progress]
    skipped: dict[str, str]
    recorded: dict[str, list[Path]]


def status(campaign: Campaign, store: Store, results: Path | None = None) -> Status:
    """How far a campaign is that records in `results` (None: in its own folder); changes nothing."""
    datasets: Datasets = {}
    seen: set[str] = set()
    found: list[tuple[Entry, Task, Any]] = []
    skipped: dict[str, str] = {}
    recorded: dict[str, list[Path]] = {}
    work: dict[Any, list[float]] = {}
    for part in campaign.parts(store, results, None, datasets):
        entry = part.entry
        if part.recorded():
            recorded.setdefault(entry.name, []).append(part.folder)
            continue
        if lacking := entry.lacking(datasets):
            skipped[entry.name] = lacking
            continue
        for pipeline in part.pipelines:
            e = pipeline.experiment
            network = (e.data.name, e.model, e.dense.precision)
            for task in chain(entry.own_tasks(pipeline)):
                if task.key not in seen:
                    seen.add(task.key)
                    found.append((entry, task, network))
                    if task.done() and task.work.train_images:
                        total = work.setdefault(network, [0, 0])
                        total[0] += task.work.train_images
                        total[1] += task.meta["seconds"]
    stages = []
    for entry, task, network in found:
        epochs, images = task.work.epochs, task.work.train_images
        done = task.done()
        info = None if done else store.workspace(task.name, task.key).peek()
        epoch = epochs if done else int(info["epoch"]) if info else 0
        left = 0 if done else images - (images * epoch // epochs if epochs else 0)
        rate = work.get(network)
        state = "done" if done else "in progress" if info else "missing"
        time_left = left * rate[1] / rate[0] if left and rate else None
        took = task.meta["seconds"] if done else None
        stages.append(Progress(entry.name, task.label, state, epoch, epochs, left, time_left, took))
    return Status(stages, skipped, recorded)


# --- reading the file -------------------------------------------------------------------------------


def _parse(path: Path) -> Plain:
    """The content of a campaign file; a key that stands twice is refused, as one of the values would be lost."""

    def unique(pairs: Iterator[tuple[Any, Any]] | list[tuple[Any, Any]]) -> Plain:
        found: Plain = {}
        for key, value in pairs:
            if key in found:
                raise ParameterError(f"{path}: {key!r} stands twice in one place.")
            found[key] = value
        return found

    def refuse(text: str) -> NoReturn:
        raise ParameterError(f"{path} holds {text}; expected finite numbers.")

    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot read campaign {path}: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise ParameterError(f"{path} is not text in UTF-8: {error}.") from error
    try:
        if path.suffix == ".json":
            content = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
        elif path.suffix in (".yaml", ".yml"):
            content = _yaml(text, path, unique)
        else:
            raise ParameterError(f"{path} is no campaign: expected a file .yaml, .yml or .json.")
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, ParameterError):
            raise
        raise ParameterError(f"{path} can't be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ParameterError(f"{path} is no campaign: expected the keys name, defaults and entries.")
    return content


def _yaml(text: str, path: Path, unique: Any) -> Any:
    try:
        import yaml
    except ImportError:
        beside = path.with_suffix(".json")
        hint = f"Use {beside}" if beside.exists() else "Give the same content as a .json file"
        raise ParameterError(
            f"{path} is YAML, which needs PyYAML, and it isn't installed. {hint}, or: pip install pyyaml"
        ) from None

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def construct_mapping(self, node: Any, deep: bool = False) -> Plain:
            self.flatten_mapping(node)
            return unique(
                (self.construct_object(key, deep=True), self.construct_object(value, deep=True))
                for key, value in node.value
            )

    Loader.add_constructor("tag:yaml.org,2002:map", Loader.construct_mapping)
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ParameterError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def _known(where: str, given: Mapping[Any, Any], keys: Sequence[str]) -> None:
    for key in given:
        if key not in keys:
            raise ParameterError(f"{where}: {unknown_name('key', str(key), keys)}")


def _entry(item: Plain, label: str) -> Entry:
    """One entry, checked."""
    name, kind = item.get("name"), item.get("kind", "table")
    if not isinstance(name, str) or not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ParameterError(f"{label}: name is {name!r}; expected lower case letters, digits, '_' and '-'.")
    label = f"{label} ({name})"
    if not isinstance(kind, str) or kind not in KINDS:
        raise ParameterError(f"{label}: {unknown_name('kind', str(kind), KINDS)}")
    for other, keys in KINDS.items():
        if other != kind and (odd := [key for key in keys if key in item]):
            raise ParameterError(
                f"{label}: {odd[0]!r} belongs to entries of kind {other!r}; this one is {kind!r}."
            )
    _known(label, item, (*_ENTRY, *KINDS[kind], *PARAMETERS))
    parameters = {key: value for key, value in item.items() if key in PARAMETERS and key != "widths"}
    figure, widths = item.get("figure"), item.get("widths")
    try:
        if figure is None:
            if widths is not None:
                raise ParameterError("widths needs a figure; without one, give width.")
            experiments = [Experiment.from_parameters(**parameters)]
        else:
            experiments = Experiment.for_figure(str(figure), widths=widths, **parameters)
        if (keep := item.get("keep")) is not None:
            kept = PARAMETERS["rewind_epoch"].parse("keep", keep)
            experiments = [dataclasses.replace(e, keep=kept) for e in experiments]
        options = {key: item.get(key, default) for key, default in KINDS[kind].items()}
        if (together := options.pop("together", None)) is not None:
            size = PARAMETERS["epochs"].parse("together", together)
            if size < 1:
                raise ParameterError(f"together is {size}; expected 1 or more.")
            experiments = [
                dataclasses.replace(e, seeds=e.seeds[first : first + size])
                for e in experiments
                for first in range(0, len(e.seeds), size)
            ]
        options |= {key: item[key] for key in _RUNTIME if item.get(key) is not None}
        for experiment in experiments:
            _check_options(kind, options, experiment)
    except ParameterError as error:
        raise ParameterError(f"{label}: {error}") from None
    return Entry(name, kind, tuple(experiments), options)


def _check_options(kind: str, options: Plain, experiment: Experiment) -> None:
    """Bring the options of an entry into their types, or refuse them."""
    if not isinstance(options.get("compile", False), bool):
        raise ParameterError(f"compile is {options['compile']!r}; expected true or false.")
    for key in ("members", "replicates"):
        if options.get(key) is not None:
            options[key] = PARAMETERS["epochs"].parse(key, options[key])
            if options[key] < 1:
                raise ParameterError(f"{key} is {options[key]}; expected 1 or more.")
    if kind == "early":
        kept = kept_epochs(experiment)
        given = options["match_epochs"] if options["match_epochs"] is not None else kept
        options["match_epochs"] = list(PARAMETERS["rewind_epoch"].parse("match_epochs", given))
        for t in options["match_epochs"]:
            if t not in kept:
                raise ParameterError(f"match_epochs has {t}; expected epochs that are kept: {kept}.")
        _once("match_epochs", options["match_epochs"])
    elif kind == "diversity" and len(experiment.seeds) < 2:
        raise ParameterError("diversity compares networks with each other: give two seeds or more.")
    elif kind == "connectivity":
        options["alphas"] = list(PARAMETERS["sparsity"].parse("alphas", options["alphas"]))
        if len(options["alphas"]) < 3 or not all(0 <= a <= 1 for a in options["alphas"]):
            raise ParameterError(
                f"alphas is {options['alphas']}; expected three numbers or more from 0 to 1."
            )
        repairs = options["repairs"]
        options["repairs"] = list(repairs) if isinstance(repairs, list | tuple) else [repairs]
        for repair in options["repairs"]:
            if repair not in REPAIRS:
                raise unknown_name("repair", str(repair), REPAIRS)
        _once("alphas", options["alphas"])
        _once("repairs", options["repairs"])


def _once(name: str, values: Sequence[Any]) -> None:
    if not values or len(set(values)) != len(values):
        raise ParameterError(f"{name} is {values}; expected one value or more, none twice.")
