"""Full and read-only disks, too little memory, signals, NaN, a lost GPU, and odd surroundings."""

from __future__ import annotations

import collections
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import nbformat
import pytest
import torch
from conftest import ROOT, Warm, fingerprint, problems, times
from nbformat.v4 import new_code_cell, new_notebook

from lotperm.cli import signals
from lotperm.engine import training
from lotperm.store.files import load_tensors


def failed_well(done: dict, code: int, words: str = "") -> None:
    """Assert the exit code, and one line of error at the end instead of a traceback."""
    printed = done["printed"][0].replace("\r", "\n")
    assert done["codes"] == [code], printed[-2000:]
    assert "Traceback" not in printed, printed[-2000:]
    errors = [line for line in printed.splitlines() if "lotperm: error: " in line]
    assert len(errors) == 1 and printed.splitlines()[-1] == errors[0], printed[-2000:]
    assert words in errors[0], errors


def ends_like(warm: Warm, home: Path, unbroken: dict[str, str]) -> None:
    """Finish the run without a fault; assert that its files are those of an unbroken run."""
    done = warm.ask(warm.whole(home))
    assert done["codes"] == [0], done["printed"]
    assert problems(home, unbroken) == []


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mount something on a folder for a while; CalledProcessError where that isn't allowed."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", *options, str(folder)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


def test_the_disk_is_full_at_any_write(warm: Warm, unbroken, tmp_path, record):
    rng, size = random.Random(1), times(8, 60)
    assert warm.ask(warm.experiment(tmp_path / "whole"))["codes"] == [0]
    whole = sum(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    for number in range(size):
        home = tmp_path / str(number)
        room = int(0.9 * whole ** rng.uniform(0, 1))
        faults = {"disk_full": {"room": room}, "checkpoints": {"seconds": 0.1}}
        failed_well(warm.ask(warm.experiment(home, faults=faults)), 5, "No space left")
        ends_like(warm, home, unbroken)
    record(
        "disk full after a random number of bytes",
        size,
        "exit 5; with space again, an unbroken run's files",
    )


def test_a_file_can_grow_no_further(warm: Warm, unbroken, tmp_path, record):
    sizes = [1, 8, 16, 32] if times(0, 1) else [1, 16]
    for kib in sizes:
        home = tmp_path / str(kib)
        failed_well(warm.ask(warm.experiment(home, faults={"limit_files": {"kib": kib}})), 5)
        ends_like(warm, home, unbroken)
    record(
        "a limit on the size of files (EFBIG)",
        len(sizes),
        "exit 5; without it, an unbroken run's files",
    )


def test_a_small_disk(warm: Warm, unbroken, tmp_path, record):
    """A real file system that is full, where mounting is allowed; else the limit on files
    stands in.
    """
    sizes = [64, 128, 200] if times(0, 1) else [200]
    way = "a small tmpfs"
    for kib in sizes:
        disk = tmp_path / str(kib)
        try:
            with mounted(disk, "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs"):
                failed_well(warm.ask(warm.experiment(disk)), 5)
                subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
                ends_like(warm, disk, unbroken)
        except (subprocess.CalledProcessError, FileNotFoundError):
            way = "a limit on files in place of a tmpfs"
            failed_well(warm.ask(warm.experiment(disk, faults={"limit_files": {"kib": 20}})), 5)
            ends_like(warm, disk, unbroken)
    record(f"disk full: {way}", len(sizes), "exit 5; with space again, an unbroken run's files")


def test_a_read_only_store(warm: Warm, tmp_path, record):
    home = tmp_path / "home"
    assert warm.ask(warm.experiment(home))["codes"] == [0]
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(mounted(tmp_path / "ro", "--bind", str(home)))
            subprocess.run(["mount", "-o", "remount,ro,bind", str(tmp_path / "ro")], check=True)
            way, store = "read-only bind mount", tmp_path / "ro"
        except (subprocess.CalledProcessError, FileNotFoundError):
            # Modes bind everyone but root; root may mount.
            for path in [home, *home.rglob("*")]:
                path.chmod(path.stat().st_mode & ~0o222)
                stack.callback(path.chmod, path.stat().st_mode | 0o200)
            way, store = "store without permission to write", home
        trace = tmp_path / "trace"
        again = warm.experiment(store, "--out", tmp_path / "out", trace=str(trace))
        done = warm.ask(again)
        assert done["codes"] == [0], done["printed"]
        assert (tmp_path / "out" / "results.csv").read_bytes() == (
            home / "out" / "results.csv"
        ).read_bytes()
        assert not trace.exists(), "something was computed"
        failed_well(warm.ask(warm.experiment(store, parameters={"lr": 0.05}, trace=str(trace))), 5)
        assert not trace.exists(), "it trained before it found out"
    record(way, 2, "what is there can be read; else exit 5 before training")


def test_a_store_that_cannot_be_made(warm: Warm, tmp_path):
    (tmp_path / "file").touch()
    trace = tmp_path / "trace"
    failed_well(warm.ask(warm.experiment(tmp_path / "file" / "store", trace=str(trace))), 5)
    assert not trace.exists()


def test_too_little_memory(warm: Warm, unbroken, tmp_path, record):
    limits = [30, 60, 120, 200, 300] if times(0, 1) else [60, 200]
    for mib in limits:
        home = tmp_path / str(mib)
        large = {"hidden": [6000, 6000], "seeds": 1}
        failed_well(
            warm.ask(
                warm.experiment(home, parameters=large, faults={"limit_memory": {"mib": mib}})
            ),
            6,
            "too little memory",
        )
        assert not list(home.glob("stages/dense*/stage.json"))
    record("a limit on memory", len(limits), "exit 6, one line")
    ends_like(warm, tmp_path / "60", {**unbroken})


MOMENTS = [
    ("dense", 0.3),
    ("imp", 0.3),
    ("match", 0.02),
    ("sparse", 0.2),
    ("start", 0.1),
    ("results", 0.02),
    ("dense", 0.1),
]


@pytest.mark.parametrize(
    ("number", "code", "count"),
    [
        (signal.SIGTERM, 143, times(5, 40)),
        (signal.SIGUSR2, 143, times(5, 40)),
        (signal.SIGINT, 130, times(3, 20)),
    ],
)
def test_asked_to_stop(warm: Warm, unbroken, tmp_path, record, number, code, count):
    rng, hit, saved, runs = random.Random(int(number)), 0, 0, 0
    where: collections.Counter[str] = collections.Counter()
    while hit < count:
        home = tmp_path / str(runs)
        for phase, longest in MOMENTS[runs % 2 :]:
            at = {"phase": phase, "delay": rng.uniform(0, longest), "signal": int(number)}
            began = time.monotonic()
            done = warm.ask(warm.experiment(home), hit=at)
            if done["codes"] == [0]:  # it had finished, or had no step left to stop at
                continue
            if done["hit"] == "start" and done["codes"] == [
                -number
            ]:  # nothing had begun, not even the command line
                continue
            failed_well(done, code)
            assert time.monotonic() - began < 60
            hit += 1
            where[done["hit"]] += 1
            if "Its state is saved" in done["printed"][0]:
                saved += 1
                assert list(home.glob("work/*/checkpoint-*.safetensors"))
            if hit == count:
                break
        ends_like(warm, home, unbroken)
        runs += 1
    if count >= 20:  # most signals come between two stages
        assert saved > 0, "no signal came during training"
    outcome = f"exit {code}, one line; {saved} in training saved that very step; rerun: an unbroken run's files"
    record(f"{number.name} at a random moment", count, outcome, where=dict(where))


def test_a_second_signal_ends_at_once(monkeypatch):

    def left(stop) -> None:
        raise RuntimeError(f"left with {stop.code()}")

    def train() -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return stop.asked()

    monkeypatch.setattr(signals.SignalStop, "leave", left)
    monkeypatch.setattr(training, "train", train)
    stop, before = signals.SignalStop(), signal.getsignal(signal.SIGTERM)
    with stop.installed():
        assert train() is True  # noted
        with pytest.raises(RuntimeError, match="left with 130"):
            train()
    with stop.installed(), pytest.raises(RuntimeError, match="left with 143"):
        os.kill(os.getpid(), signal.SIGTERM)
    with stop.installed():
        with stop.children(), pytest.raises(signals.Ended):
            os.kill(os.getpid(), signal.SIGTERM)
        with stop.children(), pytest.raises(RuntimeError, match="left with 143"):
            os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_no_library_can_hide_a_signal(warm: Warm, tmp_path):
    """Code in C++ that calls Python gets no exception, which it could abort on; Python gets
    none to catch.
    """
    begin = "import os; from lotperm.cli.signals import stop; kill = 'os.kill(os.getpid(), 15)'\n"
    callers = {
        "PyTorch's tracer": """
            import torch; from torch import nn; from lotperm import PermutationSpec
            class Asked(nn.Linear):
                def forward(self, x):
                    exec(kill)
                    return super().forward(x)
            def job(): PermutationSpec.trace(nn.Sequential(Asked(3, 4), nn.Linear(4, 2)), torch.ones(2, 3))
        """,
        "pandas": """
            import pandas
            def handler(value): exec(kill)
            def job(): pandas.DataFrame({"a": [object()]}).to_json(default_handler=handler)
        """,
        "who catches everything": """
            def job():
                try:
                    exec(kill)
                except BaseException:
                    print("caught")
        """,
        "a flushed print": """
            class Asked:
                def __str__(self):
                    exec(kill)
                    return "printed"
            def job(): print("before", Asked(), flush=True)
        """,
    }
    for name, lines in callers.items():
        script = begin + textwrap.dedent(lines) + "with stop.installed(): job()\nprint('went on')"
        done = warm.ask(warm.call("script", tmp_path, {"lines": script}))
        (printed,) = done["printed"]
        assert done["codes"] == [143], (name, printed)
        begun = "before " if name == "a flushed print" else ""
        assert begun in printed, name
        said = printed.replace(begun, "", 1)
        assert re.fullmatch(r"\nlotperm: error: stopped by a signal\.[^\n]*\n", said), (name, said)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_notebooks_kernel_is_no_orphan(tmp_path, number, record):
    _sleepy(tmp_path / "sleepy.ipynb")
    _stopped(tmp_path, ["run", "sleepy.ipynb", "--profile", "smoke"], ["sleepy"], number)
    assert not (tmp_path / "runs" / "sleepy.ipynb").exists()
    record(
        f"{number.name} of a process that executes a notebook",
        1,
        "its kernel ends too, within seconds",
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_no_kernel_of_a_book_is_an_orphan(tmp_path, number):
    """Several notebooks run at once there, each in a thread that waits for its kernel."""
    (tmp_path / "_config.yml").write_text("title: A book\n")
    files = "".join(f"  - file: notebooks/{name}\n" for name in ("one", "two", "three"))
    (tmp_path / "_toc.yml").write_text(f"format: jb-book\nroot: intro\nchapters:\n{files}")
    (tmp_path / "intro.md").write_text("# A book\n")
    for name in ("one", "two", "three"):
        _sleepy(tmp_path / "notebooks" / f"{name}.ipynb")
    _stopped(tmp_path, ["book", "--profile", "smoke", "--jobs", "2"], ["three", "two"], number)
    assert not (tmp_path / "one").exists()


def _sleepy(path: Path) -> None:
    """Write a notebook whose kernel leaves its number in a file of the same name, and waits."""
    code = f"import os, time\nfrom pathlib import Path\nPath('{path.stem}').write_text(str(os.getpid()))"
    cells = [
        new_code_cell("profile = 'smoke'", metadata={"tags": ["parameters"]}),
        new_code_cell(f"{code}\ntime.sleep(100)"),
    ]
    path.parent.mkdir(exist_ok=True)
    nbformat.write(new_notebook(cells=cells), path)


def _stopped(folder: Path, arguments: list[str], kernels: list[str], number: int) -> None:
    """Send a signal to a command once its kernels run; it and they have to end."""
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "LOTPERM_HOME": str(folder / "store")}
    process = subprocess.Popen(
        [sys.executable, "-m", "lotperm", *arguments],
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        files = [folder / name for name in kernels]
        pids = [_until(lambda f=f: f.exists() and f.read_text()) for f in files]
        process.send_signal(number)
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number), out
    if number != signal.SIGKILL:
        assert (
            out.rstrip().splitlines()[-1].startswith("lotperm: error: stopped by a signal")
            and "Traceback" not in out
        )
    for pid in pids:
        _until(lambda pid=pid: not _alive(int(pid)))


def _until(condition: Callable[[], object], seconds: float = 60) -> object:
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.05)
    return found


def _alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return False


def finite_checkpoints(home: Path) -> int:
    """Count the checkpoints, and assert that every value in each is finite."""
    paths = list(home.glob("work/*/checkpoint-*.safetensors"))
    for path in paths:
        tensors, _ = load_tensors(path, checked=True)
        assert all(
            bool(torch.isfinite(t).all()) for t in tensors.values() if t.is_floating_point()
        ), path
    return len(paths)


@pytest.mark.parametrize(("how", "code"), [("nan", 4), ("lost", 7)])
def test_a_step_goes_wrong(warm: Warm, unbroken, tmp_path, record, how, code):
    rng, count, kept = random.Random(code), times(4, 40), 0
    for number in range(count):
        home = tmp_path / str(number)
        step = rng.randint(2, 60)
        faults = {"fail_at_step": {"step": step, "how": how}, "checkpoints": {"seconds": 0.0}}
        done = warm.ask(warm.experiment(home, faults=faults))
        failed_well(done, code, "CUDA error" if how == "lost" else "not finite")
        assert not (home / "out").exists(), "it was reported"
        kept += finite_checkpoints(home)
        ends_like(warm, home, unbroken)
    assert kept > 0
    name = {"nan": "NaN from a random step on", "lost": "GPU lost at a random step (simulated)"}[
        how
    ]
    record(
        name,
        count,
        f"exit {code}; {kept} checkpoints kept, all finite; rerun: an unbroken run's files",
    )


def test_divergence(warm: Warm, tmp_path, record):
    rates = [1e3, 1e5, 1e12, 1e30]
    for rate in rates:
        home = tmp_path / f"{rate:g}"
        faults = {"checkpoints": {"seconds": 0.0}}
        done = warm.ask(warm.experiment(home, parameters={"lr": rate, "epochs": 8}, faults=faults))
        failed_well(done, 4, "Lower lr")
        assert not (home / "out").exists()
        assert not list(home.glob("stages/dense-*"))
        finite_checkpoints(home)
    record(
        "a learning rate that diverges", len(rates), "exit 4, nothing reported, checkpoints finite"
    )


def test_surroundings_change_nothing(warm: Warm, unbroken, tmp_path, record):
    elsewhere = tmp_path / "other folder, ünïcode"
    elsewhere.mkdir()
    around: dict[str, dict] = {
        "a clock that runs backwards": {"faults": {"clock_back": {"seconds": 3600}}},
        "another time zone": {"environment": {"TZ": "Pacific/Kiritimati"}},
        "the locale C": {"environment": {"LANG": "C", "LC_ALL": "C"}},
        "a Turkish locale": {"environment": {"LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8"}},
        "another working folder": {"folder": str(elsewhere)},
        "a hash seed, a debugger's variable": {
            "environment": {"PYTHONHASHSEED": "7", "PYTHONBREAKPOINT": "0"}
        },
    }
    for number, (what, call) in enumerate(around.items()):
        home = tmp_path / str(number)
        done = warm.ask(warm.whole(home, **call))
        assert done["codes"] == [0], (what, done["printed"])
        assert problems(home, unbroken) == [], what
        assert list(elsewhere.iterdir()) == []
        record(what, 1, "an unbroken run's files, bit for bit")


def test_the_checks_here_can_fail(tmp_path):
    """A control: an empty folder isn't an unbroken run, a traceback is no error of one line."""
    assert problems(tmp_path, {"out/results.csv": "0"}) == ["out/results.csv differs or is missing"]
    assert fingerprint(tmp_path) == {}
    with pytest.raises(AssertionError):
        failed_well(
            {"codes": [1], "printed": ["Traceback (most recent call last)\nlotperm: error: x\n"]}, 1
        )
    with pytest.raises(AssertionError):
        failed_well({"codes": [5], "printed": ["lotperm: error: x\n"]}, 6)
