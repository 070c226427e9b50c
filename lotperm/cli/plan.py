"""``lotperm plan``: what a figure or a campaign will cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from lotperm.cli.options import (
    MembersOption,
    ParameterOption,
    ProfileOption,
    parse_pairs,
    resolve_device,
)
from lotperm.cli.output import print_columns, say
from lotperm.cluster import costs
from lotperm.cluster import plan as plans
from lotperm.cluster.campaign import Campaign
from lotperm.engine.runtime import Runtime
from lotperm.errors import ParameterError


def plan(
    what: Annotated[
        str, typer.Argument(help="A figure (resnet20_cifar10, figure5, …), or a campaign's file.")
    ],
    parameter: ParameterOption = None,
    profile: ProfileOption = "paper",
    gpu: Annotated[str, typer.Option(help=f"Device: {', '.join(costs.DEVICES)}.")] = "h100",
    members: MembersOption = None,
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
        # Which entry it would be for, nobody could tell.
        if parameter:
            raise ParameterError(
                "-p goes with a figure; a campaign's parameters stand in its file."
            )
        parts = plans.campaign(Campaign.load(Path(what)))
    else:
        parts = [plans.figure(what, **{"profile": profile, **parse_pairs(parameter)})]
    estimator = plans.Estimator(gpu, members=members)
    if measure:
        # What is measured is this machine, so it must be the device that is planned for.
        runtime = Runtime(device=_device_to_measure(gpu), compile=compile, members=members)
        estimator = plans.measured(parts, estimator, runtime)
        if record:
            say(f"Kept in {costs.record_speeds(estimator.speeds)}")
    found = plans.plan(parts, estimator)
    print_columns(f"{found.title} on {estimator.device.words}", found.rows(), under="network")
    print_columns("What sharing stages saves", found.comparison())
    print_columns("How the cost of the first network grows", plans.growth(parts[0], estimator))
    for note in found.notes:
        say(note)


def _device_to_measure(gpu: str) -> str:
    """Return the device of this machine that has the name of `lotperm.cluster.costs.DEVICES`.

    Raises
    ------
    ParameterError
        If this machine has another GPU, or none.
    """
    if gpu == "cpu":
        return "cpu"
    device = resolve_device("cuda")
    here = torch.cuda.get_device_name()
    # "h100" is part of a name such as "NVIDIA H100 80GB HBM3".
    if gpu.upper() not in here.upper():
        raise ParameterError(f"--gpu is {gpu}, but the GPU to be measured here is: {here}.")
    return device
