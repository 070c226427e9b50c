"""Numbers you can trust: the same in every process; how far other threads or a compiled step
take them is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import LONG, ROOT, TINY, Warm, fingerprint, times

from lotperm.store.files import load_tensors

PARAMETERS = {"profile": "laptop"} if LONG else {**TINY, "epochs": 6, "hidden": [100]}
# A Python with the packages of a bare machine with a GPU and another PyTorch; without it that row
# is left out.
OTHER_PYTHON = os.environ.get("LOTPERM_OTHER_PYTHON", "")
OTHERS = ["the same again", "a processor without AVX-512 (simulated)"]
if LONG:
    OTHERS += ["2 threads", "compiled"] + ["another version of PyTorch"] * bool(OTHER_PYTHON)


def process(
    home: Path, *arguments: object, threads: int = 1, python: str = sys.executable, **variables: str
) -> str:
    """A Python process of its own: what it printed."""
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LOTPERM_HOME": str(home),
        "OMP_NUM_THREADS": str(threads),
        **variables,
    }
    command = [python, *(str(a) for a in arguments)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=variables, cwd=home.parent, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_two_processes_give_the_same_bits(warm: Warm, tmp_path, record):
    home = tmp_path / "warm"
    assert warm.ask(warm.experiment(home))["codes"] == [0]
    parameters = [o for n, v in TINY.items() if n != "profile" for o in ("-p", f"{n}={v}")]
    count = times(1, 5)
    for number in range(count):
        other = tmp_path / str(number)
        process(
            other,
            "-m",
            "lotperm",
            "experiment",
            "--profile",
            "smoke",
            *parameters,
            "--out",
            other / "out",
        )
        assert fingerprint(other) == fingerprint(home)
        assert (other / "out" / "results.csv").read_bytes() == (
            home / "out" / "results.csv"
        ).read_bytes()
    record("the same experiment in another process", count, "every file is the same, bit for bit")


def found(home: Path, other: str = "") -> tuple[pd.DataFrame, dict[str, Any], str]:
    """Accuracies, dense weights and the version of PyTorch of one experiment, run in a way that
    `OTHERS` names.
    """
    options: dict[str, Any] = {}
    arguments: list[object] = [json.dumps(PARAMETERS)]
    if other == "compiled":
        arguments.append("--compile")
    elif other == "2 threads":
        options["threads"] = 2
        arguments += ["--threads", 2]
    elif other == "a processor without AVX-512 (simulated)":
        options |= {
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        }
    elif other == "another version of PyTorch":
        options["python"] = OTHER_PYTHON
    out = process(home, Path(__file__).with_name("measure.py"), *arguments, **options)
    report = json.loads(out.splitlines()[-1])
    weights = {
        name: load_tensors(Path(report["dense"]) / f"{name}.safetensors", checked=True)[0]
        for name in ("epoch-0000", "epoch-0001", "final")
    }
    return pd.DataFrame(report["rows"]), weights, report["torch"]


def distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    """Of all dense weights: the root mean square of the difference, as a share of the weights'
    own.
    """
    names = [name for name in a if a[name].is_floating_point()]
    difference = sum(((a[n] - b[n]).double() ** 2).sum().item() for n in names)
    return (difference / sum((a[n].double() ** 2).sum().item() for n in names)) ** 0.5


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("plain")
    return folder, found(folder / "1")


@pytest.mark.parametrize("other", OTHERS)
def test_how_far_apart(plain, tmp_path, record, other):
    folder, (one, weights, version) = plain
    two, moved, theirs = found(folder / tmp_path.name, other)
    if other == "another version of PyTorch":
        assert theirs != version
        other = f"PyTorch {theirs}"
    assert one.drop(columns="value").equals(two.drop(columns="value"))
    points = 100 * (one["value"] - two["value"]).abs()
    means = [
        100 * frame.groupby(["method", "sparsity", "rewind_epoch"], dropna=False)["value"].mean()
        for frame in (one, two)
    ]
    apart = (means[0] - means[1]).abs().max()
    assert distance(weights["epoch-0000"], moved["epoch-0000"]) == 0, (
        "the initialization must not depend on any of it"
    )
    if other == "the same again":
        assert points.max() == 0 and distance(weights["final"], moved["final"]) == 0
    assert distance(weights["epoch-0001"], moved["epoch-0001"]) < 1e-3
    assert apart < 5, "the means over seeds are another result"
    early, late = (distance(weights[name], moved[name]) for name in ("epoch-0001", "final"))
    record(
        f"profile {PARAMETERS['profile']}, 1 thread, against {other}",
        len(points),
        f"accuracy of a network differs by {points.max():.2f} points at the most ({points.mean():.2f} on average), "
        f"mean of an arm by {apart:.2f}; dense weights by {early:.1g} of their size after an epoch, {late:.1g} at last",
    )
