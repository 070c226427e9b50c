"""Rehearse a flight: run the commands of tools/FLIGHT.md, word for word, on the stand-in.

    python tests/stand_in/rehearse.py FOLDER [--step-us 1200] [--device-us 550] [--seconds 60]

The commands run in a copy of the tree, with a home folder of their own. Other than on a real
flight, the campaigns are small ones, whose data set is made there, and a check of numbers that
doesn't come out is noted and passed over: nothing is computed.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

# In the place of tools/first_flight.py: the same file, on kernels that do nothing.
ON_STAND_IN = """
import importlib.util, sys
sys.path.insert(0, {tests!r})
from stand_in import kernels
spec = importlib.util.spec_from_file_location("first_flight", {original!r})
flight = importlib.util.module_from_spec(spec)
sys.modules["first_flight"] = flight
spec.loader.exec_module(flight)
real = flight.require
# The form of a step is real; numbers aren't.
formal = ("the step is", "no graph")
flight.require = lambda condition, what: real(condition or not what.startswith(formal), what)
{small}
sys.exit(flight.main())
"""
# With a smaller network the rehearsal compiles in seconds.
SMALL = "big = flight.resnet\nflight.resnet = lambda name, width: big('resnet8', 0.25)"


def commands() -> list[str]:
    """Return the commands of the calls, in order."""
    text = (ROOT / "tools" / "FLIGHT.md").read_text()
    found = re.findall(r"<!-- call: (\d) -->\n```sh\n(.*?)```", text, re.DOTALL)
    assert [int(number) for number, _ in found] == [1, 2, 3, 4]
    return [command for _, command in found]


def prepare(
    folder: Path, environment: dict[str, str], *, small: bool
) -> tuple[Path, dict[str, str]]:
    """Make the tree and the home folder; return the tree and the environment of a call."""
    tree, home = folder / "tree", folder / "home"
    for path in (tree, home):
        shutil.rmtree(path, ignore_errors=True)
    for name in ("lotperm", "campaigns", "tools"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("s1", "s2", "s3", "whl", "packs"):
        (tree / ".flight" / name).mkdir(parents=True)
    for name in ("s1", "s2", "s3"):
        (tree / ".flight" / name / f"{name}.png").touch()
    home.mkdir()
    original = tree / "tools" / "original.py"
    (tree / "tools" / "first_flight.py").rename(original)
    (tree / "tools" / "first_flight.py").write_text(
        ON_STAND_IN.format(
            tests=str(ROOT / "tests"),
            original=str(home / "lotperm" / "tools" / "original.py"),
            small=SMALL if small else "",
        )
    )
    bin = folder / "bin"
    shutil.rmtree(bin, ignore_errors=True)
    bin.mkdir()
    # The Python of the machine.
    (bin / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (bin / "python3").chmod(0o755)
    return tree, {
        **os.environ,
        **environment,
        "HOME": str(home),
        "PATH": f"{bin}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }


def adapt(command: str, seconds: float) -> str:
    """Put small campaigns, other data and a shorter flight into a command."""
    command = re.sub(r"campaigns/paper/\S+( campaigns/paper/\S+)?", "campaigns/smoke.json", command)
    command = command.replace("data fetch cifar10 --source ~/cifar", "data fetch mnist1d")
    return re.sub(r"--seconds \d+", f"--seconds {seconds:g} --measure 0.3", command)


def call(command: str, tree: Path, environment: dict[str, str], out: Path) -> str:
    """Run one call as the rented machine does; return what it printed."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    assert len(command) <= 2000
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=tree,
        env={**environment, "OUT": str(out)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    back = [path for path in out.rglob("*") if path.is_file()]
    assert len(back) <= 8 and all(path.stat().st_size <= 16 * 2**20 for path in back)
    return done.stdout + done.stderr


def main() -> None:
    """Rehearse; print each call with its seconds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--step-us", type=float, default=1200)
    parser.add_argument("--device-us", type=float, default=550)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--large", action="store_true", help="the real network, not a small one")
    options = parser.parse_args()
    environment: dict[str, Any] = {
        **_stand_in().build(options.folder.resolve() / "stand-in"),
        "STAND_IN_STEP_US": str(options.step_us),
        "STAND_IN_DEVICE_US": str(options.device_us),
    }
    tree, environment = prepare(options.folder.resolve(), environment, small=not options.large)
    for number, command in enumerate(commands(), 1):
        begin, out = time.monotonic(), options.folder.resolve() / f"out-{number}"
        said = call(adapt(command, options.seconds), tree, environment, out)
        back = ", ".join(sorted(path.name for path in out.iterdir()))
        print(f"--- call {number}: {time.monotonic() - begin:.1f} s; back: {back or 'nothing'}")
        print(said)


def _stand_in() -> Any:
    """Import the package that this file is in, which a script can't by name."""
    spec = importlib.util.spec_from_file_location(
        "stand_in", Path(__file__).with_name("__init__.py")
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
