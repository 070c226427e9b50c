"""How a sweep is run: where, in how many jobs, on how many processors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from lotperm.cluster.campaign import Campaign
from lotperm.engine.shared import check_shared
from lotperm.errors import ParameterError

MAX_TIMEOUTS = 10_000
"""Times that a job may run out of time and start again; each time it gets further."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a sweep is run.

    Attributes
    ----------
    cluster : str
        "slurm", or "local" for processes on this machine.
    at_once : int
        Jobs of an array that run at once; on "local", processes.
    minutes : int or None
        Minutes until a job is put into the queue again; None: 240 on Slurm, no limit here.
    gpus : int or None
        On Slurm, the GPUs of each job; None: one for each rank. On this machine, those of all
        processes together; None: all that there are.
    partition : str or None
        Partition of Slurm; None: its default.
    slurm : mapping of str to str
        Further options of ``sbatch`` by name, e.g. ``{"account": "x", "mem": "32G"}``.
    retries : int
        Times that a failed stage is tried again.
    runtime : mapping
        Values for `Runtime`, as `Worker` takes them.
    results : Path or None
        Folder to record in; None: the campaign's.
    ranks : int
        Processes that compute each stage together, one a GPU if there are any: torchrun's data
        parallel training inside each job.
    """

    cluster: str = "local"
    at_once: int = 1
    minutes: int | None = None
    gpus: int | None = None
    partition: str | None = None
    slurm: Mapping[str, str] = field(default_factory=dict)
    retries: int = 2
    runtime: Mapping[str, Any] = field(default_factory=dict)
    results: Path | None = None
    ranks: int = 1

    def gpu_count(self) -> int:
        """Return `gpus`, or the number that None stands for."""
        if self.gpus is not None:
            return self.gpus
        # The GPUs of a cluster are in other machines: each rank asks for one.
        return self.ranks if self.cluster == "slurm" else torch.cuda.device_count()

    def check(self, campaign: Campaign) -> None:
        """Raise `ParameterError` for options that would otherwise fail only when a job begins."""
        if self.cluster not in ("slurm", "local"):
            raise ParameterError(f"cluster is {self.cluster!r}; expected 'slurm' or 'local'.")
        ranks, gpus = self.ranks, self.gpu_count()
        if ranks < 1:
            raise ParameterError(f"ranks is {ranks}; expected 1 or more.")
        # With no GPU at all, ranks compute on the CPU.
        if 0 < gpus < ranks:
            raise ParameterError(
                f"{ranks} ranks need as many GPUs, but there are {gpus}. Use --ranks {gpus}, or "
                "--gpus 0: ranks on the CPU."
            )
        # On a cluster, Slurm knows what there is.
        here = torch.cuda.device_count()
        if self.cluster == "local" and gpus > here:
            raise ParameterError(
                f"--gpus is {gpus}, but on this machine there are {here} that may be used."
            )
        for entry in campaign.entries:
            compiled = bool(self.runtime.get("compile") or entry.compile)
            for experiment in entry.experiments:
                # Ranks can't share a compiled step, nor a batch that they can't divide equally.
                check_shared(experiment.dense, compiled, ranks)
