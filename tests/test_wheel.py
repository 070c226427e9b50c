"""The wheel: what is in it, and that it works in an environment without a clone."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from lotperm.config.parameters import PARAMETERS

ROOT = Path(__file__).parents[1]


def run(*command: object, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, without the variables that could lead Python to the clone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def pip(*arguments: object, cwd: Path) -> None:
    """Run pip, which must not ask the network for anything."""
    done = run(
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        *arguments,
        "--no-deps",
        "--no-index",
        cwd=cwd,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools leaves folders beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    shutil.copytree(
        ROOT / "lotperm", tree / "lotperm", ignore=shutil.ignore_patterns("__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, tree, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment in which the wheel is installed.

    It borrows this environment's packages by a line of a .pth file. Python runs no .pth files of
    a folder that is added so: that of an editable install of the clone has no effect there.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    python = programs / "python"
    asked = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder)
    borrowed = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    (Path(asked.stdout.strip()) / "borrowed.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    pip("--python", python, "install", wheel, cwd=folder)
    return programs


def test_the_wheel_has_all_files_of_the_package(wheel: Path) -> None:
    there = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("lotperm/")}
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "lotperm").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert there == wanted
    assert {"lotperm/py.typed", "lotperm/cli/app.py"} <= there
    assert any(re.fullmatch(r"lotperm/site/js/\w+\.js", name) for name in there)


def test_the_command_runs_without_the_repository(programs: Path, tmp_path: Path) -> None:
    lotperm = programs / "lotperm"
    home = {"LOTPERM_HOME": str(tmp_path / "home"), "COLUMNS": "200"}
    (folder := tmp_path / "empty").mkdir()
    done = run(lotperm, "experiment", "--profile", "smoke", "--out", "out", cwd=folder, **home)
    assert done.returncode == 0, done.stderr
    arms = set(pd.read_csv(folder / "out" / "results.csv")["method"])
    assert {"lth", "permuted", "naive"} <= arms
    listed = run(lotperm, "parameters", cwd=folder, **home)
    assert listed.returncode == 0, listed.stderr
    assert all(name in listed.stdout for name in PARAMETERS)
    # What was computed travels to another machine.
    campaign = {"name": "one", "entries": [{"name": "one", "profile": "smoke"}]}
    (folder / "one.json").write_text(json.dumps(campaign))
    only = ("--campaign", "one.json")
    packed = run(lotperm, "store", "pack", "--out", "packs", *only, cwd=folder, **home)
    assert packed.returncode == 0, packed.stderr
    there = {**home, "LOTPERM_HOME": str(tmp_path / "there")}
    unpacked = run(lotperm, "store", "unpack", "packs", cwd=folder, **there)
    assert unpacked.returncode == 0 and " added" in unpacked.stdout, unpacked.stderr
    stages = [
        {path.parent.name for path in (tmp_path / store).glob("stages/*/stage.json")}
        for store in ("home", "there")
    ]
    assert stages[0] == stages[1] != set()


def test_the_first_program_of_the_readme_runs(programs: Path, tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"<!-- test: own network -->\s*```python\n(.*?)```", text, re.S)
    program += "\nimport lotperm, sys\nprint(lotperm.__file__, *sys.path, sep='\\n')\n"
    done = run(programs / "python", "-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    # It was the wheel's package, and the clone could not have been imported.
    file, *path = (Path(line) for line in done.stdout.splitlines())
    assert file.is_relative_to(programs.parent) and not file.is_relative_to(ROOT)
    assert ROOT not in path


def tool(program: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in an environment of its own: its pins would fight with this one's."""
    uv = Path(sys.executable).with_name("uv")
    name = program.partition("==")[0]
    return run(uv, "tool", "run", "--quiet", "--from", program, name, *arguments, cwd=cwd)


def test_wheel_and_source_archive_can_be_uploaded(wheel: Path, tmp_path: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    # From the tree that the wheel was built of: the clone's own folder stays clean.
    options = ("--no-build-isolation", "--python", sys.executable, "--out-dir", tmp_path)
    built = run(uv, "build", "--sdist", *options, wheel.parent / "tree", cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    done = tool("twine==7.0.0", "check", "--strict", wheel, archive, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("PASSED") == 2
    # The control: a description that can't be rendered is refused.
    broken = tmp_path / "lotperm-0.1.0.tar.gz.txt"
    broken.write_text("no archive")
    assert tool("twine==7.0.0", "check", broken, cwd=tmp_path).returncode != 0


def test_the_citation_file_is_valid(tmp_path: Path) -> None:
    valid = ROOT / "CITATION.cff"
    done = tool("cffconvert==2.0.0", "--validate", "-i", valid, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = tmp_path / "CITATION.cff"
    broken.write_text(valid.read_text().replace("authors:", "writers:", 1))
    assert tool("cffconvert==2.0.0", "--validate", "-i", broken, cwd=tmp_path).returncode != 0
