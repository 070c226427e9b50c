"""``lotperm experiment`` and ``lotperm parameters``: the method without a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import rich
import torch
import typer

from lotperm.cli.options import (
    CompileOption,
    DeviceOption,
    MembersOption,
    ParameterOption,
    ProfileOption,
    parse_pairs,
    resolve_device,
)
from lotperm.cli.output import say
from lotperm.cli.signals import stop
from lotperm.config.experiment import Experiment
from lotperm.config.parameters import PARAMETERS
from lotperm.config.profiles import DEFAULT_PROFILE
from lotperm.engine.runtime import Runtime, tqdm_bar
from lotperm.parallel import distributed
from lotperm.studies.pipeline import Pipeline
from lotperm.studies.tickets import save_tickets


def experiment(
    parameter: ParameterOption = None,
    profile: ProfileOption = DEFAULT_PROFILE,
    out: Annotated[Path, typer.Option(help="Folder for the tables (CSV, JSON, Markdown).")] = Path(
        "results"
    ),
    device: DeviceOption = "auto",
    compile: CompileOption = False,
    members: MembersOption = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads; default: PyTorch's choice.")
    ] = None,
    microbatch: Annotated[
        int | None,
        typer.Option(min=1, help="Most examples of a batch to compute at once; bounds memory."),
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

    It trains dense A and B, finds A's ticket, aligns A to B, permutes the mask, and trains the
    three sparse arms.

    On several GPUs or cores: `torchrun --nproc-per-node 4 -m lotperm experiment …`, with the same
    options.
    """
    # Needed here alone, and a seventh of a second of everyone's start-up.
    from rich.markdown import Markdown

    if threads:
        torch.set_num_threads(threads)
    # Joins the ranks that torchrun started; alone, it does nothing.
    with distributed.processes(resolve_device(device)):
        # One rank speaks for all.
        leads = distributed.rank() == 0
        chosen = Experiment.from_parameters(**{"profile": profile, **parse_pairs(parameter)})
        runtime = Runtime(
            device=resolve_device(device),
            compile=compile,
            members=members,
            microbatch=microbatch,
            workers=workers,
            progress=tqdm_bar if leads else None,
            stop=stop.asked,
        )
        pipeline = Pipeline(chosen, runtime=runtime)
        results = pipeline.run()
        distributed.once(lambda: results.save(out))
        # All ranks load the stages; one of them writes.
        written = save_tickets(pipeline, out / "tickets") if tickets else []
    if leads:
        rich.print(Markdown(results.markdown()))
        rich.print(f"Wrote results.csv, curves.csv, results.json and summary.md to {out}")
    if leads and written:
        rich.print(f"Wrote {len(written)} files of tickets to {out / 'tickets'}")


def parameters() -> None:
    """List the parameters of an experiment."""
    for parameter in PARAMETERS.values():
        row = parameter.row()
        say(f"{row['parameter']}: {row['meaning']}")
        say(f"    {row['value']}; default {row['default']}; applies to {row['applies to']}")
