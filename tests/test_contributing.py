"""CONTRIBUTING.md, followed: its tree is the repository's, and its recipes work as they are written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")

PROGRAM = """
import sys
from lotperm import Experiment, Store, run
from lotperm.engine.models import NETWORKS

assert "wide" in NETWORKS
given = {"model": "wide", "dataset": "blobs", "profile": "smoke"}
experiment = Experiment.from_parameters(**given)
table = run(experiment, Store(sys.argv[1])).table
last = table[table["metric"] == "test_accuracy"].groupby("method")["value"].mean()
assert {"lth", "permuted", "naive"} <= set(last.index), last
assert last["dense_a"] > 0.9, last
print(__import__("lotperm").__file__)
"""


def block(name: str) -> str:
    """The code after ``<!-- test: name -->``, not indented."""
    (found,) = re.findall(rf"<!-- test: {name} -->\n *```\w+\n(.*?)\n *```", TEXT, re.S)
    return textwrap.dedent(found) + "\n"


def insert(path: Path, code: str, before: str) -> None:
    """Write code before the one line that starts as said."""
    text = path.read_text(encoding="utf-8")
    (at,) = [m.start() for m in re.finditer(rf"^{re.escape(before)}", text, re.M)]
    path.write_text(text[:at] + code + text[at:], encoding="utf-8")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_tree_is_the_repositorys() -> None:
    named = re.findall(r"^\| `([\w/]+)/` \|", TEXT.split("## To set up")[0], re.M)
    assert [name for name in named if not (ROOT / name).is_dir()] == []
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    folders = {Path(file).parts[0] for file in listed if "/" in file and file[0] != "."}
    rooms = {"/".join(Path(file).parts[:2]) for file in listed if file.startswith("lotperm/")}
    rooms = {room for room in rooms if (ROOT / room).is_dir()}
    assert set(named) == folders | rooms


def test_paths_that_the_text_names_exist() -> None:
    named = set(re.findall(r"`((?:lotperm|tests|book|notebooks)/[\w/.]+)`", TEXT))
    assert len(named) > 10
    assert {name for name in named if not (ROOT / name).exists()} == {"lotperm/studies/lazy/"}


def test_a_network_and_a_data_set_are_added_as_the_text_says(tmp_path: Path) -> None:
    package = tmp_path / "lotperm"
    shutil.copytree(ROOT / "lotperm", package, ignore=shutil.ignore_patterns("__pycache__"))
    models, choices = package / "engine" / "models.py", package / "config" / "choices.py"
    insert(models, block("builder") + "\n\n", before="Builder = ")
    replace(models, '    "mlp": _mlp,\n', '    "mlp": _mlp,\n' + block("network"))
    replace(choices, "Model = Literal[", 'Model = Literal["wide", ')
    (package / "data" / "generated.py").open("a").write("\n\n" + block("data"))
    catalog = package / "data" / "catalog.py"
    replace(catalog, "import generate_mnist1d", "import generate_blobs, generate_mnist1d")
    replace(catalog, '    "mnist1d": Spec(\n', block("entry") + '    "mnist1d": Spec(\n')
    replace(choices, "Dataset = Literal[", 'Dataset = Literal["blobs", ')
    (package / "config" / "presets.toml").open("a").write("\n" + block("presets"))
    environment = {
        **os.environ,
        "PYTHONPATH": str(tmp_path),
        "LOTPERM_DATA": str(tmp_path / "data"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "store")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip().splitlines()[-1]).parent == package
