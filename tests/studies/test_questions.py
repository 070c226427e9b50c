"""The further questions: early matching, diversity, connectivity; on the smoke experiment."""

import numpy as np
import pytest
import torch

from lotperm import Experiment
from lotperm.config.parameters import PARAMETERS
from lotperm.config.presets import FIGURES
from lotperm.errors import ParameterError
from lotperm.science.diversity import disagreement, ensemble_accuracy
from lotperm.science.symmetry import permute
from lotperm.studies.arms.arms import PAPER_ARMS

K, S = 2, 0.8


def test_matching_at_the_end_is_the_permuted_arm(smoke):
    pipeline, results = smoke
    table = pipeline.early_matching(S, K, [4, 12])
    assert set(table["matching_epoch"]) == {4, 12} and set(table["metric"]) == {
        "test_accuracy",
        "score",
    }
    last = table[(table["matching_epoch"] == 12) & (table["metric"] == "test_accuracy")].set_index(
        "seed"
    )["value"]
    # The same start, mask and order as the arm "permuted": equal but for rounding in another
    # grouping of members.
    assert (last - results.values("permuted", S, K)).abs().max() < 0.02
    scores = table[table["metric"] == "score"].pivot_table(
        index="seed", columns="matching_epoch", values="value"
    )
    assert (scores[12] > 0.1).all()
    final = [np.mean(list(m.scores.values())) for m in pipeline.match()]
    assert np.allclose(scores[12], final, atol=1e-6)


def test_a_matching_epoch_beyond_training_is_refused(smoke):
    with pytest.raises(ParameterError, match="expected 0 <= t <= 12"):
        smoke[0].early_matching(S, K, [13])


def test_diversity_has_the_papers_rows(smoke):
    pipeline, results = smoke
    table = pipeline.diversity(S, K).set_index("method")
    assert list(table.index) == ["dense", "imp", "lth", "permuted", "naive"]
    assert (table["members"] == 3).all()
    assert table.loc["dense", "mean"] == pytest.approx(
        results.values("dense_b", 0.0, None).mean(), abs=1e-3
    )
    assert table.loc["imp", "mean"] == pytest.approx(results.values("lth", S, K).mean(), abs=1e-3)
    # Members that differ in the order of the examples alone are the most alike.
    assert table["disagreement"].idxmin() == "lth"
    assert ((table["js"] > 0) & (table["js"] <= np.log(2)) & (table["kl"] > table["js"])).all()


def test_diversity_of_the_dense_networks_by_hand(smoke):
    pipeline, _ = smoke
    found = pipeline.diversity(S, K).set_index("method").loc["dense"]
    inputs = (pipeline.data.test.inputs - pipeline.data.mean) / pipeline.data.std
    probs = []
    for weights in pipeline.dense().weights()[1]:
        pipeline.model.load_state_dict(weights)
        with torch.no_grad():
            probs.append(pipeline.model.eval()(inputs).double().softmax(1).numpy())
    assert found["disagreement"] == pytest.approx(disagreement(np.stack(probs)), abs=1e-6)
    assert found["ensemble_accuracy"] == pytest.approx(
        ensemble_accuracy(np.stack(probs), pipeline.data.test.targets.numpy()), abs=1e-6
    )


def test_connectivity_has_the_right_ends(smoke):
    pipeline, results = smoke
    table = pipeline.connectivity([0.0, 0.5, 1.0], ["none"], replicates=2)
    assert set(table["seed"]) == {0, 1} and len(table) == 2 * 2 * 3
    at = table.set_index(["ends", "alpha", "seed"])["accuracy"].sort_index()
    for seed in (0, 1):
        assert at["as trained", 1.0, seed] == pytest.approx(
            results.values("dense_b", 0.0, None)[seed], abs=1e-3
        )
        for ends in ("as trained", "permuted"):  # π(A) computes what A does
            assert at[ends, 0.0, seed] == pytest.approx(
                results.values("dense_a", 0.0, None)[seed], abs=2e-3
            )
    assert at["permuted", 0.5].mean() > at["as trained", 0.5].mean()


def test_connectivity_of_a_pruned_network(smoke):
    pipeline, results = smoke
    table = pipeline.connectivity(
        [0.0, 1.0], ["none"], replicates=1, round_number=len(pipeline.imp_rounds(S, K))
    )
    at = table.set_index(["ends", "alpha"])["accuracy"]
    assert at["as trained", 0.0] == pytest.approx(results.values("imp", S, K)[0], abs=2e-3)
    mask = pipeline.masks(S, K)[0]
    moved = permute(mask, pipeline.spec, pipeline.match()[0])
    assert sum(int(m.sum()) for m in moved.values()) == sum(int(m.sum()) for m in mask.values())


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.parametrize("profile", ["smoke", "laptop", "desktop", "paper"])
def test_every_figure_has_experiments_at_every_profile(figure, profile):
    experiments = Experiment.for_figure(figure, profile=profile)
    assert experiments and all(e.profile == profile for e in experiments)
    assert profile != "laptop" or all(
        len(e.seeds) >= 5 and e.data.name in ("mnist1d", "picture_crops") for e in experiments
    )
    assert set(FIGURES[figure][profile]) <= {*PARAMETERS, "widths"}


def test_a_figure_takes_other_parameters():
    wide, narrow = Experiment.for_figure(
        "resnet20_cifar10", profile="laptop", widths=[2, 0.5], sparsity=0.97
    )
    assert (wide.model.width, narrow.model.width) == (2.0, 0.5)
    assert wide.sparsities == (0.97,) and len(PAPER_ARMS) == 3
    (other,) = Experiment.for_figure(
        "resnet20_cifar10", profile="laptop", dataset="cifar10", widths=1
    )
    assert (other.data.name, other.data.train_size, other.model.name) == (
        "cifar10",
        10_000,
        "resnet8",
    )
    with pytest.raises(ParameterError, match="Did you mean 'diversity'"):
        Experiment.for_figure("diversty")
