"""Two processes, started by torchrun, against one: what they compute, and what a lost one
leaves behind.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import ranks
import sweeps
import torch
from ranks import torchrun
from torch import Tensor

from lotperm import Experiment, Pipeline, Store
from lotperm.parallel import distributed
from lotperm.store.files import load_tensors
from lotperm.store.workspace import Workspace

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """As torchrun gives each process: sums are then the same to the last bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def cut(folder) -> subprocess.CompletedProcess[str]:
    """A job whose second process was killed."""
    return torchrun(ROOT / "tests" / "ranks.py", "killed", folder)


@pytest.fixture(scope="module")
def two(folder, cut) -> dict[str, Tensor]:
    """What rank 0 of two computed."""
    torch.set_num_threads(
        2
    )  # two Python threads train a member each, and stop at steps of their own
    ranks.stopped(folder / "work-of-one", 5)
    torch.set_num_threads(1)
    done = torchrun(ROOT / "tests" / "ranks.py", "everything", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return load_tensors(folder / "everything-0.safetensors")[0]


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


def test_ranks_are_equal_in_every_bit(two, folder):
    """Weights, statistics of batch norm, masks, losses, permutations: all that a rank holds."""
    files = [(folder / f"everything-{rank}.safetensors").read_bytes() for rank in range(2)]
    assert hashlib.sha256(files[0]).hexdigest() == hashlib.sha256(files[1]).hexdigest()
    assert any("running_var" in name for name in two)
    assert any("mask." in name for name in two)


@pytest.mark.parametrize(("name", "tolerance"), [("mlp", 1e-12), ("resnet8", 1e-9)])
def test_two_train_like_one(two, name, tolerance):
    """In float64: without batch norm, and with it, whose statistics are formed otherwise.
    (Losses are float32.)
    """
    alone, together = ranks.learn(name), part(two, f"{name}/")
    loss = alone.pop("train_loss"), together.pop("train_loss")
    assert distance(alone, together) < tolerance
    assert all(torch.equal(alone[n], together[n]) for n in alone if n.startswith("mask."))
    assert torch.equal(alone["accuracy"], together["accuracy"])
    assert torch.allclose(*loss, rtol=0, atol=1e-6)
    assert loss[0][-1].mean() < loss[0][0].mean()


def test_masks_that_change_are_the_same_on_two(two):
    """RigL's gradients are those of the whole batch."""
    alone, together = ranks.learn("mlp", rewire=ranks.RIGL), part(two, "rigl/")
    assert alone.keys() == together.keys()
    weights = [name for name in alone if name.startswith("final.")]
    assert distance({n: alone[n] for n in weights}, {n: together[n] for n in weights}) < 1e-12
    assert all(torch.equal(alone[n], together[n]) for n in alone if n.startswith("mask."))
    # A mask that stays would have ended elsewhere.
    stays = part(two, "mlp/")
    assert any(not torch.equal(stays[n], together[n]) for n in stays if n.startswith("mask.0."))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", ["mlp", "resnet8"])
def test_matching_is_the_same_on_any_number_of_ranks_and_threads(two, name, threads):
    torch.set_num_threads(threads)
    alone, together = ranks.match(name), part(two, f"match/{name}/")
    torch.set_num_threads(1)
    assert alone.keys() == together.keys()
    assert all(torch.equal(alone[key], together[key]) for key in alone)


def test_each_rank_reads_its_own_part_of_the_images_for_matching(two, tmp_path):
    """Every file once, by one of the ranks, and the correlations of one process, to the last
    bit.
    """
    alone, together = ranks.match_files(tmp_path), part(two, "match_files/")
    assert together["opened"] == alone["opened"] == 96
    assert all(torch.equal(alone[key], together[key]) for key in alone)


def test_one_rank_that_is_asked_to_stop_stops_all_and_they_go_on(two):
    assert distance(part(two, "again/"), part(two, "resnet8/")) == 0


def test_a_run_goes_on_with_another_number_of_ranks(two, folder):
    whole = ranks.learn("resnet8")
    left = Workspace(folder / "work-of-one", "key").latest()
    assert left is not None
    for resumed in (
        part(two, "from_one/"),
        ranks.learn("resnet8", checkpoints=Workspace(folder / "work-for-one", "key")),
    ):
        loss = resumed.pop("train_loss")
        assert torch.allclose(loss, whole["train_loss"], rtol=0, atol=1e-6)
        assert distance(resumed, {n: t for n, t in whole.items() if n != "train_loss"}) < 1e-9


def test_a_killed_rank_ends_the_job_and_the_next_one_finishes_it(two, cut, folder):
    assert cut.returncode != 0
    assert "SIGKILL" in cut.stderr
    assert not (folder / "killed-0.safetensors").exists()
    assert not list(folder.rglob("*.corrupt"))
    assert not list((folder / "store" / "work").iterdir())
    assert distance(part(two, "killed/"), part(two, "resnet8/")) == 0


def test_what_several_ranks_refuse(two, folder):
    diverged, batch, compiled, unused = (folder / "messages.txt").read_text().splitlines()
    assert "loss is not finite at step" in diverged
    assert "batch_size is 25, which 2 processes can't share equally" in batch
    assert "Leave compile out" in compiled
    assert "spare.weight isn't used by the network, so several processes can't share" in unused


def test_the_command_on_two_processes_gives_the_table_of_one(two_ranks, tmp_path, monkeypatch):
    assert (two_ranks / "stdout").read_text().count("Wrote results.csv") == 1
    experiment = Experiment.from_parameters(**sweeps.TINY, sparsity=0.5)
    alone = Pipeline(experiment, Store(tmp_path / "alone")).run()
    alone.save(tmp_path / "alone")
    tables = [pd.read_csv(f / "results.csv") for f in (two_ranks / "out", tmp_path / "alone")]
    pd.testing.assert_frame_equal(*tables, rtol=0, atol=1e-4)
    # What it left are the stages that one process looks for: each was computed once, and is whole.
    monkeypatch.setattr("lotperm.studies.workbench.train", None)
    again = Pipeline(experiment, Store(two_ranks / "home")).run()
    assert {stage["key"] for stage in again.stages} == {stage["key"] for stage in alone.stages}
    assert all(stage["ranks"] == 2 for stage in again.stages)
    assert not list((two_ranks / "home").rglob("*.corrupt"))


def test_alone_nothing_is_shared():
    with distributed.processes("cpu"):
        assert (distributed.rank(), distributed.world_size()) == (0, 1)
        x = torch.ones(2)
        assert distributed.total(x) is x
        assert distributed.gather("here") == ["here"]
        assert distributed.in_turn(lambda: 5) == distributed.once(lambda: 5) == 5
