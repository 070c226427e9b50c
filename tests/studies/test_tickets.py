"""Tickets on disk: what comes back trains to what the experiment found."""

import dataclasses
import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from lotperm import Experiment, Pipeline, Store
from lotperm.errors import IntegrityError, ParameterError, StorageError
from lotperm.science.symmetry import permute
from lotperm.store.files import load_tensors, save_tensors
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.tickets import file_name, load_ticket, save_tickets

SPARSITIES = (0.5, 0.8)
RESULTS = Path(__file__).parents[2] / "book" / "results"
PUBLISHED = sorted(RESULTS.glob("*/tickets/*.safetensors"))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    experiment = Experiment.from_parameters(
        profile="smoke",
        train_size=300,
        test_size=100,
        epochs=3,
        rewind_epoch=[0, 1],
        finetune_epochs=1,
        hidden=[12],
        seeds=[3, 5],
        prune_fraction=0.5,
        sparsity=SPARSITIES,
    )
    return Pipeline(experiment, Store(tmp_path_factory.mktemp("store")))


@pytest.fixture(scope="module")
def folder(pipeline, tmp_path_factory):
    out = tmp_path_factory.mktemp("tickets")
    save_tickets(pipeline, out)
    return out


def test_there_is_a_file_for_each_seed_and_rewind_epoch(folder):
    expected = {file_name(seed, k) for seed in (3, 5) for k in (0, 1)}
    assert (
        {path.name for path in folder.iterdir()}
        == expected
        == {
            "seed3_k0.safetensors",
            "seed3_k1.safetensors",
            "seed5_k0.safetensors",
            "seed5_k1.safetensors",
        }
    )


def test_a_ticket_holds_what_the_experiment_found(pipeline, folder):
    for i, seed in enumerate((3, 5)):
        for sparsity in SPARSITIES:
            ticket = load_ticket(folder / file_name(seed, 1), sparsity)
            assert (ticket.experiment, ticket.seed, ticket.rewind_epoch) == (
                pipeline.experiment,
                seed,
                1,
            )
            a, b = (networks[i] for networks in pipeline.dense().weights(1))
            found = (
                (ticket.weights_a, a),
                (ticket.weights_b, b),
                (ticket.mask, pipeline.masks(sparsity, 1)[i]),
                (ticket.permutation, pipeline.match()[i]),
            )
            for ours, theirs in found:
                assert ours.keys() == theirs.keys()
                assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
            kept = sum(int(kept.sum()) for kept in ticket.mask.values())
            assert kept == round(
                (1 - sparsity) * sum(kept.numel() for kept in ticket.mask.values())
            )


def test_the_arms_begin_where_they_did(folder, pipeline):
    ticket = load_ticket(folder / file_name(5, 0), 0.8)
    moved = permute(ticket.mask, pipeline.spec, ticket.permutation)
    for arm, weights, mask in (
        ("lth", ticket.weights_a, ticket.mask),
        ("permuted", ticket.weights_b, moved),
        ("naive", ticket.weights_b, ticket.mask),
    ):
        start = ticket.start(arm)
        assert start[0] is weights
        assert all(torch.equal(start[1][name], mask[name]) for name in mask)
    assert any(not torch.equal(moved[name], ticket.mask[name]) for name in moved)
    with pytest.raises(ParameterError, match="unknown arm 'dense'"):
        ticket.start("dense")


def test_arms_trained_from_a_file_are_those_of_the_experiment(folder, pipeline):
    results = pipeline.run()
    for k in (0, 1):
        trained = load_ticket(folder / file_name(5, k), 0.8).train()
        last = trained.evaluations[3 - k]["accuracy"]
        assert last == [results.values(arm, 0.8, k)[5] for arm in PAPER_ARMS]
        arms = pipeline.sparse(0.8, k).load("final")
        for m, weights in enumerate(trained.weights):
            # Members of the experiment are arms, and seeds within them. Other company changes the
            # rounding.
            for name, tensor in weights.items():
                torch.testing.assert_close(tensor, arms[name][2 * m + 1], rtol=1e-3, atol=1e-4)
    alone = load_ticket(folder / file_name(3, 1), 0.5).train(["naive"])
    assert alone.evaluations[2]["accuracy"] == [results.values("naive", 0.5, 1)[3]]


def test_only_whole_seeds_are_written_within_a_limit(pipeline, folder, tmp_path):
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    one = sum(size for name, size in sizes.items() if name.startswith("seed3"))
    assert [path.name for path in save_tickets(pipeline, tmp_path / "one", one)] == [
        "seed3_k0.safetensors",
        "seed3_k1.safetensors",
    ]
    assert save_tickets(pipeline, tmp_path / "none", 1000) == []
    assert not (tmp_path / "none").exists()


def test_the_same_tickets_are_the_same_bytes(pipeline, folder, tmp_path):
    for path in save_tickets(pipeline, tmp_path):
        assert path.read_bytes() == (folder / path.name).read_bytes()


def test_a_sparsity_must_be_one_that_is_there(folder, pipeline, tmp_path):
    path = folder / file_name(3, 0)
    with pytest.raises(ParameterError, match=r"masks of sparsity 0\.5, 0\.8; choose one"):
        load_ticket(path)
    with pytest.raises(
        ParameterError, match=r"no mask of sparsity 0\.9; expected one of 0\.5, 0\.8"
    ):
        load_ticket(path, 0.9)
    one = Pipeline(dataclasses.replace(pipeline.experiment, sparsities=(0.5,)), pipeline.store)
    (first, *_) = save_tickets(one, tmp_path)
    assert load_ticket(first).sparsity == 0.5


def rewritten(path, out, change):
    """A ticket that was made by someone else: its checksum is right, its content is not."""
    tensors, notes = load_tensors(path)
    change(tensors, notes)
    save_tensors(out, tensors, notes)
    return out


def _huge(tensors, notes):
    content = json.loads(notes["experiment"])
    content["model"]["hidden"] = [1_000_000, 1_000_000]
    notes["experiment"] = json.dumps(content)


WRONG = {
    "no ticket": (lambda t, n: n.pop("kind"), "holds 'tensors'; expected a ticket"),
    "no experiment": (
        lambda t, n: n.pop("experiment"),
        "nothing sensible about its experiment: 'experiment'",
    ),
    "not JSON": (lambda t, n: n.update(experiment="{"), "nothing sensible"),
    "unknown key": (
        lambda t, n: n.update(experiment='{"x": 1}'),
        "nothing sensible.*unknown key 'x'",
    ),
    "missing key": (
        lambda t, n: n.update(experiment="{}"),
        "nothing sensible.*Experiment.profile is None",
    ),
    "a list": (lambda t, n: n.update(experiment="[]"), "nothing sensible.*Experiment is"),
    "no seed": (lambda t, n: n.update(seed="one"), "nothing sensible"),
    "another shape": (
        lambda t, n: t.update({"weights_b/layers.0.weight": torch.zeros(2)}),
        "weights_b doesn't fit",
    ),
    "another type": (
        lambda t, n: t.update({k: v.int() for k, v in t.items() if "mask/0.5" in k}),
        "mask doesn't fit",
    ),
    "one too many": (
        lambda t, n: t.update({"weights_a/extra": torch.zeros(2)}),
        "weights_a doesn't fit.*extra",
    ),
    "one too few": (
        lambda t, n: t.pop(min(k for k in t if k.startswith("perm"))),
        "the permutation doesn't fit",
    ),
    "no permutation": (
        lambda t, n: [v.zero_() for k, v in t.items() if k.startswith("permutation")],
        "exactly once",
    ),
    "a huge network": (_huge, "weights_a doesn't fit the network"),
}


@pytest.mark.parametrize("what", WRONG)
def test_files_that_are_no_tickets_are_refused(folder, tmp_path, what):
    change, words = WRONG[what]
    path = rewritten(folder / file_name(3, 0), tmp_path / "bad.safetensors", change)
    with pytest.raises(IntegrityError, match=words):
        load_ticket(path, 0.5)


def test_damage_and_absence_are_named(folder, tmp_path):
    path = tmp_path / "cut.safetensors"
    data = bytearray((folder / file_name(3, 0)).read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"cut\.safetensors is corrupt"):
        load_ticket(path, 0.5)
    with pytest.raises(StorageError, match="cannot read"):
        load_ticket(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: f"{path.parents[1].name}/{path.stem}")
def test_a_published_ticket_is_of_the_run_beside_it(path):
    content = json.loads((path.parents[1] / "results.json").read_text())
    experiment = Experiment.from_dict(content["experiment"])
    ticket = load_ticket(path, max(experiment.sparsities))
    # Where seeds were trained in groups, a ticket is of its group.
    assert ticket.seed in ticket.experiment.seeds and set(ticket.experiment.seeds) <= set(
        experiment.seeds
    )
    assert dataclasses.replace(ticket.experiment, seeds=experiment.seeds) == experiment
    assert path.name == file_name(ticket.seed, ticket.rewind_epoch)


def test_a_published_ticket_trains_to_what_is_recorded():
    ticket = load_ticket(RESULTS / "mnist1d_live" / "tickets" / "seed0_k8.safetensors", 0.9)
    table = pd.read_csv(RESULTS / "mnist1d_live" / "results.csv").set_index(
        ["method", "seed", "metric"]
    )
    found = ticket.train().evaluations[32]["accuracy"]
    # Another processor or version rounds otherwise, and training lets that grow.
    for arm, accuracy in zip(PAPER_ARMS, found, strict=True):
        assert accuracy == pytest.approx(table.loc[(arm, 0, "test_accuracy"), "value"], abs=0.03)
