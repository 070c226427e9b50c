"""Workflows, container and Binder, which run the project elsewhere, call only what exists."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
from pathlib import Path
from typing import Any

import pytest
import yaml

from lotperm.config.profiles import DEFAULT_PROFILE, PROFILES
from lotperm.site import notebooks

ROOT = Path(__file__).parents[1]
TARGETS = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.M))
WORKFLOWS = {
    path.stem: yaml.safe_load(path.read_text())
    for path in (ROOT / ".github" / "workflows").glob("*.yml")
}
OLDEST = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "requires-python"
].removeprefix(">=")


def makes(text: str) -> list[tuple[str, str | None]]:
    """The targets that a script makes, each with its profile."""
    return [
        (call[1], call[2])
        for call in re.finditer(r"\bmake ([a-z]+)(?: PROFILE=[\"']?(\$?\w+))?", text)
    ]


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_there_are_three_workflows() -> None:
    assert set(WORKFLOWS) == {"tests", "book", "pages"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_makes_targets_that_exist(name: str) -> None:
    workflow = WORKFLOWS[name]
    called = [call for step in steps(workflow) for call in makes(step.get("run", ""))]
    assert called
    assert {target for target, _ in called} <= TARGETS
    assert {profile for _, profile in called if profile} <= set(PROFILES)
    assert workflow["permissions"]["contents"] == "read"
    for job in workflow["jobs"].values():
        assert 0 < job["timeout-minutes"] <= 120
    actions = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert "actions/checkout" in {action.split("@")[0] for action in actions}
    assert not [action for action in actions if not re.fullmatch(r"actions/[\w-]+@v\d+", action)]


def test_the_tests_run_on_pushes_and_pull_requests_with_the_oldest_python() -> None:
    workflow = WORKFLOWS["tests"]
    assert {"push", "pull_request"} <= set(workflow[True])  # YAML 1.1 reads the key `on` as true
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert OLDEST in versions and "3.13" in versions
    assert ("test", None) in [
        call for step in steps(workflow) for call in makes(step.get("run", ""))
    ]


def test_the_whole_book_is_built_every_week_and_published() -> None:
    minute, hour, day, month, weekday = WORKFLOWS["book"][True]["schedule"][0]["cron"].split()
    assert (
        minute.isdigit() and hour.isdigit() and (day, month) == ("*", "*") and weekday in "0123456"
    )
    weekly = [call for step in steps(WORKFLOWS["book"]) for call in makes(step.get("run", ""))]
    assert ("book", "laptop") in weekly
    assert not [
        step for step in steps(WORKFLOWS["book"]) if "cache" in step.get("uses", "")
    ]  # an empty store
    published = WORKFLOWS["pages"]
    assert published["permissions"] == {"contents": "read", "pages": "write", "id-token": "write"}
    (artifact,) = [
        step for step in steps(published) if "upload-pages-artifact" in step.get("uses", "")
    ]
    assert artifact["with"]["path"] == "_build/html"
    assert any("deploy-pages" in step.get("uses", "") for step in steps(published))


def test_the_container_makes_targets_that_exist() -> None:
    text = (ROOT / "Dockerfile").read_text()
    (version,) = re.findall(r"^FROM python:3\.(\d+)-slim$", text, re.M)
    assert int(version) >= int(OLDEST.split(".")[1])
    called = makes("\n".join(line for line in text.splitlines() if not line.startswith("#")))
    assert {target for target, _ in called} == {"setup", "book"} <= TARGETS
    (profile,) = re.findall(r"\bPROFILE=(\w+)$", text, re.M)
    assert profile in PROFILES
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", ".venv", ".lotperm", "_build"} <= set(ignored)


def test_binder_has_the_pins_and_the_package() -> None:
    lines = (ROOT / "binder" / "requirements.txt").read_text().splitlines()
    (pins,) = [line.removeprefix("-r ") for line in lines if not line.startswith("#")]
    assert (ROOT / "binder" / pins).resolve() == ROOT / "requirements.txt"
    runtime = (ROOT / "binder" / "runtime.txt").read_text().strip()
    assert runtime == f"python-{OLDEST}"
    script = ROOT / "binder" / "postBuild"
    assert script.read_text().startswith("#!/bin/sh\n") and "--editable ." in script.read_text()
    assert os.access(script, os.X_OK)


def test_binder_needs_nothing_that_these_tests_dont_have() -> None:
    """The pins resolve, and they are the environment in which everything here is tested."""
    uv = Path(sys.prefix) / "bin" / "uv"
    command = [uv, "pip", "install", "--dry-run", "--offline", "--python", sys.executable]
    done = subprocess.run(
        [*command, "-r", ROOT / "binder" / "requirements.txt"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Would make no changes" in done.stderr


def install_cells() -> dict[str, str]:
    """Return the cell of each notebook that gets the project on Colab."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        nb = json.loads(path.read_text(encoding="utf-8"))
        (cell,) = (c for c in nb["cells"] if "install" in c["metadata"].get("tags", ()))
        # It comes before any other code.
        assert next(c for c in nb["cells"] if c["cell_type"] == "code") is cell
        found[path.stem] = "".join(cell["source"])
    return found


def test_every_notebook_gets_the_project_in_the_same_way() -> None:
    cells = install_cells()
    assert len(cells) >= 18 and len(set(cells.values())) == 1
    address = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]["url"]
    assert f'"{address}"' in next(iter(cells.values()))


def test_what_opens_is_the_page() -> None:
    """A notebook of the repository runs the profile at which its page is published."""
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        assert notebooks.defaults(path)["profile"] == DEFAULT_PROFILE == "laptop", path.name


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a clone can be cloned")
def test_on_colab_the_first_cell_installs_the_project(tmp_path: Path) -> None:
    """In an environment without the project, whose module google.colab is a stand-in.

    The repository is cloned from here, and the packages that it needs are borrowed from the
    environment of these tests, so that nothing is asked of the network.
    """
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    borrowed = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    # No .pth of a folder that is added so is read: the clone here stays out.
    (site / "borrowed.pth").write_text("\n".join(sorted(borrowed)) + "\n")
    (content := tmp_path / "content").mkdir()
    program = f"""
import sys, types
sys.modules["google.colab"] = types.ModuleType("google.colab")
try:
    import lotperm
    raise SystemExit("the project is here already")
except ImportError:
    pass
cell = {next(iter(install_cells().values()))!r}
exec(cell)
exec(cell)  # a cell may be run twice
from lotperm.studies.page import open_page
print(open_page("resnet20_cifar10", "smoke").about)
import lotperm
print(lotperm.__file__)
"""
    variables = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{ROOT.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": yaml.safe_load((ROOT / "_config.yml").read_text())["repository"][
            "url"
        ],
        "PIP_NO_INDEX": "1",
        "PIP_NO_BUILD_ISOLATION": "0",  # pip's way to say: build with what is here
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [python, "-c", program], cwd=content, env={**kept, **variables},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    about, file = done.stdout.splitlines()[-2:]
    assert "profile smoke" in about
    assert Path(file).resolve() == (content / "lotperm" / "lotperm" / "__init__.py").resolve()


def test_ci_runs_targets_that_exist() -> None:
    called = makes((ROOT / ".ci" / "run").read_text())
    assert {target for target, _ in called} == {"book", "nbval", "test"} <= TARGETS
