"""A sweep in processes on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from lotperm.cluster.options import MAX_TIMEOUTS, Options
from lotperm.cluster.worker import Worker
from lotperm.parallel.threads import cores_divided

# Minutes. submitit wants a limit, and this one is never reached.
_YEAR = 60 * 24 * 365

# What the process of a job runs. Ctrl-C reaches the job as well, which ends by itself after a step,
# so its controller ignores it; SIGUSR1 makes the controller kill the job.
_CONTROLLER = f"""
import contextlib, signal, sys
from pathlib import Path
from submitit.local.local import Controller
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGUSR1, signal.default_int_handler)
with contextlib.suppress(KeyboardInterrupt):
    Controller(Path(sys.argv[1])).run({MAX_TIMEOUTS})
"""


def local_executor(folder: Path) -> Any:
    """Make submitit's executor for this machine, with another controller.

    The controller is the process that starts a job, and starts it again when its time is used up.
    submitit's own starts a job at most six times. Ctrl-C at a terminal, which reaches every
    process, makes submitit's kill its job after a second; here a job ends by itself, after a step,
    and SIGUSR1 kills it (`cancel`). Also, submitit numbers GPUs from 0, whichever of them
    CUDA_VISIBLE_DEVICES allows.

    Parameters
    ----------
    folder : Path
        The folder for the jobs' scripts and logs.
    """
    import submitit

    class Executor(submitit.LocalExecutor):
        def _submit_command(self, command: str) -> submitit.LocalJob[Any]:
            # Numbers count within the GPUs that this process may use.
            allowed = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            gpus = self.parameters.get("visible_gpus", ())
            names = [allowed[gpu] if allowed[0] else str(gpu) for gpu in gpus]
            # The variables that submitit's own controller would get.
            variables = {
                "SUBMITIT_EXECUTOR": "local",
                "SUBMITIT_LOCAL_COMMAND": command,
                "SUBMITIT_LOCAL_NTASKS": "1",
                "SUBMITIT_LOCAL_NODEID": "0",
                "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
                "SUBMITIT_LOCAL_WITH_SHELL": "",
                "SUBMITIT_LOCAL_TIMEOUT_S": str(60 * self.parameters["timeout_min"]),
                "SUBMITIT_LOCAL_SIGNAL_DELAY_S": str(self.parameters.get("signal_delay_s", 30)),
                "SUBMITIT_STDERR_TO_STDOUT": "",
                "CUDA_VISIBLE_DEVICES": ",".join(names),
            }
            process = subprocess.Popen(
                [sys.executable, "-c", _CONTROLLER, self.folder], env={**os.environ, **variables}
            )
            return submitit.LocalJob(self.folder, str(process.pid), process=process, tasks=[0])

    return Executor(folder, max_num_timeout=MAX_TIMEOUTS)


def start(
    executor: Any, jobs: Sequence[Any], worker: Callable[[Iterable[int]], Worker], options: Options
) -> list[Any]:
    """Start processes that share the jobs.

    There is no queue here. Each process takes every n-th job, in order, then whatever is left; a
    task computes those before it. What another process is computing, and all that needs it, is put
    off as long as there is something else to do; then a process waits at the store's locks. A lock
    is only held by a process that has all that it needs, so nobody waits in a circle. The processes
    divide the cores.

    Parameters
    ----------
    executor : object
        As `local_executor` makes it.
    jobs : sequence of Job
        The jobs.
    worker : callable
        Makes what a process runs from the numbers of its jobs.
    options : Options
        Numbers of processes, GPUs and minutes.

    Returns
    -------
    list[Any]
        submitit's handle of each process.
    """
    cards, ranks = options.gpu_count(), options.ranks
    count = min(options.at_once, len(jobs))
    numbers, handles = range(len(jobs)), []
    for first in range(count):
        # After its own jobs come all others, so that no process is idle while work is left.
        mine = numbers[first::count]
        rest = [number for number in numbers if number not in mine]
        # With more processes than cards, some share one.
        own = [(first * ranks + rank) % cards for rank in range(ranks if cards else 0)]
        executor.update_parameters(
            timeout_min=options.minutes or _YEAR, gpus_per_node=len(own), visible_gpus=own
        )
        with cores_divided(count * ranks):
            handles.append(executor.submit(worker([*mine, *rest])))
    return handles


def cancel(handles: Sequence[Any], seconds: float = 30.0) -> None:
    """End processes that `start` started.

    Parameters
    ----------
    handles : sequence
        submitit's handles.
    seconds : float, optional
        Time for each process to save its state after a step; then it is killed.
    """
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and (left := [h for h in handles if not h.done()]):
        # Sent again and again: submitit ignores the signal while a job is starting.
        for handle in left:
            _send(handle, signal.SIGTERM)
        time.sleep(0.5)
    for handle in handles:
        # Killed now. What it saved last is still there to go on from.
        if not handle.done():
            _send(handle, signal.SIGUSR1)


def _send(handle: Any, number: int) -> None:
    """Send a signal to the controller of a job, which may have ended just now."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(handle.job_id), number)
