"""``lotperm sweep``: a campaign as jobs, on a Slurm cluster or in processes here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lotperm.cli.options import (
    CampaignArgument,
    CompileOption,
    DeviceOption,
    MembersOption,
    RecordOption,
    check_device_name,
    parse_pairs,
)
from lotperm.cli.output import print_boxed, say
from lotperm.cli.signals import stop
from lotperm.cluster import sweep
from lotperm.cluster.options import Options
from lotperm.store.stages import Store


class _RunByDefault(typer.core.TyperGroup):
    """A group of commands whose ``run`` is meant where the first word names no command."""

    def parse_args(self, context: Any, arguments: list[str]) -> list[str]:
        # So that `lotperm sweep FILE` works, besides `run`, `status` and their help.
        if arguments and arguments[0] not in (*self.commands, "--help"):
            arguments = ["run", *arguments]
        return super().parse_args(context, arguments)


app = typer.Typer(
    cls=_RunByDefault,
    no_args_is_help=True,
    help="Compute a campaign as jobs on a Slurm cluster, or in processes here. `lotperm sweep FILE` is "
    "`lotperm sweep run FILE`.",
)


@app.command("run")
def run_sweep(
    file: CampaignArgument,
    cluster: Annotated[
        str, typer.Option(help="slurm, or local: processes on this machine.")
    ] = "local",
    partition: Annotated[str | None, typer.Option(help="Slurm partition.")] = None,
    ranks: Annotated[
        int,
        typer.Option(
            min=1,
            help="Processes of a job, one per GPU: torchrun's data parallel training inside each job.",
        ),
    ] = 1,
    gpus: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="GPUs of each job on Slurm, default: one per rank; locally, of all jobs, default: all.",
        ),
    ] = None,
    time: Annotated[
        int | None,
        typer.Option(min=1, help="Minutes until a job is queued again; default on Slurm: 240."),
    ] = None,
    array_parallelism: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Jobs of an array to run at once, default: 64; locally, processes, default: 1.",
        ),
    ] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(
            "--slurm",
            metavar="NAME=VALUE",
            help="Another option of sbatch, such as account=x. May be repeated.",
        ),
    ] = None,
    retries: Annotated[
        int, typer.Option(min=0, max=4, help="How often a stage that failed is tried again.")
    ] = 2,
    out: RecordOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for Slurm until all is done.")] = False,
    device: DeviceOption = "auto",
    compile: CompileOption = False,
    members: MembersOption = None,
) -> None:
    """Submit what a campaign lacks as jobs, each stage once, and record its tables at the end.

    The same command again submits what is still missing.
    """
    # The device need not be in this machine: the nodes of a cluster have others.
    check_device_name(device)
    here = cluster == "local"
    # Options of sbatch are written with dashes.
    further = {name.replace("_", "-"): str(v) for name, v in parse_pairs(slurm, "--slurm").items()}
    options = Options(
        cluster=cluster,
        # Processes here share one machine; Slurm has many.
        at_once=array_parallelism or (1 if here else 64),
        minutes=time,
        gpus=gpus,
        partition=partition,
        slurm=further,
        retries=retries,
        runtime={"device": device, "compile": compile, "members": members},
        results=out,
        ranks=ranks,
    )
    started = sweep.submit(file, Store.default(), options)
    stages = sum(len(job.tasks) for job in started.jobs)
    say(f"{stages} stages in {len(started.jobs)} jobs; logs: {started.folder.logs}")
    # Jobs on Slurm go on by themselves; processes here need this one.
    if not (here or wait):
        ids = ", ".join(str(handle.job_id) for handle in started.handles)
        say(f"Jobs {ids}. How far: lotperm sweep status {file}")
        return
    with stop.children():
        try:
            started.wait(say)
        # Also for `Ended`: processes here end with the command. Jobs on Slurm go on without it.
        except BaseException:
            if here:
                started.cancel()
            raise


@app.command("status")
def show_status(file: CampaignArgument) -> None:
    """Show where every stage of a campaign's sweep is: done, in the queue, the epoch it
    reached, or why it failed.
    """
    store = Store.default()
    rows = sweep.status(file, store)
    print_boxed(f"Sweep of {file}", [{**row, "log": Path(row["log"]).name} for row in rows])
    done = sum(row["state"] in ("done", "recorded") for row in rows)
    logs = sweep.folder_of(file, store).logs
    say(f"{done} of {len(rows)} stages are done. Logs: {logs}")
