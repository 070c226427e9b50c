"""The profile `laptop`, which was called `live` once: the old name is understood wherever one is given,
and shown nowhere.
"""

import json
import re
from pathlib import Path

import pytest
from safetensors import safe_open

from lotperm import Experiment, load_ticket
from lotperm.cli import notebooks as commands
from lotperm.cluster.campaign import Campaign
from lotperm.config.presets import FIGURES, add_figures
from lotperm.config.profiles import DEFAULT_PROFILE, PROFILES, current_profile
from lotperm.studies import cards
from lotperm.studies.origin import of_record
from lotperm.studies.page import open_page
from lotperm.studies.parameters import page_parameters
from lotperm.studies.published import recorded
from lotperm.studies.records import load_record

ROOT = Path(__file__).parents[2]
OLD = "live"


def test_an_old_name_becomes_todays_and_others_stay():
    assert DEFAULT_PROFILE == "laptop" == current_profile(OLD)
    assert [current_profile(name) for name in PROFILES] == list(PROFILES)
    assert [current_profile(x) for x in (None, 3, "liv", ["live"])] == [None, 3, "liv", ["live"]]


@pytest.mark.parametrize("dataset", [None, "cifar10"])
def test_parameters_and_plain_data(dataset):
    new = Experiment.from_parameters(profile="laptop", dataset=dataset)
    assert Experiment.from_parameters(profile=OLD, dataset=dataset) == new
    assert Experiment.from_parameters(dataset=dataset) == new
    plain = new.to_dict()
    assert plain["profile"] == "laptop"
    assert Experiment.from_dict({**plain, "profile": OLD}) == new


@pytest.mark.parametrize("figure", sorted(FIGURES))
def test_a_page_is_the_same_by_either_name(figure):
    old, new = (page_parameters(figure, {"profile": name}) for name in (OLD, "laptop"))
    assert old == new and {e.profile for e in old[0]} == {"laptop"}


def test_the_parameters_of_a_notebook():
    """As papermill gives them to the cell, and as the page then uses them."""
    commands.validate(ROOT / "notebooks" / "04_method.ipynb", {"profile": OLD})
    page = open_page("diversity", OLD)
    assert page.experiment.profile == "laptop"


def test_presets_of_ones_own(tmp_path, monkeypatch):
    monkeypatch.setattr("lotperm.config.presets.FIGURES", {})
    path = tmp_path / "figures.toml"
    path.write_text(
        f'profiles = ["smoke", "{OLD}", "desktop", "paper"]\n[mine]\nwidths = [1, 2, 3, 4]\n'
    )
    assert add_figures(path) == ["mine"]


@pytest.mark.parametrize("given", [["--profile", OLD], ["-p", f"profile={OLD}"]])
def test_the_command_line(command, given):
    plans = [command("plan", "diversity", *option) for option in (given, ["--profile", "laptop"])]
    assert plans[0][0] == 0, plans[0][2]
    assert plans[0][1] == plans[1][1] != command("plan", "diversity", "--profile", "smoke")[1]


def test_a_notebook_and_the_book_from_the_command_line(command, monkeypatch):
    seen = []
    monkeypatch.setattr(
        commands.notebooks, "execute", lambda _p, out, given, **_: seen.append(given)
    )
    monkeypatch.setattr(commands.build, "build", lambda profile, *_, **__: seen.append(profile))
    for arguments in (["run", "method"], ["book"]):
        code, _, err = command(*arguments, "--profile", OLD)
        assert code == 0, err
    assert seen == [{"profile": "laptop"}, "laptop"]


def test_a_campaign(tmp_path):
    def experiments(defaults, entry):
        path = tmp_path / "c.yaml"
        path.write_text(json.dumps({"defaults": defaults, "entries": [{"name": "a", **entry}]}))
        return [entry.experiments for entry in Campaign.load(path).entries]

    new = experiments({"profile": "laptop"}, {})
    assert experiments({"profile": OLD}, {}) == new == experiments({}, {"profile": OLD})


def test_records_of_the_old_name_load_verify_and_are_shown_by_the_new_one():
    folder = ROOT / "book" / "results" / "mnist1d_live"
    before = (folder / "results.json").read_bytes()
    assert json.loads(before)["experiment"]["profile"] == OLD
    assert load_record(folder)["experiment"]["profile"] == "laptop"
    (run,) = (run for run in recorded("mnist1d", "mlp") if run.name == folder.name)
    assert run.label.endswith(", laptop")
    assert "profile laptop" in of_record(run).of and "--profile laptop" in of_record(run).command
    assert (folder / "results.json").read_bytes() == before


def test_tickets_of_the_old_name():
    path = next((ROOT / "book" / "results" / "mnist1d_live" / "tickets").glob("*.safetensors"))
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["experiment"])["profile"] == OLD
    assert load_ticket(path).experiment.profile == "laptop"
    files = cards.ticket_files(ROOT / "book" / "results")
    assert OLD not in {file.experiment["profile"] for file in files}


# As a profile, not as the kind of numbers that are computed while a page is built.
AS_PROFILE = re.compile(
    r"profiles?[^\w\n]{1,12}live\b|\blive[^\w\n]{1,4}profile|`live`|PROFILE\s*\??=\s*live\b"
    r"|smoke\W{1,6}live\b|\bat live\b|\blive\W{1,6}desktop"
)


def test_the_pattern_finds_a_profile_and_leaves_the_kind():
    said = (
        "at the `live` profile",
        'profile="live"',
        "--profile live",
        "profile: live",
        "PROFILE=live",
    )
    assert all(
        AS_PROFILE.search(text) for text in (*said, "profile live, 1 thread", "# At live,".lower())
    )
    kind = (
        "a live page runs at a *profile*",
        "paper, recorded, live",
        '"kind": "live"',
        "live numbers",
    )
    assert not any(AS_PROFILE.search(text) for text in kind)


def test_no_page_docstring_or_command_says_the_old_name():
    where = (
        "*.md book/*.md book/panels/* book/_extensions/*.py notebooks/*.ipynb lotperm/**/*.py "
        "lotperm/**/*.toml lotperm/**/*.js campaigns/**/*.yaml campaigns/*.json benchmarks/*.py "
        "tools/* .github/workflows/* Makefile Dockerfile book/results/*.md book/results/*.json "
        "book/results/*/tickets/*.md"
    )
    files = {path for pattern in where.split() for path in ROOT.glob(pattern) if path.is_file()}
    # It is said there that the name changed.
    files -= {ROOT / "CHANGELOG.md", ROOT / "lotperm" / "config" / "profiles.py"}
    assert len(files) > 200
    found = {
        str(path.relative_to(ROOT)): match[0]
        for path in files
        if (match := AS_PROFILE.search(path.read_text(encoding="utf-8")))
    }
    assert not found
