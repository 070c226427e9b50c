"""Experiments whose masks don't come from IMP."""

from functools import partial
from typing import get_args

import little
import pytest
import torch

from lotperm import Experiment, Store
from lotperm.cluster import plan
from lotperm.config.choices import MaskSource
from lotperm.config.seeds import derive_seed
from lotperm.errors import ParameterError
from lotperm.science.ranking import (
    erdos_renyi_densities,
    keep_highest,
    kept_after,
    random_mask,
)
from lotperm.science.saliency import snip_scores
from lotperm.science.sparsity import full_mask, magnitude_prune
from lotperm.store.tasks import chain, unpack
from lotperm.studies import trained_masks
from lotperm.studies.arms import study as arms
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.control.page import Page
from lotperm.studies.stages import ticket
from lotperm.studies.tables import settings

TINY = {**little.TINY, "epochs": 2}
OTHERS = [source for source in get_args(MaskSource) if source != "imp"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    # One for all, as the dense networks are.
    return Store(tmp_path_factory.mktemp("store"))


tiny = partial(little.tiny, epochs=2)


@pytest.mark.parametrize("source", OTHERS)
def test_every_source_gives_each_seed_a_mask_of_the_sparsity(source, store):
    pipeline = tiny(store, mask=source)
    masks = pipeline.masks(0.5, 1)
    total = sum(kept.numel() for kept in masks[0].values())
    for mask in masks:
        assert sum(int(kept.sum()) for kept in mask.values()) == kept_after(total, 0.5)
    assert any(not torch.equal(masks[0][name], masks[1][name]) for name in masks[0])
    stage = ticket(pipeline, 0.5, 1)
    assert stage.name == "mask"
    assert stage.results["kept"][0] == {name: int(m.sum()) for name, m in masks[0].items()}
    # A network as large as the real one is known before anything is computed.
    assert stage.work.masks == 2
    # Only the source differs, and it is part of every later stage's key.
    assert pipeline.sparse(0.5, 1).key != tiny(store).sparse(0.5, 1).key
    assert pipeline.match()
    assert pipeline.dense().stage.key == tiny(store).dense().stage.key


def test_masks_are_those_of_the_plain_functions(store):
    pipeline = tiny(store, mask="snip")
    start, end = (pipeline.dense().weights(e)[0] for e in (1, "final"))
    network = pipeline.network(start[0])
    names = list(pipeline.masks(0.5, 1)[0])
    magnitude = tiny(store, mask="magnitude").masks(0.5, 1)[0]
    plain = magnitude_prune(end[0], full_mask(end[0], names), 0.5)
    assert all(torch.equal(magnitude[name], plain[name]) for name in names)
    # SNIP scores A where the arms start. On all examples the mask is much the same as on ten of
    # each class, on other weights it isn't.
    everything = list(pipeline.batches(pipeline.data.train))

    def alike(network):
        mask = keep_highest(snip_scores(network, everything, names), 0.5)
        found = pipeline.masks(0.5, 1)[0]
        return sum((mask[n] == found[n]).sum().item() for n in names) / sum(
            mask[n].numel() for n in names
        )

    assert alike(network) > 0.75 > alike(pipeline.network(start[1]))


@pytest.mark.parametrize("source", ["erk", "synflow", "rigl", "movement"])
def test_arms_and_their_table_take_any_mask(source, store):
    pipeline = tiny(store, mask=source)
    results = pipeline.run()
    assert set(results.table["method"]) == {"dense_a", "dense_b", *PAPER_ARMS}
    assert results.experiment.pruning.mask == source
    assert set(results.comparisons()["comparison"]) >= {"permuted - naive", "lth - naive"}
    names = [task.name for task in chain(arms.tasks(pipeline))]
    assert "imp" not in names
    assert "mask" in names
    table = settings([pipeline])
    assert source in table.to_string()


def test_random_masks_wait_for_no_training(store):
    stage = ticket(tiny(store, mask="uniform"), 0.5, 1)
    assert stage.after == ()
    # At every rewind epoch they are the same stage; scores are taken where the arms start.
    epochs = {"rewind_epoch": [0, 1]}
    for source, count in (("uniform", 1), ("magnitude", 1), ("snip", 2), ("synflow", 2)):
        pipeline = tiny(store, mask=source, **epochs)
        assert len({ticket(pipeline, 0.5, k).key for k in (0, 1)}) == count


def test_a_plan_counts_masks_in_place_of_rounds(store):
    def groups(source):
        e = Experiment.from_parameters(**TINY, mask=source)
        part = plan.Part("one", (e,), lambda benches: arms.tasks(benches[0]))
        return {line.group: line for line in plan.plan([part], plan.Estimator("h100"), store).lines}

    rounds, scores = groups("imp"), groups("grasp")
    assert rounds.keys() - scores.keys() == {"IMP rounds"}
    assert scores.keys() - rounds.keys() == {"masks"}
    # The gradient of ten examples of each class, thrice, for two seeds.
    assert scores["masks"].train_images == 3 * 100 * 2
    assert scores["masks"].networks == 0


def test_rigl_costs_a_training_of_each_mask_and_movement_one_of_all(store):
    def groups(source):
        e = Experiment.from_parameters(**{**TINY, "sparsity": [0.5, 0.8]}, mask=source)
        part = plan.Part("one", (e,), lambda benches: arms.tasks(benches[0]))
        return {line.group: line for line in plan.plan([part], plan.Estimator("h100"), store).lines}

    rigl, movement = groups("rigl"), groups("movement")
    # Two batches of 128 an epoch, for two seeds: RigL over the epoch after k at each sparsity,
    # movement over both epochs.
    assert rigl["masks"].train_images == 2 * 2 * 256
    assert rigl["masks"].networks == 4
    assert movement["movement of A"].train_images == 2 * 2 * 256
    assert movement["movement of A"].networks == 2
    assert movement["masks"].train_images == 0
    assert rigl.keys() - movement.keys() == set()


def test_rigl_starts_from_a_random_mask_where_the_arms_start(store):
    pipeline = tiny(store, mask="rigl", epochs=4)
    stage = ticket(pipeline, 0.5, 1)
    assert stage.reads == {pipeline.dense().stage.key: ("epoch-0001",)}
    # Six steps are left: with updates at each of steps 1 to 4.
    assert stage.config["rule"] == {"every": 1, "fraction": 0.3, "until": 0.75}
    names = list(pipeline.masks(0.5, 1)[0])
    shapes = {name: pipeline.model.state_dict()[name].shape for name in names}
    start = random_mask(
        shapes,
        erdos_renyi_densities(shapes, 0.5),
        0.5,
        torch.Generator().manual_seed(derive_seed("mask", "rigl", 0)),
    )
    mask = pipeline.masks(0.5, 1)[0]
    assert {n: m.sum() for n, m in mask.items()} == {n: m.sum() for n, m in start.items()}
    moved = sum(int((mask[n] & ~start[n]).sum()) for n in names)
    assert 0 < moved < sum(int(m.sum()) for m in start.values()) * 4 * 0.3
    # Its own networks' accuracies are kept beside the masks.
    assert len(stage.results["evaluations"]["3"]["accuracy"]) == 2


def test_rigl_changes_masks_as_often_as_its_authors_or_25_times():
    assert trained_masks.rigl_of(32_000).every == 100
    assert trained_masks.rigl_of(1240).every == 37
    assert trained_masks.rigl_of(8).every == 1
    for steps in (1240, 3000, 3400):
        rule = trained_masks.rigl_of(steps)
        assert sum(rule.due(t, steps) for t in range(steps)) >= 24


def test_movement_is_that_of_as_own_training(store):
    pipeline = tiny(store, mask="movement")
    stage, dense = trained_masks.movement(pipeline), pipeline.dense().stage
    # A's training again, seed by seed, in another company.
    accuracies = dense.results["evaluations"]["2"]["accuracy"][:2]
    assert stage.results["evaluations"]["2"]["accuracy"] == pytest.approx(accuracies, abs=0.02)
    losses = [each[:2] for each in dense.results["train_loss"]]
    assert stage.results["train_loss"] == [pytest.approx(each, rel=1e-4) for each in losses]
    scores, masks = unpack(stage.load("movement")), pipeline.masks(0.5, 1)
    for score, mask in zip(scores, masks, strict=True):
        kept = torch.cat([score[name][m] for name, m in mask.items()])
        lost = torch.cat([score[name][~m] for name, m in mask.items()])
        assert kept.min() >= lost.max()
    # Weights that the loss pushed away from zero are larger for it.
    start, end = (pipeline.dense().weights(epoch)[0][0] for epoch in (0, "final"))
    growth = torch.cat([(end[n] ** 2 - start[n] ** 2).flatten() for n in masks[0]])
    score = torch.cat([scores[0][n].flatten() for n in masks[0]])
    assert torch.corrcoef(torch.stack([growth, score]))[0, 1] > 0.5


def test_collapse_is_named_with_its_layer(store):
    # With two weights left of hundreds, global magnitudes leave a layer without any.
    pipeline = tiny(store, mask="magnitude", sparsity=0.997)
    with pytest.warns(UserWarning, match=r"layer collapse: at sparsity 0.997 the mask of seed \d"):
        pipeline.masks(0.997, 1)


def test_the_page_of_imps_networks_wants_imps_masks(store):
    page = Page("sparse_training_problem", {"profile": "smoke", "mask": "snip"})
    with pytest.raises(ParameterError, match="mask is 'snip'; expected imp"):
        page.in_short()


def test_a_wrong_source_is_refused_with_those_that_there_are():
    with pytest.raises(ParameterError, match=r"unknown mask 'snap'\. Did you mean 'snip'"):
        Experiment.from_parameters(mask="snap")
