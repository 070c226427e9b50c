"""The benchmarks run, pass their gates and write their tables."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "common")
)
def test_quick_run(name, tmp_path):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / f"{name}.py", "--quick", "--out", tmp_path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / f"{name}.json").read_text())
    assert report["machine"]["torch"]
    assert (tmp_path / f"{name}.md").read_text().startswith("# ")


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in BENCHMARKS.glob("*.py") if path.stem != "common")
)
def test_the_recorded_table_is_there(name):
    """The numbers that README quotes were measured by a full run."""
    report = json.loads((BENCHMARKS.parent / "book" / "results" / f"{name}.json").read_text())
    assert f"benchmarks/{name}.py" in report["command"]
    assert "--quick" not in report["command"]
    assert (BENCHMARKS.parent / "book" / "results" / f"{name}.md").exists()
