"""Wrong parameters, by the Python API, the command line and papermill: refused before anything
trains, never run.
"""

from __future__ import annotations

import collections
import json
import math
import os
import re
import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, times
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lotperm import Experiment
from lotperm.cli import app
from lotperm.cli import notebooks as pages
from lotperm.cli.options import parse_pairs
from lotperm.config import experiment
from lotperm.config.choices import MODELS
from lotperm.config.parameters import PARAMETERS
from lotperm.config.presets import FIGURES
from lotperm.engine import models
from lotperm.errors import ParameterError
from lotperm.site import notebooks

INJECTIONS = [
    "__import__('os').mkdir('canary')",
    "\"; import os; os.mkdir('canary'); \"",
    "'); __import__('os').mkdir('canary') #",
    "exec('import os; os.mkdir(\"canary\")')",
    "$(mkdir canary)",
    "`mkdir canary`",
    "; mkdir canary",
    "../../etc/passwd",
    "{{ ''.__class__ }}",
    "%s%s%n",
    "\n!mkdir canary\n",
    "\x1b[2J",
    "a\x00b",
    "x" * 100_000,
    "９",
    "'0.9'",
]


def deep(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


# Wrong whatever the parameter is.
NOWHERE: list[Any] = [
    math.nan,
    math.inf,
    -math.inf,
    True,
    False,
    b"0.9",
    {},
    {"a": 1},
    {1, 2},
    1j,
    object(),
    [None],
    [[0.5]],
    deep(50),
    deep(5000),
    10**400,
    -(10**400),
    10**5000,
    [10**400],
    -1,
    -0.5,
    [math.nan],
    [0.5, "0.5"],
    [True],
    1e308,
    *INJECTIONS,
]
NUMBERS = [name for name, p in PARAMETERS.items() if p.kind != "text"]
LISTS = ["seeds", "sparsity", "rewind_epoch", "hidden", "widths"]
MISSPELT = [
    "sparisty",
    "Sparsity",
    "sparsity ",
    "seed",
    "epoch",
    "with",
    "datset",
    "__class__",
    "os",
    "momentum\n",
    "x" * 10_000,
]


@st.composite
def cases(draw: st.DrawFn) -> tuple[str, Any]:
    """A name and a value, at least one of them wrong."""
    kind = draw(st.sampled_from(["anything", "number", "list", "text", "name", "range"]))
    if kind == "name":
        return draw(st.sampled_from(MISSPELT)), 1
    if kind == "number":
        wrong = st.sampled_from(["0.9", "1", "many", *INJECTIONS]) | st.text(
            min_size=1, max_size=30
        )
        return draw(st.sampled_from(NUMBERS)), draw(wrong)
    if kind == "list":
        return draw(st.sampled_from(LISTS)), draw(
            st.sampled_from([[], [1] * 5000, [0.5, 0.5], ["a"], [[1]], 10**9 + 0.5])
        )
    if kind == "text":
        texts = [name for name in PARAMETERS if name not in NUMBERS]
        return draw(st.sampled_from(texts)), draw(
            st.text(max_size=30).map(lambda t: t + "?") | st.integers()
        )
    if kind == "range":
        return draw(
            st.sampled_from(
                [
                    ("sparsity", 1.0),
                    ("sparsity", 0),
                    ("sparsity", [0.5, 1.5]),
                    ("lr", 0),
                    ("lr", -0.1),
                    ("momentum", 1),
                    ("momentum", 2.5),
                    ("epochs", -3),
                    ("epochs", 3.5),
                    ("batch_size", 0),
                    ("seeds", 0),
                    ("seeds", 10**9),
                    ("seeds", [-1]),
                    ("width", 0),
                    ("width", 1e9),
                    ("widths", [1, -1]),
                    ("widths", 0),
                    ("hidden", [0]),
                    ("hidden", [10**12]),
                    ("train_size", 0),
                    ("match_samples", 1),
                    ("prune_fraction", 0),
                    ("prune_fraction", 1e-12),
                    ("prune_fraction", 1),
                    ("rewind_epoch", 10**6),
                    ("finetune_lr", -1),
                    ("weight_decay", -1e-9),
                    ("sparse_lr", 0),
                ]
            )
        )
    return draw(st.sampled_from(sorted(PARAMETERS))), draw(st.sampled_from(NOWHERE))


PAGES = sorted((ROOT / "notebooks").glob("*.ipynb"))
# To read every page again for each example would take most of the time.
defaults = cache(notebooks.defaults)
tried: collections.Counter[str] = collections.Counter()


def sentence(message: str) -> None:
    """One line, not too long, that says what is wrong."""
    assert "\n" not in message and 15 < len(message) < 900, message[:200]
    assert message.isprintable()


def by_api(name: str, value: Any) -> str:
    make = (
        partial(Experiment.for_figure, "resnet20_cifar10")
        if name == "widths"
        else Experiment.from_parameters
    )
    with pytest.raises(ParameterError) as caught:
        make(**{name: value})
    assert caught.value.exit_code == 2
    return str(caught.value)


def by_command(
    name: str, value: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    try:
        text = value if isinstance(value, str) else repr(value)
    except (ValueError, RecursionError):
        text = "9" * 5000
    monkeypatch.setattr(sys, "argv", ["lotperm", "experiment", "-p", f"{name}={text}"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        app.main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2, (name, text[:100], err)
    assert out == "" and err.startswith("lotperm: error: ")
    return err.removesuffix("\n")


def by_papermill(name: str, value: Any, folder: Path) -> str:
    known = [page for page in PAGES if name in PARAMETERS and name in defaults(page)] or PAGES[:1]
    page = known[len(name) % len(known)]
    with pytest.raises(ParameterError) as caught:
        notebooks.execute(
            page, folder / "out.ipynb", {name: value}, validate=pages.validate, progress=False
        )
    assert not (folder / "out.ipynb").exists()
    return str(caught.value)


@settings(
    max_examples=times(200, 1000),
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=cases())
def refused(case: tuple[str, Any], monkeypatch, capsys, tmp_path) -> None:
    name, value = case
    sentence(by_api(name, value))
    tried["the Python API"] += 1
    # On the command line text may spell a number.
    if (
        not (isinstance(value, str) and _is_literal(value))
        and "\x00" not in f"{name}{value if isinstance(value, str) else ''}"
    ):
        sentence(by_command(name, value, monkeypatch, capsys))
        tried["the command line"] += 1
    sentence(by_papermill(name, value, tmp_path))
    tried["papermill"] += 1


def _is_literal(text: str) -> bool:
    return not isinstance(parse_pairs([f"x={text}"])["x"], str)


def test_wrong_parameters_are_refused(monkeypatch, capsys, tmp_path, record):
    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("a kernel was started, or a network trained")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("papermill.execute_notebook", started)
    monkeypatch.setattr("lotperm.engine.training.train", started)
    monkeypatch.setattr("lotperm.studies.workbench.train", started)
    cwd = set(os.listdir())
    refused(monkeypatch=monkeypatch, capsys=capsys, tmp_path=tmp_path)
    assert set(os.listdir()) == cwd, "something was written, or a canary made"
    for door, count in tried.items():
        record(
            f"wrong parameters by {door}",
            count,
            "all refused before training: exit 2, one sentence",
        )


@pytest.mark.parametrize("door", ["experiment", "run"])
def test_as_users_type_it(tmp_path, door, record):
    """In processes of their own."""
    arguments = ["experiment"] if door == "experiment" else ["run", str(PAGES[4])]
    variables = {**os.environ, "PYTHONPATH": str(ROOT), "LOTPERM_HOME": str(tmp_path / "store")}
    wrong = "sparsity=__import__('os').mkdir('canary')"
    command = [sys.executable, "-m", "lotperm", *arguments, "-p", wrong]
    done = subprocess.run(
        command, capture_output=True, text=True, env=variables, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("lotperm: error: ") and done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_right_is_taken():
    """The control: not everything is refused, and a page's own defaults count, not its
    profile's.
    """
    for page in PAGES:
        pages.validate(page, notebooks.checked_parameters(page, {"profile": "smoke"}))
    page = next(p for p in PAGES if p.stem == "05_resnet20_cifar10")
    pages.validate(
        page,
        notebooks.checked_parameters(page, {"profile": "smoke", "epochs": 2, "widths": [1, 0.5]}),
    )
    with pytest.raises(ParameterError, match="rewind_epoch is 5"):
        pages.validate(
            page, notebooks.checked_parameters(page, {"profile": "smoke", "rewind_epoch": 5})
        )
    with pytest.raises(ParameterError, match="unknown device"):
        pages.validate(
            page, notebooks.checked_parameters(page, {"profile": "smoke", "device": "gpu"})
        )


def test_every_page_of_a_figure_is_named_after_it():
    """`lotperm.cli.notebooks.validate` finds a page's experiments by the name of its file."""
    for page in PAGES:
        figure = page.stem.partition("_")[2]
        cells = json.loads(page.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        opened = re.search(rf'\b(for_figure|open_page)\(\s*"{figure}"', code)
        assert (opened is not None) == (figure in FIGURES), page.name


def test_width_and_widths():
    with pytest.raises(ParameterError, match="give width"):
        Experiment.from_parameters(widths=[1, 2])
    with pytest.raises(ParameterError, match="both given"):
        Experiment.for_figure("resnet20_cifar10", widths=[1, 2], width=1)
    with pytest.raises(
        ParameterError, match="widths is 'wide'; expected a number, or a list of numbers"
    ):
        Experiment.for_figure("resnet20_cifar10", widths="wide")


def test_configurations_made_by_hand_are_checked_too():
    for wrong in (
        {"epochs": 1.5},
        {"lr": "0.1"},
        {"batch_size": True},
        {"momentum": math.nan},
        {"epochs": 10**30},
    ):
        with pytest.raises(ParameterError, match=next(iter(wrong))):
            experiment.Recipe(**{"epochs": 1, "lr": 0.1, **wrong})
    assert experiment.Recipe(epochs=1.0, lr=1) == experiment.Recipe(epochs=1, lr=1.0)
    with pytest.raises(ParameterError, match="hidden"):
        Experiment.from_parameters(profile="smoke", hidden=[])


def test_the_names_of_networks_are_those_that_can_be_built():
    for name in MODELS:
        assert models.build(name, input_shape=(3, 64, 64), classes=2, width=0.25) is not None
