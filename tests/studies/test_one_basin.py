"""Lines from dense A to its sparse solutions, the plane, and what a ticket learns again."""

import dataclasses
import json
import re

import numpy as np
import pandas as pd
import pytest

from lotperm.config.experiment import Experiment
from lotperm.errors import ParameterError
from lotperm.science.barrier import error_barriers
from lotperm.science.plane import Plane
from lotperm.store.tasks import Inputs, unpack
from lotperm.studies import registry
from lotperm.studies.arms.arms import PAPER_ARMS
from lotperm.studies.basin import tables
from lotperm.studies.basin.study import CORNERS, BasinOptions, plane
from lotperm.studies.lines import FEWER_STATISTICS, Lines
from lotperm.studies.origin import attached
from lotperm.studies.page import open_page
from lotperm.studies.relearning.study import NETWORKS, REFERENCES, relearning, relearning_table
from lotperm.studies.solutions import solutions, sources
from lotperm.studies.workbench import Workbench

K, S = 2, 0.8
BASIN = registry.study("basin")


@pytest.fixture(scope="module")
def options(smoke):
    return BasinOptions(points=3, grid=3, replicates=2).completed(smoke[0].experiment)


@pytest.fixture(scope="module")
def lines(smoke, options):
    return BASIN.table(smoke[0], options)


def ends(table, alpha, **where):
    """Accuracy at one end of each seed's line, nothing repaired."""
    chosen = table[(table["alpha"] == alpha) & (table["repair"] == "none")]
    for name, value in where.items():
        chosen = chosen[chosen[name] == value]
    return chosen.set_index("seed")["accuracy"].to_numpy()


def test_the_lines_of_imp_end_in_dense_a_and_in_each_rounds_network(smoke, lines):
    pipeline, results = smoke
    dense = results.values("dense_a", 0.0, None).to_numpy()[:2]
    rounds = pipeline.imp_rounds(S, K)
    own = lines[lines["network"] == "imp"]
    assert sorted(set(own["round"])) == list(range(1, len(rounds) + 1))
    for number, stage in enumerate(rounds, 1):
        evaluations = stage.results["evaluations"]
        last = evaluations[max(evaluations, key=int)]["accuracy"][:2]
        assert ends(own, 0.0, round=number) == pytest.approx(dense, abs=2e-3)
        assert ends(own, 1.0, round=number) == pytest.approx(last, abs=2e-3)
        assert set(own.loc[own["round"] == number, "sparsity"]) == {stage.settings["sparsity"]}


def test_the_sides_of_the_triangle_end_in_the_arms_whatever_their_order(smoke, lines):
    _, results = smoke
    sides = lines[lines["network"] != "imp"]
    assert set(sides["round"]) == {lines["round"].max()}
    for alpha, column in ((0.0, "reference"), (1.0, "network")):
        for name in ("lth", "permuted"):
            expected = results.values(name, S, K).to_numpy()[:2]
            # π⁻¹ moves units, and changes no prediction but for rounding.
            for other in set(sides.loc[sides[column] == name, "reference"]):
                if (column, other) != ("reference", "lth") or name == "lth":
                    where = {column: name, "reference": other}
                    assert ends(sides, alpha, **where) == pytest.approx(expected, abs=4e-3)


def test_without_being_brought_back_permuted_is_another_place(smoke):
    """In A's order it is nearer to A, by correlation of the weights, than in B's."""
    pipeline, _ = smoke
    found = solutions(pipeline, Inputs(sources(pipeline, S, K)))
    arms = unpack(pipeline.sparse(S, K).load("final"))
    first = PAPER_ARMS.index("permuted") * len(found)
    name = "features.3.weight"
    for i, weights in enumerate(found):
        a = weights["dense_a"][name].flatten()
        back, as_trained = weights["permuted"][name].flatten(), arms[first + i][name].flatten()
        assert np.corrcoef(a, back)[0, 1] > np.corrcoef(a, as_trained)[0, 1] + 0.05
        assert float(back.norm()) == pytest.approx(float(as_trained.norm()))


def test_the_plane_holds_the_three_networks(smoke, options):
    pipeline, results = smoke
    found = plane(pipeline, options).results
    assert len(found["plane"]) == 9 and tuple(found["corners"]) == CORNERS
    weights = solutions(pipeline, Inputs(sources(pipeline, S, K)))[0]
    through = Plane.through(*(weights[name] for name in CORNERS))
    evaluate = Lines(pipeline, FEWER_STATISTICS)
    expected = {"dense_a": results.values("dense_a", 0.0, None)[0]}
    expected |= {name: results.values(name, S, K)[0] for name in ("lth", "permuted")}
    for name, place in found["corners"].items():
        assert evaluate.at(through.at(*place)).accuracy == pytest.approx(expected[name], abs=4e-3)
    first = found["plane"][0]
    by_hand = 1 - evaluate.at(through.at(first["x"], first["y"])).accuracy
    assert first["error"] == pytest.approx(by_hand, abs=1e-6)


def test_an_error_barrier_is_the_largest_rise_above_the_straight_line():
    accuracy = {0.0: 0.9, 0.25: 0.5, 0.5: 0.6, 0.75: 0.75, 1.0: 0.7}
    rows = [{"alpha": a, "accuracy": x, "repair": "none", "seed": 0} for a, x in accuracy.items()]
    better = [
        {**row, "seed": 1, "accuracy": 0.5 + row["alpha"] * (1 - row["alpha"])} for row in rows
    ]
    found = error_barriers(pd.DataFrame(rows + better), ["seed"]).set_index("seed")["barrier"]
    assert found[0] == pytest.approx(0.85 - 0.5) and found[1] == 0


def test_largest_is_over_rounds_or_sides(lines):
    every = tables.barriers(lines)
    own = every[(every["network"] == "imp") & (every["repair"] == "repair")]
    assert tables.largest(lines, "rounds")["repair"].to_dict() == pytest.approx(
        own.groupby("seed")["barrier"].max().to_dict()
    )
    assert len(tables.edges(lines)) == 4


def test_the_record_has_lines_and_plane(smoke, options, lines, tmp_path):
    BASIN.record([smoke[0]], options, tmp_path / "one")
    content = json.loads((tmp_path / "one" / "results.json").read_text())
    assert content["kind"] == "basin" and set(content["files"]) == {"results.csv", "plane.csv"}
    places = pd.read_csv(tmp_path / "one" / "plane.csv")
    assert list(places["corner"].dropna()) == list(CORNERS)
    assert places["error"].notna().sum() == 9
    assert len(pd.read_csv(tmp_path / "one" / "results.csv")) == len(lines)
    assert {"own_line", "plane", "imp", "sparse"} <= {s["stage"] for s in content["stages"]}


def test_nearness_has_every_pair(smoke):
    pipeline, _ = smoke
    table = relearning_table(pipeline, S, K)
    pairs = {(n, r) for n in NETWORKS for r in REFERENCES if n != r}
    assert set(table[["network", "reference"]].itertuples(index=False, name=None)) == pairs
    assert len(table) == len(pairs) * len(pipeline.experiment.seeds)
    assert (table[["barrier_none", "barrier_repair"]] >= 0).all().all()
    assert ((table["js"] > 0) & (table["js"] < np.log(2))).all()


def test_nearness_of_lth_by_hand(smoke):
    pipeline, _ = smoke
    test, said = pipeline.data.test, {}
    inputs = (test.inputs - pipeline.data.mean) / pipeline.data.std
    for name, state in (
        ("imp", unpack(pipeline.imp_rounds(S, K)[-1].load("final"))[0]),
        ("lth", unpack(pipeline.sparse(S, K).load("final"))[0]),
    ):
        said[name] = pipeline.network(state).eval()(inputs).argmax(1)
    table = relearning_table(pipeline, S, K).set_index(["seed", "network", "reference"])
    assert table.loc[(0, "lth", "imp"), "disagreement"] == pytest.approx(
        float((said["imp"] != said["lth"]).float().mean()), abs=2e-3
    )


def test_a_ticket_is_nearer_to_pruned_a_than_what_starts_from_b(smoke):
    table = relearning_table(smoke[0], S, K)
    means = table[table["reference"] == "imp"].groupby("network")["disagreement"].mean()
    assert means["lth"] < means[["permuted", "naive", "dense_b"]].min()


def test_figures_of_two_pages_in_one_notebook_say_whose_numbers_they_show(lines):
    pages = [open_page(name, "smoke") for name in ("one_basin", "one_basin_mlp")]
    said = []
    for page in pages:
        page.table = lines
        (origin,) = attached(page.against_round())
        said.append(origin.of)
    assert "ResNet8" in said[0] and "MLP" in said[1]


def test_the_answer_is_judged_by_the_largest_barriers(lines):
    page = open_page("one_basin", "smoke")
    flat = lines.assign(accuracy=0.5)
    for table, words in (
        (flat, "agrees"),
        (flat.assign(accuracy=0.5 - 0.3 * (flat["alpha"] == 0.5)), "opposite"),
    ):
        page.table = table
        (own,) = re.findall(r"<li>(live, MNIST-1D[^\n]*?)</li>", page.answer("One basin?").data)
        assert own.count(f"verdict-{words}") == 2, own
    recorded_ones = re.findall(r"<li>recorded, (.*?)</li>", page.answer("One basin?").data)
    assert len(recorded_ones) == 2
    # As the text of the page says: the recorded ResNet8's permuted network lies elsewhere.
    assert "verdict-opposite" in next(
        x for x in recorded_ones if "MNIST-1D, ResNet8×0.5, laptop" in x
    )


def test_a_page_of_several_masks_is_refused():
    with pytest.raises(ParameterError, match="one sparsity and one rewind_epoch"):
        open_page("one_basin_mlp", "smoke", sparsity=[0.5, 0.8])
    with pytest.raises(ParameterError, match="points is 4"):
        open_page("one_basin", "smoke", points=4)
    with pytest.raises(ParameterError, match="grid is 1; expected 3 to 101"):
        open_page("one_basin", "smoke", grid=1)
    with pytest.raises(ParameterError, match="replicates is 0"):
        open_page("one_basin", "smoke", replicates=0)
    with pytest.raises(ParameterError, match="mask is 'magnitude'; expected imp"):
        open_page("one_basin", "smoke", mask="magnitude")


def test_without_a_network_of_the_mask_dense_a_alone_is_compared_with(smoke):
    pipeline, _ = smoke
    pruning = dataclasses.replace(pipeline.experiment.pruning, mask="magnitude")
    experiment = dataclasses.replace(pipeline.experiment, pruning=pruning)
    task = relearning(Workbench(experiment, pipeline.store), S, K)
    assert task.settings["pairs"] == [[n, "dense_a"] for n in NETWORKS if n != "imp"]
    assert task.inputs["imp"] is None


def test_the_paper_profile_is_the_papers_network():
    (e,) = Experiment.for_figure("one_basin", profile="paper")
    assert (e.model.name, e.model.width, e.data.name) == ("resnet20", 4.0, "cifar10")
    assert (e.sparsities, e.pruning.imp, e.pruning.fraction) == ((0.9,), "finetune", 0.2)
