"""Arms by factors: what each starts from, and what its stage is made of."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from little import TINY

from lotperm import Experiment, Pipeline, Store
from lotperm.engine.models import build, initialize
from lotperm.errors import ParameterError
from lotperm.science.scrambling import scatter
from lotperm.science.sparsity import apply_mask, full_mask, magnitude_prune, prunable_parameters
from lotperm.science.symmetry import PermutationSpec, permute
from lotperm.store.tasks import unpack
from lotperm.studies.arms.arms import ARMS, ORACLE, PAPER_ARMS, Arm, Parts, start
from lotperm.studies.arms.permutations import (
    correlations,
    matched_correlation,
    permutations,
)
from lotperm.studies.arms.training import train_arms
from lotperm.studies.workbench import Workbench

GIVEN = {**TINY, "hidden": [12, 10], "seeds": [3, 5], "prune_fraction": 0.5, "sparsity": 0.8}

WITH_SIGNS = Arm("a's signs", "b", "permuted", "sparse_b", "a end", "permuted")
OTHERS = (
    WITH_SIGNS,
    Arm("own end", "b", "as found", "sparse_b", "own end"),
    Arm("imp's signs", "b", "as found", "sparse_b", "imp end"),
    Arm("random signs", "b", "permuted", "sparse_b", "random", "permuted"),
    Arm("half", "b", "permuted", "sparse_b", scrambled=0.5),
    Arm("oracle", "shuffled a", "permuted", "sparse_a", permutation=ORACLE),
    Arm("by weights", "b", "permuted", "sparse_b", permutation="weights"),
    Arm("by gradients", "b", "permuted", "sparse_b", permutation="gradients"),
)


def parts(name: str, shape: tuple[int, ...], seed: int = 0) -> Parts:
    """The parts of a network that was never trained, with random weights everywhere."""

    def made() -> torch.nn.Module:
        return build(name, input_shape=shape, classes=4, width=0.25, hidden=(96, 80))

    model = made()
    weights = {
        n: initialize(made, i) for i, n in enumerate(("a", "b", "a end", "b end", "imp end"))
    }
    for state in weights.values():
        draw = torch.Generator().manual_seed(1)
        for tensor in state.values():
            # Biases and norms that a wrong order would show.
            if tensor.is_floating_point() and tensor.dim() == 1:
                tensor += 0.1 * torch.rand(tensor.shape, generator=draw)
    mask = magnitude_prune(weights["a end"], full_mask(model, prunable_parameters(model)), 0.5)
    spec = PermutationSpec.trace(model, torch.randn(2, *shape))
    found = spec.random(torch.Generator().manual_seed(9))
    return Parts(
        seed, lambda: spec, weights, mask, {"found": found}, torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize(
    ("name", "shape"), [("mlp", (1, 8)), ("resnet8", (1, 40)), ("resnet8", (3, 8, 8))]
)
def test_the_oracles_mask_on_the_shuffled_copy_computes_what_lth_does(
    name: str, shape: tuple[int, ...]
) -> None:
    made = parts(name, shape)
    model = build(name, input_shape=shape, classes=4, width=0.25, hidden=(96, 80)).eval().double()
    inputs = torch.randn(16, *shape, dtype=torch.float64)

    def outputs(arm: Arm) -> torch.Tensor:
        model.load_state_dict(apply_mask(*start(arm, made)))
        with torch.no_grad():
            return model(inputs)

    lth = outputs(ARMS["lth"])
    oracle = dataclasses.replace(OTHERS[5], scrambled=0.0)
    assert torch.allclose(outputs(oracle), lth, rtol=1e-10, atol=1e-12)
    # As found, or by a scrambled π, the mask is another one on the copy.
    for other in (
        Arm("naive", "shuffled a", "as found", "sparse_a"),
        dataclasses.replace(oracle, scrambled=0.5),
    ):
        assert not torch.allclose(outputs(other), lth, rtol=1e-2)


def test_factors_by_hand() -> None:
    made = parts("mlp", (1, 8))
    pi, spec, mask = made.permutations["found"], made.spec, made.mask
    moved = permute(mask, spec, pi)
    for name, (weights, expected) in {
        "lth": ("a", mask),
        "permuted": ("b", moved),
        "naive": ("b", mask),
        "random": ("b", scatter(mask, torch.Generator().manual_seed(0))),
    }.items():
        found, kept = start(ARMS[name], made)
        assert found is made.weights[weights]
        assert all(torch.equal(kept[n], expected[n]) for n in mask)
    weights, kept = start(WITH_SIGNS, made)
    signs = permute(made.weights["a end"], spec, pi)
    for n, keep in moved.items():
        assert torch.equal(kept[n], keep)
        assert torch.equal(weights[n][keep].sign(), signs[n][keep].sign())
        assert torch.equal(weights[n].abs(), made.weights["b"][n].abs())
    # Half of each group's units are where π puts them.
    half = made.permutation(OTHERS[4])
    assert {g: int((half[g] == p).sum()) for g, p in pi.items()} == {
        g: len(p) - round(len(p) / 2) for g, p in pi.items()
    }


def test_an_arm_without_a_meaning_is_refused() -> None:
    for wrong, said in (
        ({"signs_moved": "permuted"}, "can't be permuted"),
        ({"mask": "as found", "scrambled": 0.5}, "nothing is permuted"),
        ({"scrambled": 1.5}, "expected 0 to 1"),
        ({"weights": "shuffled a", "signs": "own end"}, "has no end"),
    ):
        with pytest.raises(ParameterError, match=said):
            Arm(**{"name": "x", "weights": "b", "mask": "permuted", "stream": "sparse_b", **wrong})
    made = parts("mlp", (1, 8))
    with pytest.raises(ParameterError, match="unknown permutation 'weights'"):
        start(OTHERS[6], made)
    with pytest.raises(ParameterError, match="unknown network 'b end'"):
        start(OTHERS[1], dataclasses.replace(made, weights={"b": made.weights["b"]}))


def test_keys_name_what_is_in_the_registry_and_spell_out_the_rest() -> None:
    assert [ARMS[name].key for name in PAPER_ARMS] == list(PAPER_ARMS)
    assert WITH_SIGNS.key == {
        "weights": "b",
        "mask": "permuted",
        "stream": "sparse_b",
        "signs": "a end",
        "signs_moved": "permuted",
    }
    # A name is for readers; two arms that differ in a factor never share a key.
    assert dataclasses.replace(WITH_SIGNS, name="other").key == WITH_SIGNS.key
    keys = [str(arm.key) for arm in (*ARMS.values(), *OTHERS)]
    assert len(set(keys)) == len(keys)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline(Experiment.from_parameters(**GIVEN), Store(tmp_path_factory.mktemp("factors")))


def test_any_list_of_arms_is_one_stage(pipeline: Pipeline) -> None:
    arms = [*(ARMS[name] for name in (*PAPER_ARMS, "random")), *OTHERS]
    stage = train_arms(pipeline, "many", arms, 0.8, 1, keep_masks=True)
    assert stage.reads.keys() == {source.task.key for source in stage.inputs.values() if source}
    networks, masks = (unpack(stage.load(file)) for file in ("final", "mask"))
    assert len(networks) == len(masks) == 2 * len(arms)
    for weights, mask in zip(networks, masks, strict=True):
        assert not any(weights[name][~kept].any() for name, kept in mask.items())
    # The paper's arms are what their own stage trains.
    for i, weights in enumerate(unpack(pipeline.sparse(0.8, 1).load("final"))):
        for name, tensor in weights.items():
            torch.testing.assert_close(networks[i][name], tensor, rtol=1e-3, atol=1e-4)
    # The oracle's copy sees the same examples in the same order, so it ends where LTH does.
    by_arm = {arm.name: networks[2 * i : 2 * i + 2] for i, arm in enumerate(arms)}
    accuracies = stage.results["evaluations"]["2"]["accuracy"]
    at = [arm.name for arm in arms]
    for i in range(2):
        lth, oracle = (accuracies[2 * at.index(name) + i] for name in ("lth", "oracle"))
        assert abs(lth - oracle) <= 0.02
    assert by_arm["lth"][0].keys() == by_arm["oracle"][0].keys()


def test_members_share_the_first_replicates_ticket(pipeline: Pipeline) -> None:
    arms = [ARMS["lth"], ARMS["naive"], ARMS["permuted"], WITH_SIGNS]
    stage = train_arms(pipeline, "members", arms, 0.8, 1, keep_masks=True, one_ticket=True)
    masks = unpack(stage.load("mask"))
    first = pipeline.masks(0.8, 1)[0]
    assert all(torch.equal(masks[i][n], first[n]) for i in range(4) for n in first)
    _, (b0, b1) = pipeline.dense().weights()
    a0 = pipeline.dense().weights()[0][0]
    for i, b in enumerate((b0, b1)):
        moved = permute(first, pipeline.spec, pipeline.match_pair(a0, b))
        assert all(torch.equal(masks[4 + i][n], moved[n]) for n in first)
    assert stage.key != train_arms(pipeline, "members", arms, 0.8, 1).key


def test_permutations_by_name(pipeline: Pipeline) -> None:
    names = ["weights", "activations-64", "activations-300", "epoch-1", "other-seed"]
    stage = permutations(pipeline, names)
    assert stage.key == permutations(pipeline, [*reversed(names), "weights"]).key
    found = {name: unpack(stage.load(name)) for name in names}
    exact = pipeline.match()
    assert all(
        torch.equal(found["activations-300"][i][g], p) for i in (0, 1) for g, p in exact[i].items()
    )
    matrices = unpack(correlations(pipeline).load("b"))
    for i in (0, 1):
        score = {n: matched_correlation(matrices[i], p[i]) for n, p in found.items()}
        best = matched_correlation(matrices[i], exact[i])
        assert best == pytest.approx(sum(exact[i].scores.values()) / 2, abs=1e-6)
        # The assignment is exact: no other permutation matches units that are more alike.
        assert max(score.values()) <= best + 1e-9
        assert score["other-seed"] < best
        # Every unit of A is like itself, unless it is dead.
        of_a = unpack(correlations(pipeline).load("a"))[i]
        assert matched_correlation(of_a, pipeline.spec.identity()) > 0.7


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wieghts", "unknown permutation 'wieghts'. Did you mean 'weights'"),
        ("epoch-9", "epoch 9 isn't kept; kept are 0, 1, 2, 3"),
        ("activations-1", "expected 2 to 300 examples"),
        ("activations-301", "expected 2 to 300 examples"),
    ],
)
def test_a_permutation_that_there_isnt_is_refused(pipeline: Pipeline, name: str, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        permutations(pipeline, [name])


def test_another_seed_takes_two(tmp_path_factory: pytest.TempPathFactory) -> None:
    alone = Workbench(
        Experiment.from_parameters(**{**GIVEN, "seeds": [3]}), Store(tmp_path_factory.mktemp("one"))
    )
    with pytest.raises(ParameterError, match="there is one seed"):
        permutations(alone, ["other-seed"])
