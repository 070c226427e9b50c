"""A process that has imported everything and forks: a run of lotperm that begins in milliseconds,
and can be killed.

It reads requests from stdin, a line of JSON each, and answers with a line each. A request names
one or more `JOBS`; each is done by a child of its own, all at the same time. Memory that is shared
with the child tells what it is doing, so that a signal can be sent at a random moment of a chosen
stage, or in the middle of a save.

Before it forks it has one thread (OMP_NUM_THREADS=1) and has never gone backward through a
network: both would break its children.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import json
import mmap
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from lotperm import Experiment, PermutationSpec, Pipeline, Store
from lotperm.cli import app
from lotperm.data import datasets, sources
from lotperm.engine import models, stacking, training
from lotperm.engine import run as engine_run
from lotperm.science import statistics
from lotperm.site import notebooks
from lotperm.store import convert, files, folders, stages
from lotperm.studies import results

PHASES = ("start", "dense", "imp", "match", "sparse", "connectivity", "results")


def whole(parameters: dict[str, Any], out: str) -> None:
    """Every kind of stage once, and the files of the results."""
    pipeline = Pipeline(Experiment.from_parameters(**parameters), Store.default())
    results = pipeline.run()
    lines = pipeline.connectivity([0.0, 0.5, 1.0], ["bn"], replicates=1, statistics=100)
    results.save(out)
    files.write_atomic(Path(out) / "connectivity.csv", lines.to_csv(index=False).encode())


def command(arguments: list[str]) -> None:
    """The command line."""
    sys.argv = ["lotperm", *arguments]
    app.main()


def attack(door: str, path: str, out: str) -> None:
    """Open a hostile file; print which error came, how long it took (of a CPU), by how much the
    memory grew (KiB).
    """
    doors = {
        "load": lambda: files.load_tensors(Path(path)),
        "convert": lambda: convert.convert(Path(path), Path(out)),
        "fashion_mnist": lambda: sources.fetch("fashion_mnist", source=Path(path), home=Path(out)),
        "cifar10": lambda: sources.fetch("cifar10", source=Path(path), home=Path(out)),
        "notebook": lambda: notebooks.execute(Path(path), Path(out), progress=False),
    }
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    error = None
    try:
        doors[door]()
    except Exception as raised:
        error = raised
    seconds = time.process_time() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    kind, message = type(error).__name__, str(error)
    print(json.dumps({"error": kind, "message": message, "seconds": seconds, "kib": grown}))


def use(arrays: int) -> None:
    """Compute something small (the state of a library after its first use isn't that before)."""
    torch.ones(arrays).sum()


def script(lines: str) -> None:
    """Run a test's own lines, as a program of its own."""
    exec(lines, {})


JOBS = {"whole": whole, "command": command, "attack": attack, "use": use, "script": script}


def write_in_place(path: Path, content: bytes) -> None:
    """What `store.write_atomic` must not be: the file itself is opened, emptied and written
    piece by piece.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb", buffering=0) as file:
        for start in range(0, len(content), 4096):
            file.write(content[start : start + 4096])
        os.fsync(file.fileno())


def disk_full(room: int) -> None:
    """Let the disk be full after this many bytes: the last write is cut short, the next one
    fails.
    """
    write, left = os.write, [room]

    def limited(fd: int, content: Any) -> int:
        if left[0] <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(fd, content[: left[0]])
        left[0] -= count
        return count

    os.write = limited


def fail_at_step(step: int, how: str) -> None:
    """From a step of training on: the loss and all weights become NaN, or the GPU is lost."""
    update, count = engine_run.Run.update, [0]

    def failing(self: Any, inputs: Any, targets: Any) -> Any:
        count[0] += 1
        if count[0] < step:
            return update(self, inputs, targets)
        if how == "lost":
            raise RuntimeError(
                "CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later"
            )
        return update(self, inputs * float("nan"), targets)

    engine_run.Run.update = failing


def clock_back(seconds: float) -> None:
    """Let every reading of the system's clock show an earlier time than the one before."""
    now = [time.time()]

    def earlier() -> float:
        now[0] -= seconds
        return now[0]

    time.time = earlier


def limit_memory(mib: int) -> None:
    """Allow only this much more address space than is used now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + mib * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def limit_files(kib: int) -> None:
    """No file can grow larger (EFBIG)."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, kib * 1024))


def in_place() -> None:
    """The control: a store that writes in place."""
    files.write_atomic = results.write_atomic = write_in_place


def checkpoints(seconds: float) -> None:
    """Keep the state of training more often."""
    training.train.__kwdefaults__["checkpoint_seconds"] = seconds


FAULTS = {
    "disk_full": disk_full,
    "fail_at_step": fail_at_step,
    "clock_back": clock_back,
    "limit_memory": limit_memory,
    "limit_files": limit_files,
    "in_place": in_place,
    "checkpoints": checkpoints,
}


def show_phases(shared: mmap.mmap, trace: str | None) -> None:
    """Write into the shared memory what is going on, and a line into the trace for each stage
    that is computed.
    """
    begin, write, replace, rename = Store.stage, files.write_synced, os.replace, os.rename

    def stage(self: Store, name: str, config: Any, compute: Any) -> Any:
        def shown(workspace: Any) -> Any:
            shared[0] = PHASES.index(name)
            if trace:
                with open(trace, "a") as file:
                    file.write(f"{name} {stages.stage_key(name, config)}\n")
            return compute(workspace)

        return begin(self, name, config, shown)

    def saving(function: Any) -> Any:
        @functools.wraps(function)
        def wrapped(*arguments: Any) -> Any:
            shared[1] = 1
            try:
                return function(*arguments)
            finally:
                shared[1] = 0

        return wrapped

    def save(self: Any, folder: Any, before: Any = results.Results.save) -> None:
        shared[0] = PHASES.index("results")
        before(self, folder)

    Store.stage = stage
    results.Results.save = save
    if files.write_atomic is write_in_place:
        files.write_atomic = results.write_atomic = saving(write_in_place)
    files.write_synced = folders.write_synced = saving(write)
    os.replace, os.rename = saving(replace), saving(rename)


def child(call: dict[str, Any], shared: mmap.mmap, printed: Path) -> None:
    """Do one job and end."""
    code = 1
    try:
        file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(file, 1)
        os.dup2(file, 2)
        signal.signal(
            signal.SIGINT, signal.default_int_handler
        )  # a shell's background job inherits "ignore"
        os.environ.update(call.get("environment", {}))
        time.tzset()
        if "threads" in call:
            torch.set_num_threads(call["threads"])
        if "folder" in call:
            os.chdir(call["folder"])
        for name, options in call.get("faults", {}).items():
            FAULTS[name](**options)
        show_phases(shared, call.get("trace"))
        try:
            JOBS[call["job"]](**call["options"])
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(bool(end.code))
        except BaseException:
            traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def serve(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Fork a child for each call, send the signal that is wanted to the first one that gets
    there, wait for all.
    """
    calls, hit = request["calls"], request.get("hit")
    memories = [mmap.mmap(-1, 2) for _ in calls]
    files = [folder / f"printed-{i}" for i in range(len(calls))]
    pids = []
    for call, memory, file in zip(calls, memories, files, strict=True):
        pid = os.fork()
        if pid == 0:
            child(call, memory, file)
        pids.append(pid)
    codes: dict[int, int] = {}
    found, due, ends = None, None, time.monotonic() + request.get("timeout", 120)
    victim = -1
    while len(codes) < len(pids):
        if hit and found is None:
            if victim < 0:
                wanted = [
                    i for i, m in enumerate(memories) if i not in codes and _is_in(m, hit["phase"])
                ]
                if wanted:
                    victim, due = wanted[0], time.monotonic() + hit["delay"]
            elif victim in codes:
                found = "ended"
            elif due is not None and time.monotonic() >= due:
                found = "save" if memories[victim][1] else PHASES[memories[victim][0]]
                os.kill(pids[victim], hit["signal"])
        for i, pid in enumerate(pids):
            if i not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[i] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > ends:
            for i, pid in enumerate(pids):
                if i not in codes:
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.0001 if hit and found is None else 0.003)
    return {
        "codes": [codes[i] for i in range(len(pids))],
        "hit": found,
        "victim": victim,
        "printed": [file.read_text(errors="replace") for file in files],
    }


def _is_in(memory: mmap.mmap, phase: str) -> bool:
    return bool(memory[1]) if phase == "save" else PHASES[memory[0]] == phase


def main() -> None:
    """Answer requests until stdin is closed."""
    folder = Path(sys.argv[1])
    loaded = datasets.load("mnist1d")  # made once, and kept
    # What each child would import for itself, late: no network is trained here.
    tqdm.monitor_interval = 0  # it would start a thread
    for name in ("nbformat", "papermill", "nbclient", "rich.markdown", "torchvision.io"):
        importlib.import_module(name)
    network = models.build("mlp", input_shape=loaded.input_shape, classes=10, hidden=(4,))
    PermutationSpec.trace(network, loaded.train.inputs[:2])
    stacking.stack(network, 2)
    statistics.paired([0.1, 0.2, 0.3], [0.2, 0.2, 0.4])
    statistics.interval([0.1, 0.2])
    assert len(os.listdir("/proc/self/task")) == 1, "more than one thread: a fork isn't safe"
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(serve(json.loads(line), folder)), flush=True)
    os._exit(0)  # taking PyTorch down takes seconds


if __name__ == "__main__":
    main()
