"""Share a warm process that forks, an unbroken run to compare with, and the record.

How often each fault is tried follows LOTPERM_FAULTS, the number of kills: 50 (the default) is what
CI runs, 500 is ``make faults``. With LOTPERM_FAULTS_ROWS, a file, what was tried is written there:
the table in the book.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

KILLS = int(os.environ.get("LOTPERM_FAULTS", "50"))
LONG = KILLS >= 500
ROOT = Path(__file__).parents[2]
TINY = {
    "profile": "smoke",
    "train_size": 300,
    "test_size": 100,
    "epochs": 3,
    "rewind_epoch": 1,
    "finetune_epochs": 1,
    "hidden": [32],
    "seeds": 2,
    "sparsity": 0.5,
    "batch_size": 32,
    "prune_fraction": 0.4,
}


def times(ci: int, long: int) -> int:
    """Return how often to try something: in CI, or in the long version."""
    return long if LONG else ci


class Warm:
    """The process of warm.py, and requests to it."""

    def __init__(self, folder: Path) -> None:
        variables = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "200",
        }
        command = [sys.executable, str(Path(__file__).with_name("warm.py")), str(folder)]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=variables,
            cwd=folder,
        )
        assert self._answer() == "ready"

    def _answer(self) -> Any:
        line = self.process.stdout.readline()
        assert line, "the warm process has ended"
        return json.loads(line)

    def ask(
        self, *calls: dict[str, Any], hit: dict[str, Any] | None = None, timeout: float = 120
    ) -> Any:
        """Do the calls at the same time, each in a child; return exit codes and output."""
        request = {"calls": calls, "hit": hit, "timeout": timeout}
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def whole(self, home: Path, **more: Any) -> dict[str, Any]:
        """Return the call that computes every kind of stage in a store, with results in its
        folder ``out``.
        """
        options = {"parameters": {**TINY, **more.pop("parameters", {})}, "out": str(home / "out")}
        return self.call("whole", home, options, **more)

    def command(self, home: Path, *arguments: object, **more: Any) -> dict[str, Any]:
        """Return the call of the command line."""
        return self.call("command", home, {"arguments": [str(a) for a in arguments]}, **more)

    def experiment(self, home: Path, *arguments: object, **more: Any) -> dict[str, Any]:
        """Return the call of a small ``lotperm experiment``."""
        parameters = {**TINY, **more.pop("parameters", {})}
        options = [o for n, v in parameters.items() if n != "profile" for o in ("-p", f"{n}={v}")]
        given = (
            "experiment",
            "--profile",
            "smoke",
            *options,
            "--device",
            "cpu",
            "--out",
            home / "out",
        )
        return self.command(home, *given, *arguments, **more)

    @staticmethod
    def call(job: str, home: Path, options: dict[str, Any], **more: Any) -> dict[str, Any]:
        """Return the call of a job."""
        environment = {"LOTPERM_HOME": str(home), **more.pop("environment", {})}
        return {"job": job, "options": options, "environment": environment, **more}


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """Start the warm process."""
    warm = Warm(tmp_path_factory.mktemp("warm"))
    yield warm
    warm.process.stdin.close()
    assert warm.process.wait(30) == 0


@pytest.fixture(scope="session")
def unbroken(warm: Warm, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the fingerprint of an undisturbed run."""
    home = tmp_path_factory.mktemp("unbroken")
    done = warm.ask(warm.whole(home))
    assert done["codes"] == [0], done["printed"]
    return fingerprint(home)


def fingerprint(home: Path) -> dict[str, str]:
    """Return the sha256 of each final file of a store and its results, by name.

    What may differ is left out: in JSON, when something was computed, in how many seconds, and the
    checksum over these; in summary.md, the line with the seconds; and that file's checksum.
    """
    found = {}
    for path in sorted([*(home / "stages").rglob("*"), *(home / "out").rglob("*")]):
        if path.is_file() and not path.name.startswith("."):
            content = path.read_bytes()
            if path.suffix == ".json":
                content = json.dumps(_lasting(json.loads(content)), sort_keys=True).encode()
            elif path.suffix == ".md":
                content = re.sub(rb"Computed on .*", b"", content)
            found[str(path.relative_to(home))] = hashlib.sha256(content).hexdigest()
    return found


def _lasting(value: Any, top: bool = True) -> Any:
    if isinstance(value, dict):
        gone = {"created", "seconds", "summary.md"} | ({"sha256"} if top else set())
        return {name: _lasting(item, top=False) for name, item in value.items() if name not in gone}
    return [_lasting(item, top=False) for item in value] if isinstance(value, list) else value


def problems(home: Path, expected: dict[str, str]) -> list[str]:
    """Return what is wrong with a store that was disturbed and then finished."""
    got = fingerprint(home)
    wrong = [
        f"{name} differs or is missing" for name in expected if got.get(name) != expected[name]
    ]
    wrong += [f"{name} is left over" for name in got if name not in expected]
    wrong += [f"{path.name} was torn" for path in home.rglob("*.corrupt")]
    return wrong + [f"{path.name} is left over" for path in (home / "work").rglob("*")]


_rows: list[dict[str, Any]] = []


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return a function that notes a fault, how often it was tried and what came of it.

    It fails if the fault was never tried.
    """
    group = Path(request.node.fspath).stem.removeprefix("test_")

    def add(fault: str, tried: int, outcome: str, **more: Any) -> None:
        assert tried > 0
        _rows.append({"group": group, "fault": fault, "tried": tried, "outcome": outcome, **more})

    return add


def pytest_sessionfinish() -> None:
    """Write the rows, if that was asked for."""
    if path := os.environ.get("LOTPERM_FAULTS_ROWS"):
        Path(path).write_text(json.dumps(_rows, indent=1) + "\n")
