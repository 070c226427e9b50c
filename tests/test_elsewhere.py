"""What runs the project elsewhere, the workflows, the container and Binder, calls what is there."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from lotperm.config.profiles import PROFILES

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


def test_ci_runs_targets_that_exist() -> None:
    called = makes((ROOT / ".ci" / "run").read_text())
    assert {target for target, _ in called} == {"book", "nbval", "test"} <= TARGETS
