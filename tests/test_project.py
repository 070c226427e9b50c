"""The repository as a whole: versions, pins, the README, the Makefile, what must not be in it."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import shutil
import subprocess
import tomllib
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path

import jaxtyping
import pytest
import torch
import yaml

import lotperm

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PRODUCTS = (
    *(".venv", ".lotperm", "_build", "build", "dist", "*.egg-info", "*.whl"),
    *("__pycache__", "*.py[cod]", ".*_cache", ".hypothesis", ".ipynb_checkpoints"),
    *(".coverage", ".coverage.*", "*.corrupt", "pack-*.bin"),
)

# An unpacked release has no .git. In a clone and in CI these tests run, and fail without Git.
in_a_clone = pytest.mark.skipif(
    not (ROOT / ".git").exists() and not os.environ.get("CI"),
    reason="only a clone knows which files are tracked",
)


def git_files(*options: str) -> list[Path]:
    """Return the files that Git lists."""
    command = ["git", "ls-files", "-z", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def tracked() -> list[Path]:
    """Return what is, or would be, committed."""
    files = git_files("--cached", "--others", "--exclude-standard")
    assert ROOT / "pyproject.toml" in files
    return files


def texts() -> dict[Path, str]:
    """Return the tracked files that are text, vendored ones left out."""
    found = {}
    for path in tracked():
        if "vendor" not in path.parts:
            with suppress(UnicodeDecodeError):
                found[path] = path.read_text(encoding="utf-8")
    return found


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in the repository."""
    program = shutil.which("make")
    assert program, "make isn't installed"
    return subprocess.run(
        [program, *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_one_version_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["project"]["version"] == str(citation["version"]) == lotperm.__version__


def test_conda_users_get_the_same_pins() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == "lotperm"
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert pip == [line for line in lines if line and not line.startswith("#")]
    assert "python=3.11" in environment["dependencies"]


def test_every_requirement_is_pinned() -> None:
    lines = [
        line
        for line in (ROOT / "requirements.txt").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert not [line for line in lines if not re.match(r"[a-z0-9-]+==\S+( ; .+)?$", line)]
    pinned = {line.split("==")[0] for line in lines}
    extras = PROJECT["project"]["optional-dependencies"].values()
    wanted = [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in extra)]
    names = {re.split(r"[\[<>=!~ ]", requirement)[0].lower() for requirement in wanted} - {
        "lotperm"
    }
    assert names <= pinned


@in_a_clone
def test_no_registry_host_is_named() -> None:
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "registry" + ".npmjs", "deb" + ".debian.org"]
    assert not [
        (path.name, host) for path, text in texts().items() for host in hosts if host in text
    ]


@in_a_clone
def test_no_path_of_one_machine() -> None:
    path_of_a_machine = re.compile(
        r"(?<![\w.-])/(?:home|Users|root|work|farm|mnt)/\w+|(?<![\w.-])/tmp/\w+/"
    )
    found = {path.name: path_of_a_machine.findall(text) for path, text in texts().items()}
    assert not {name: hits for name, hits in found.items() if hits}


@in_a_clone
def test_no_file_is_over_10_mb() -> None:
    assert not [path.name for path in tracked() if path.stat().st_size > 10_000_000]


@in_a_clone
def test_no_build_product_is_tracked() -> None:
    """Neither what .gitignore names nor what it forgot."""
    assert not git_files("--cached", "--ignored", "--exclude-standard")
    paths = [path.relative_to(ROOT) for path in tracked()]
    assert not [
        str(path)
        for path in paths
        if any(fnmatch(part, product) for part in path.parts for product in PRODUCTS)
    ]


def test_the_package_has_one_style_and_nothing_too_large_to_read() -> None:
    """No module of more than 400 lines, no class of more than 250."""
    exceptions, long, large = [], [], []
    for path in sorted((ROOT / "lotperm").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        exceptions += [path] * ("# fmt: " in text)
        long += [path] * (len(text.splitlines()) > 400)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef) and node.end_lineno is not None:
                large += [(path, node.name)] * (node.end_lineno - node.lineno >= 250)
    assert (exceptions, long, large) == ([], [], [])


def test_the_papers_numbers_say_where_they_come_from() -> None:
    tables = sorted((ROOT / "book" / "paper").glob("*.csv"))
    assert tables
    assert not [path.name for path in tables if not path.read_text().startswith("# Source: ")]


def test_the_programs_of_the_readme_are_run_by_tests() -> None:
    """The one of an own network: tests/test_wheel.py, without the repository."""
    found = re.findall(r"<!-- test: (.+?) -->\s*```python\n", (ROOT / "README.md").read_text())
    assert sorted(found) == ["own network", "ticket"]


def test_the_readmes_program_of_a_ticket_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text()
    (program,) = re.findall(r"<!-- test: ticket -->\s*```python\n(.*?)```", text, re.S)
    monkeypatch.chdir(ROOT)
    exec(program, {"__name__": "__main__"})


def test_the_readme_quotes_recorded_numbers() -> None:
    quoted = re.findall(
        r"<!-- recorded -->(.*?)<!-- /recorded -->", (ROOT / "README.md").read_text(), re.S
    )
    rows = [line for part in quoted for line in part.splitlines() if re.match(r"\|.*\d", line)]
    tables = [path.read_text().splitlines() for path in (ROOT / "book" / "results").rglob("*.md")]
    recorded = {line for table in tables for line in table}
    assert len(rows) >= 6
    assert [row for row in rows if row not in recorded] == []


def test_the_readmes_answer_is_todays() -> None:
    """Its table, and the numbers in its picture, follow from what is recorded and published."""
    from lotperm.site import answer

    found = answer.rows()
    text = (ROOT / "README.md").read_text()
    renew = "python -c 'from lotperm.site.answer import write; write()'"
    assert f"<!-- answer -->\n{answer.markdown(found)}\n<!-- /answer -->" in text, renew
    picture = (ROOT / "book" / "_static" / "answer.svg").read_text()
    for row in found:
        assert f"{row.title} ({row.kind})" in picture, renew
        assert f"permuted {row.permuted:.1f}: {row.points} points" in picture, renew
    # The paper's main case, with its small gain, stands beside ours; so does k = 0.
    assert {(row.kind, row.rewind_epoch) for row in found} >= {("paper", 0), ("paper", 20)}
    assert {row.label.split(",")[0] for row in found if row.kind == "recorded"} >= {
        "MNIST-1D",
        "Fashion-MNIST",
        "CIFAR-10",
    }


def test_the_cards_of_tickets_are_todays() -> None:
    from lotperm.studies import cards

    files = cards.ticket_files(ROOT / "book" / "results")
    assert len(files) > 20
    for folder in {file.path.parent for file in files}:
        own = [file for file in files if file.path.parent == folder]
        renew = "lotperm.studies.cards.write_cards(Path('book/results')) renews them"
        assert (folder / cards.CARD).read_text() == cards.card(own), renew


def test_bare_make_lists_the_targets() -> None:
    listed = set(re.findall(r"^  make (\w+) +\S", make().stdout, re.M))
    targets = set(re.findall(r"^(\w+):.*## ", (ROOT / "Makefile").read_text(), re.M))
    assert {"setup", "book", "test", "lint", "bench", "clean"} <= listed
    assert listed == targets


def test_make_says_which_python_is_needed(tmp_path: Path) -> None:
    done = make("setup", "PYTHON=false", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    assert "Python 3.11 or newer" in done.stdout
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("module", ["cli", "studies", "science", "errors | types"])
def test_the_order_of_imports_names_the_module(module: str) -> None:
    (contract,) = PROJECT["tool"]["importlinter"]["contracts"]
    assert contract["type"] == "layers"
    assert contract["exhaustive"]
    assert module in contract["layers"]


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("data.augment", "augment"),
        ("science.diversity", "disagreement"),
        ("science.sparsity", "apply_mask"),
        ("science.assignment", "assign"),
        ("science.symmetry", "invert"),
    ],
)
def test_shapes_are_checked_while_tests_run(module: str, name: str) -> None:
    (listed,) = (o for o in PROJECT["tool"]["pytest"]["ini_options"]["addopts"] if "jaxtyping" in o)
    packages = listed.partition("=")[2].split(",")
    assert any(f"lotperm.{module}.".startswith(f"{package}.") for package in packages)
    function = getattr(importlib.import_module(f"lotperm.{module}"), name)
    required = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    with pytest.raises(jaxtyping.TypeCheckError):
        function(*("no tensor" for _ in required))


def test_a_shape_that_contradicts_another_is_refused() -> None:
    from lotperm.science.assignment import mean_matched

    similarity = torch.eye(3, dtype=torch.float64)
    assert mean_matched(similarity, torch.arange(3)) == 1
    with pytest.raises(jaxtyping.TypeCheckError):
        mean_matched(similarity, torch.arange(2))
