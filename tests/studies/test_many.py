"""A mask for many: its members, its ensembles, and what they cost."""

from __future__ import annotations

import inspect
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from little import little

mpl.use("Agg")

import matplotlib.pyplot as plt

from lotperm import Experiment, Pipeline
from lotperm.cluster.plan import Estimator
from lotperm.engine.counts import network
from lotperm.errors import ParameterError
from lotperm.science.diversity import disagreement, ensemble_accuracy
from lotperm.science.evaluation import probabilities
from lotperm.science.symmetry import permute
from lotperm.store.tasks import chain, unpack
from lotperm.studies.many import charts
from lotperm.studies.many.measures import MEASURES, at_price
from lotperm.studies.many.methods import METHODS, own, shared, works
from lotperm.studies.many.study import STUDY, ManyOptions, chosen_of
from lotperm.studies.predictions import load_predictions, verdicts
from lotperm.studies.stages import dense, imp_rounds, match, ticket_masks

CELL = (0.8, 1)
OPTIONS = ManyOptions(ensemble_size=3)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return little(tmp_path_factory.mktemp("many"), seeds=[3, 5, 7, 8, 9, 11])


@pytest.fixture(scope="module")
def table(pipeline: Pipeline) -> pd.DataFrame:
    return STUDY.table(pipeline, OPTIONS)


def test_every_ticket_has_ensembles_of_every_size(table: pd.DataFrame) -> None:
    assert set(table["ticket"]) == {3, 8}
    assert not table[list(STUDY.columns)].duplicated().any()
    assert len(table) == 2 * len(METHODS) * 3


def test_members_share_the_ticket_of_their_group(pipeline: Pipeline) -> None:
    """The masks that B trains under are the first A's, moved by permutations of this A."""
    (_, group) = STUDY.groups(pipeline, OPTIONS)
    mask = ticket_masks(group, *CELL)[0]
    stage = shared(group, *CELL)
    files = stage.inputs["permutations"].files
    assert files == ("first-ticket", "first-ticket-epoch-1")
    final = unpack(stage.load("final"))
    permutations = stage.inputs["permutations"].task
    for place, file in ((2, files[0]), (3, files[1])):
        for i, permutation in enumerate(unpack(permutations.load(file))):
            moved = permute(mask, group.spec, permutation)
            weights = final[3 * place + i]
            assert all(not weights[name][~keep].any() for name, keep in moved.items())
    # By this A, not by each replicate's own.
    expected = group.match_pair(
        *(states[i] for states, i in zip(dense(group).weights(), (0, 2), strict=True))
    )
    found = unpack(permutations.load(files[0]))[2]
    assert all(torch.equal(found[g], p) for g, p in expected.items())
    other = unpack(match(group).load("permutation"))[2]
    assert any(not torch.equal(found[g], p) for g, p in other.items())


def test_ensembles_by_hand(pipeline: Pipeline, table: pd.DataFrame) -> None:
    (group, _) = STUDY.groups(pipeline, OPTIONS)
    test = group.data.test
    probs = np.stack(
        [
            probabilities(group.network(weights), group.batches(test).inputs())
            for weights in unpack(own(group, *CELL).load("final"))
        ]
    )
    rows = table[(table["ticket"] == 3) & (table["method"] == "own tickets")].set_index("members")
    targets = test.targets.numpy()
    pairs = [ensemble_accuracy(probs[[i, j]], targets) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert rows.loc[2, "accuracy"] == pytest.approx(np.mean(pairs))
    assert rows.loc[3, "accuracy"] == pytest.approx(ensemble_accuracy(probs, targets))
    assert rows.loc[1, "accuracy"] == pytest.approx((probs.argmax(2) == targets).mean())
    assert rows.loc[3, "disagreement"] == pytest.approx(disagreement(probs))


def test_costs_are_those_of_the_plan(pipeline: Pipeline, table: pd.DataFrame) -> None:
    """Own tickets need A, its rounds and its arm: what a plan says without the networks B."""
    (group, _) = STUDY.groups(pipeline, OPTIONS)
    line = Estimator("cpu", []).line
    a = line(dense(group).stage).flops / 2
    rounds = [line(task).flops for task in imp_rounds(group, *CELL)]
    arms = line(own(group, *CELL)).flops
    rows = table[table["ticket"] == 3].set_index(["method", "members"])
    assert rows.loc[("own tickets", 3), "flops"] == pytest.approx(a + sum(rounds) + arms, rel=1e-6)
    assert rows.loc[("dense", 3), "flops"] == pytest.approx(a, rel=1e-6)
    # A chain without the networks that nobody needs: the plan of the rounds has all but B's half.
    planned = Estimator("cpu", []).total(chain([imp_rounds(group, *CELL)[-1]])).flops - a
    assert rows.loc[("own, as pruned", 3), "flops"] == pytest.approx(planned, rel=1e-6)


def test_costs_follow_from_epochs(pipeline: Pipeline) -> None:
    """Of 4 epochs, k = 1 and three rounds of 1: in epochs, if evaluations are left out."""
    (group, _) = STUDY.groups(pipeline, OPTIONS)
    count = {
        name: tuple(w.train_images / 512 for w in parts)
        for name, parts in works(group, *CELL).items()
    }
    rounds = len(imp_rounds(group, *CELL))
    assert count == {
        "dense": (0, 4),
        "own tickets": (0, 4 + rounds + 3),
        "own, as pruned": (0, 4 + rounds),
        "lth": (4 + rounds, 3),
        "naive": (4 + rounds, 1 + 3),
        "permuted": (4 + rounds, 4 + 3),
        "permuted at k": (4 + rounds, 1 + 3),
        "signs": (4 + rounds, 4),
    }


def test_sparse_members_keep_what_their_masks_keep(pipeline: Pipeline, table: pd.DataFrame) -> None:
    e = pipeline.experiment
    whole = network(e.model, e.data).prunable
    rows = table[table["members"] == 3].groupby("method")["weights"].unique()
    assert rows.pop("dense").tolist() == [3 * whole]
    assert {tuple(kept) for kept in rows} == {(3 * round(0.2 * whole),)}


def made_up(**accuracies: float) -> pd.DataFrame:
    """Two tickets whose ensembles of two members have known accuracies; single ones are 10 points below."""
    known = (
        dict.fromkeys(METHODS, 0.6) | {"lth": 0.55, "naive": 0.4, "own tickets": 0.65} | accuracies
    )
    price = {"own tickets": 5.0, "own, as pruned": 4.0, "dense": 1.0}
    return pd.DataFrame(
        [
            {
                "sparsity": 0.8,
                "rewind_epoch": 8,
                "ticket": ticket,
                "method": method,
                "members": size,
                "accuracy": accuracy + ticket / 1000 - 0.1 * (size == 1),
                "disagreement": 0.3 + ticket / 1000,
                "flops": size * price.get(method, 2.0) + (0 if method in price else 4.0),
            }
            for ticket in (0, 1)
            for method, accuracy in known.items()
            for size in (1, 2)
        ]
    )


def test_a_price_buys_what_it_can() -> None:
    rows = made_up()
    # Two permuted members cost 8: a single ticket of one's own, or both dense networks.
    assert at_price(rows, "own tickets", "permuted").to_list() == pytest.approx([0.55, 0.551])
    assert at_price(rows, "dense", "permuted").to_list() == pytest.approx([0.6, 0.601])
    assert at_price(rows, "own tickets", "dense").isna().all()


def test_predictions_are_judged_by_the_numbers() -> None:
    folder = Path(inspect.getfile(type(STUDY))).parent
    predictions = load_predictions(folder, MEASURES)
    rows = made_up(signs=0.5, dense=0.7)
    found = verdicts(predictions, MEASURES, {"here": rows})["verdict"]
    assert set(found) == {"agrees"} and len(found) == 8
    worse = made_up(permuted=0.3)
    found = verdicts(predictions, MEASURES, {"here": worse})["verdict"]
    by_number = {words.split(":")[0]: verdict for words, verdict in found.items()}
    assert by_number["N 1"] == by_number["N 2"] == "opposite"


def test_choices_of_members_are_few_and_differ() -> None:
    assert chosen_of(3, 2) == [(0, 1), (0, 2), (1, 2)]
    many = chosen_of(20, 10)
    assert len(many) == 100 and all(len(set(chosen)) == 10 for chosen in many)
    assert many == chosen_of(20, 10)


@pytest.mark.parametrize(
    ("seeds", "members", "said"),
    [([3], 6, "two seeds or more"), ([3, 5, 7], 2, "3 seeds don't make groups of 2")],
)
def test_seeds_must_make_groups(seeds: list[int], members: int, said: str) -> None:
    experiment = Experiment.from_parameters(profile="smoke", seeds=seeds)
    with pytest.raises(ParameterError, match=said):
        ManyOptions(members).completed(experiment)


def test_options_are_checked() -> None:
    with pytest.raises(ParameterError, match="ensemble_size is 1"):
        ManyOptions.parse({"ensemble_size": 1})
    experiment = Experiment.from_parameters(profile="smoke", mask="snip")
    with pytest.raises(ParameterError, match="mask"):
        ManyOptions().completed(experiment)


def test_the_figure_shows_its_numbers(table: pd.DataFrame) -> None:
    figure = charts.against_cost(table, title="Title")
    lines = {
        line.get_label().partition(":")[0]: line
        for line in figure.axes[0].lines
        if not line.get_label().startswith("_")
    }
    assert set(lines) == set(METHODS)
    rows = (
        table[table["method"] == "signs"].groupby("members")[["dense_trainings", "accuracy"]].mean()
    )
    assert lines["signs"].get_xdata() == pytest.approx(rows["dense_trainings"])
    assert lines["signs"].get_ydata() == pytest.approx(100 * rows["accuracy"])
    said = " ".join(charts.curves_of(table))
    assert f"signs: 1 member {100 * rows['accuracy'].iloc[0]:.1f} %" in said
    plt.close("all")
