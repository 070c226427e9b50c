"""``lotperm campaign``: a list of experiments, computed in slices and recorded."""

from __future__ import annotations

import sys
from typing import Annotated

import rich
import typer
from rich.table import Table

from lotperm.cli.options import (
    CampaignArgument,
    DeviceOption,
    MembersOption,
    OnlyOption,
    RecordOption,
    resolve_device,
)
from lotperm.cli.output import duration, say
from lotperm.cli.signals import stop
from lotperm.cluster import campaign as campaigns
from lotperm.cluster.progress import CampaignStatus, StageProgress, status
from lotperm.engine.runtime import Runtime, tqdm_bar
from lotperm.errors import PreemptedError, StorageError
from lotperm.store.stages import Store

app = typer.Typer(
    no_args_is_help=True, help="Compute a list of experiments in slices, and record them."
)


@app.command("run")
def run_campaign(
    file: CampaignArgument,
    budget_minutes: Annotated[
        float | None,
        typer.Option(
            help="Stop after this many minutes, after a step; the same command continues."
        ),
    ] = None,
    only: OnlyOption = None,
    out: RecordOption = None,
    device: DeviceOption = "auto",
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile", help="Compile the training step; default: as the file says."
        ),
    ] = None,
    members: MembersOption = None,
    overlap: Annotated[
        bool,
        typer.Option(
            "--overlap",
            help="On a GPU, train a stage at the same time as one that it doesn't need.",
        ),
    ] = False,
) -> None:
    """Compute what is missing, in order, and record every entry as it finishes.

    Entries that are recorded already are skipped, even if the store has nothing of them;
    --out FOLDER computes them anew.

    Exits with 0 when all is done or the budget is used up, with 130 after Ctrl-C, and with 143
    after another signal; the same command then continues.
    """
    over = campaigns.Budget(budget_minutes)
    campaign, store = campaigns.Campaign.load(file).only(only), Store.default()
    # Without the option every entry keeps its own choice.
    if compile is not None:
        campaign = campaign.set(compile=compile)
    runtime = Runtime(
        device=resolve_device(device),
        members=members,
        overlap=overlap,
        # A bar rewrites its line, which a file can't.
        progress=tqdm_bar if sys.stderr.isatty() else None,
        stop=lambda: over() or stop.asked(),
    )
    try:
        skipped = campaigns.run(campaign, store, runtime, out, say)
    except PreemptedError as error:
        # A signal keeps its exit code. A budget that is used up is what was asked for, and no
        # error.
        if stop.asked():
            raise
        say(f"The budget is used up: {error}")
        say(_summary(status(campaign, store, out)))
        return
    if skipped:
        raise StorageError(
            f"not computed, as a data set isn't here: {', '.join(skipped)}. The rest is done."
        )
    say("All entries are done.")


@app.command("status")
def show_status(
    file: CampaignArgument,
    only: OnlyOption = None,
    out: RecordOption = None,
    every: Annotated[
        bool, typer.Option("--stages", help="Also show the stages that are done or missing.")
    ] = False,
) -> None:
    """Show what is recorded, done, in progress and missing, and how long the rest takes at the
    rate seen so far.
    """
    campaign = campaigns.Campaign.load(file).only(only)
    found = status(campaign, Store.default(), out)
    table = Table(title=f"Campaign {campaign.name}")
    for column in ("entry", "stage", "state", "images left", "time left", "took"):
        table.add_column(column, overflow="fold")
    for entry in campaign.entries:
        own = [stage for stage in found.stages if stage.entry == entry.name]
        table.add_row(entry.name, entry.kind, *_entry_cells(entry.name, own, found))
        for stage in own:
            if every or stage.state == "in progress":
                table.add_row("", *_stage_cells(stage))
    rich.print(table)
    say(_summary(found))
    for reason in dict.fromkeys(found.skipped.values()):
        say(reason)


def _entry_cells(name: str, own: list[StageProgress], found: CampaignStatus) -> list[str]:
    """Return state, images left, time left and time taken of an entry, from its own stages."""
    done = [stage for stage in own if stage.state == "done"]
    if name in found.skipped:
        state = "data missing"
    elif own:
        state = "done" if len(done) == len(own) else f"{len(done)} of {len(own)} done"
    else:
        # All of its stages may stand under an entry before it.
        state = "recorded" if name in found.recorded else "the same stages as above"
    left = sum(stage.images_left for stage in own)
    took = sum(stage.seconds for stage in done if stage.seconds is not None)
    return [state, f"{left:,}", duration(_seconds_left(own)), duration(took) if done else ""]


def _stage_cells(stage: StageProgress) -> list[str]:
    """Return label, state, images left, time left and time taken of one stage."""
    state = stage.state
    if state == "in progress":
        state = f"epoch {stage.epoch} of {stage.epochs}"
    times = (duration(stage.seconds_left), duration(stage.seconds))
    return [stage.label, state, f"{stage.images_left:,}", *times]


def _seconds_left(stages: list[StageProgress]) -> float | None:
    """Add up the time that stages still take.

    Returns
    -------
    float or None
        Seconds; None if nothing is left to train, or the time of one of them is unknown.
    """
    times = [stage.seconds_left for stage in stages if stage.images_left]
    known = [seconds for seconds in times if seconds is not None]
    # The whole is known only if every part of it is.
    return sum(known) if known and len(known) == len(times) else None


def _summary(found: CampaignStatus) -> str:
    """Return one line that says how much of a campaign is left."""
    left = [stage for stage in found.stages if stage.state != "done"]
    images = sum(stage.images_left for stage in left)
    seconds = _seconds_left(left)
    about = "" if seconds is None else f", about {duration(seconds)}"
    lacking = f"; without data: {', '.join(found.skipped)}" if found.skipped else ""
    return (
        f"Left: {len(left)} of {len(found.stages)} stages, {images:,} training images"
        f"{about}{lacking}."
    )
