"""The 2-neuron landscape: against autograd, against the package's own pruning and matching, and
its JS twin.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import tools
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lotperm import site
from lotperm.errors import ParameterError
from lotperm.science.matching import match_activations
from lotperm.science.sparsity import magnitude_prune
from lotperm.science.symmetry import PermutationSpec, permute
from lotperm.site import landscape
from lotperm.site.landscape import Scene
from lotperm.studies import charts

SCRIPT = Path(site.__file__).parent / "js" / "landscape.js"

values = st.one_of(st.sampled_from([0.0, -0.0, 1.0, -0.4]), st.floats(-3, 3, width=64))
pair = st.tuples(values, values)
scenes = st.builds(
    lambda teacher, init_a, init_b, learning_rate, steps, rewind: Scene(
        teacher, init_a, init_b, learning_rate, steps, min(rewind, steps)
    ),
    pair,
    pair,
    pair,
    st.floats(0.001, 1.99),
    st.integers(1, 60),
    st.integers(0, 60),
)


def quadrature() -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights that integrate x² over either half of N(0, 1) exactly: symmetric,
    without x = 0.
    """
    x, weights = np.polynomial.hermite_e.hermegauss(8)
    return torch.tensor(x), torch.tensor(weights / weights.sum())


def plain_loss(w: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    x, weights = quadrature()
    error = (torch.relu(w[:, None] * x) - torch.relu(teacher[:, None] * x)).sum(0)
    return (weights * error.square()).sum() / 2


@given(pair, pair)
@settings(deadline=None)
def test_loss_and_gradient_are_those_of_the_network(w, teacher):
    weights = torch.tensor(w, dtype=torch.float64, requires_grad=True)
    expected = plain_loss(weights, torch.tensor(teacher, dtype=torch.float64))
    expected.backward()
    np.testing.assert_allclose(landscape.loss(w, teacher), expected.item(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(
        landscape.gradient(w, teacher), weights.grad.numpy(), rtol=1e-12, atol=1e-13
    )


@given(pair, pair)
@settings(deadline=None)
def test_the_output_is_the_networks(w, teacher):
    x, weights = quadrature()
    outputs = landscape.output(w, x.numpy()), landscape.output(teacher, x.numpy())
    half_mse = (weights.numpy() * (outputs[0] - outputs[1]) ** 2).sum() / 2
    np.testing.assert_allclose(landscape.loss(w, teacher), half_mse, rtol=1e-12, atol=1e-13)


def test_a_weight_of_zero_has_no_gradient_and_stays():
    np.testing.assert_array_equal(landscape.gradient((0.0, -0.0), (2.0, -0.4)), [0.0, 0.0])
    path = landscape.descend((0.0, 0.5), (True, True), (2.0, -0.4), 0.1, 50)
    assert (path[:, 0] == 0).all() and path[-1, 1] > 1.5


@given(pair, pair)
@settings(deadline=None)
def test_swapping_the_neurons_changes_nothing(w, teacher):
    assert landscape.loss(w, teacher) == landscape.loss(w[::-1], teacher)
    x = np.linspace(-2, 2, 9)
    np.testing.assert_array_equal(landscape.output(w, x), landscape.output(w[::-1], x))
    np.testing.assert_array_equal(
        landscape.gradient(w, teacher)[::-1], landscape.gradient(w[::-1], teacher)
    )


@given(arrays(np.float64, (3, 4, 2), elements=values), pair)
@settings(deadline=None)
def test_many_weights_at_once_are_one_by_one(w, teacher):
    assert landscape.loss(w, teacher).shape == (3, 4)
    assert landscape.output(w, np.zeros(5)).shape == (3, 4, 5)
    for index in np.ndindex(3, 4):
        assert landscape.loss(w, teacher)[index] == landscape.loss(w[index], teacher)
        np.testing.assert_array_equal(
            landscape.gradient(w, teacher)[index], landscape.gradient(w[index], teacher)
        )
        np.testing.assert_array_equal(landscape.prune(w)[index], landscape.prune(w[index]))
        np.testing.assert_array_equal(
            landscape.match(w, w[::-1])[index], landscape.match(w[index], w[::-1][index])
        )


@given(scenes)
@settings(max_examples=25, deadline=None)
def test_descent_is_sgd_on_the_network(scene):
    w = torch.tensor(scene.init_a, dtype=torch.float64, requires_grad=True)
    path = landscape.descend(
        scene.init_a, (True, True), scene.teacher, scene.learning_rate, min(scene.steps, 10)
    )
    for expected in path[1:]:
        (slope,) = torch.autograd.grad(
            plain_loss(w, torch.tensor(scene.teacher, dtype=torch.float64)), w
        )
        w = (w - scene.learning_rate * slope).detach().requires_grad_()
        if (np.abs(expected) < 1e-9).any():  # beside a kink rounding decides on which side to go on
            return
        np.testing.assert_allclose(expected, w.detach().numpy(), rtol=1e-9, atol=1e-12)


@given(pair)
@settings(deadline=None)
def test_pruning_is_the_packages_magnitude_pruning(w):
    weights = {"w": torch.tensor(w, dtype=torch.float64)}
    mask = magnitude_prune(weights, {"w": torch.ones(2, dtype=torch.bool)}, 0.5)["w"]
    np.testing.assert_array_equal(landscape.prune(w), mask.numpy())


def network(w) -> torch.nn.Module:
    model = torch.nn.Sequential(
        torch.nn.Linear(1, 2, bias=False), torch.nn.ReLU(), torch.nn.Linear(2, 1, bias=False)
    ).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor(w, dtype=torch.float64)[:, None])
        model[2].weight.fill_(1.0)
    return model


@pytest.mark.parametrize("a", [(2.0, -0.4), (-0.4, 2.0)])
@pytest.mark.parametrize("b", [(1.5, -0.7), (-0.3, 2.2)])
def test_matching_is_the_packages_activation_matching(a, b):
    spec = PermutationSpec.trace(network(a), torch.randn(2, 1, dtype=torch.float64))
    x = torch.randn(500, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matched = match_activations(network(a), network(b), [x], spec)
    (permutation,) = matched.values()
    np.testing.assert_array_equal(landscape.match(a, b), permutation.numpy())
    mask = {"0.weight": torch.tensor(landscape.prune(a))[:, None]}
    moved = permute(mask, spec, matched)["0.weight"].squeeze(1).numpy()
    np.testing.assert_array_equal(landscape.prune(a)[landscape.match(a, b)], moved)


@given(pair, pair)
@settings(deadline=None)
def test_matching_minimizes_the_distance_of_activations(a, b):
    x, weights = (t.numpy() for t in quadrature())

    def distance(order):
        units_a = np.maximum(np.array(a)[list(order), None] * x, 0)
        return (weights * (np.maximum(np.array(b)[:, None] * x, 0) - units_a) ** 2).sum()

    found = distance(landscape.match(a, b))
    assert found <= min(distance((0, 1)), distance((1, 0))) + 1e-12


@given(pair)
@settings(deadline=None)
def test_equals_keep_the_first_weight_and_the_order(w):
    np.testing.assert_array_equal(landscape.prune((w[0], -w[0])), [True, False])
    np.testing.assert_array_equal(landscape.match((w[0], w[0]), w), [0, 1])


@given(scenes)
@settings(max_examples=25, deadline=None)
def test_masked_weights_stay_zero_and_the_mask_has_one_weight(scene):
    result = landscape.simulate(scene)
    assert result.mask.sum() == result.permuted_mask.sum() == 1
    for arm, mask in (
        ("lth", result.mask),
        ("naive", result.mask),
        ("permuted", result.permuted_mask),
    ):
        path = result.paths[arm]
        assert path.shape == (scene.steps + 1, 2) and path.dtype == np.float64
        assert not path[:, ~mask].any() and not np.signbit(path[:, ~mask]).any()
        dense = result.paths["dense_a" if arm == "lth" else "dense_b"]
        np.testing.assert_array_equal(path[0], np.where(mask, dense[scene.rewind], 0.0))
    np.testing.assert_array_equal(
        result.pruned, np.where(result.mask, result.paths["dense_a"][-1], 0.0)
    )


@given(scenes)
@settings(max_examples=25, deadline=None)
def test_a_mirrored_b_does_what_a_does(scene):
    """If B starts at A's mirror image the permuted arm is the mirror image of LTH: what the
    method relies on.
    """
    mirrored = landscape.simulate(Scene(**{**asdict(scene), "init_b": scene.init_a[::-1]}))
    np.testing.assert_array_equal(mirrored.paths["dense_b"], mirrored.paths["dense_a"][:, ::-1])
    first, second = np.abs(mirrored.paths["dense_a"][-1])
    if first != second and mirrored.permutation[0] == 1:
        np.testing.assert_array_equal(mirrored.paths["permuted"], mirrored.paths["lth"][:, ::-1])


def test_the_default_scene_is_the_story_of_figure_3():
    result = landscape.simulate(Scene())
    final = result.final_losses()
    assert final["dense_a"] < 2e-6 and final["dense_b"] < 2e-6
    for name, expected in (("pruned", 0.04), ("lth", 0.04), ("permuted", 0.04), ("naive", 1.0)):
        assert final[name] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_array_equal(result.permutation, [1, 0])
    assert {run for preset in landscape.PRESETS.values() for run in preset.shows} == set(
        landscape.RUNS
    )
    assert {name: values[-1] for name, values in result.losses().items()} == {
        name: final[name] for name in landscape.RUNS
    }


def test_a_valley_joins_the_minima():
    """The caveat of the page: no barrier, only a bend."""
    scene = Scene()
    ends = {name: path[-1] for name, path in landscape.simulate(scene).paths.items()}
    straight = landscape.loss_along([ends["dense_a"], ends["dense_b"]], scene.teacher)
    bent = landscape.loss_along(
        [ends[n] for n in ("dense_a", "lth", "permuted", "dense_b")], scene.teacher
    )
    assert straight.max() == pytest.approx(0.0806, abs=1e-3)
    assert bent.max() == pytest.approx(0.04, abs=1e-4)
    assert len(bent) == 3 * len(straight)


def test_outcomes_from_random_initializations():
    table = landscape.outcomes(Scene(), 400, seed=1)
    assert table["share"].sum() == pytest.approx(1)
    assert table.loc["in mirrored minima", "naive"] > 0.9
    assert table.loc["in the same minimum", "naive"] == table.loc["in the same minimum", "permuted"]
    late = landscape.outcomes(Scene(rewind=40), 400, seed=1)
    assert (
        late.loc["in mirrored minima", "permuted"] < table.loc["in mirrored minima", "permuted"] / 2
    )
    assert late.loc["in mirrored minima", "lth"] < table.loc["in mirrored minima", "lth"] / 2
    assert table.equals(landscape.outcomes(Scene(), 400, seed=1))
    with pytest.raises(ParameterError, match="pairs is 0"):
        landscape.outcomes(Scene(), 0)


def test_what_the_solutions_of_the_exercises_say():
    for init_b, expected in (
        ((0.1, -2.0), 0.04),
        ((2.9, 2.0), 0.04),
        ((-0.1, 2.0), 1.0),
        ((-2.0, -1.0), 1.0),
    ):
        final = landscape.simulate(Scene(init_b=init_b)).final_losses()
        assert final["naive"] == pytest.approx(expected, abs=1e-4)
    for rewind, expected in ((0, 1.0), (5, 1.0), (8, 0.04), (40, 0.04)):
        final = landscape.simulate(Scene(init_a=(-0.3, -1.2), rewind=rewind)).final_losses()
        assert final["dense_a"] < 1e-5
        assert final["lth"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"teacher": (1.0,)}, "teacher"),
        ({"init_a": (1.0, float("nan"))}, "init_a"),
        ({"init_b": (1.0, 2.0, 3.0)}, "init_b"),
        ({"learning_rate": 2.0}, "learning_rate is 2.0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"steps": 0}, "steps is 0"),
        ({"rewind": 131}, "rewind is 131"),
        ({"rewind": -1}, "rewind is -1"),
    ],
)
def test_a_wrong_value_is_told(values, message):
    with pytest.raises(ParameterError, match=message):
        Scene(**values)


def test_a_scene_takes_lists_as_notebooks_give_them():
    assert Scene(teacher=[2, -0.4], init_a=[0, 1], init_b=[1, 0]).init_a == (0.0, 1.0)


def test_figure_3_has_its_panels_and_paths():
    figure = landscape.figure3(Scene(), charts.METHODS)
    for ax, (name, preset) in zip(figure.axes, landscape.PRESETS.items(), strict=True):
        assert ax.get_title() == f"({name}) {preset.title}"
        ends = [tuple(line.get_xydata()[-1]) for line in ax.lines]
        for run in preset.shows:
            assert tuple(landscape.simulate(Scene()).paths[run][-1]) in ends
    charts.plt.close(figure)
    figure = landscape.curves(Scene(), charts.METHODS)
    assert len(figure.axes[0].lines) == len(landscape.RUNS)
    charts.plt.close(figure)


def test_the_surface_that_is_drawn_holds_the_whole_scene():
    assert landscape.extent(Scene()) == 3
    assert landscape.extent(Scene(init_a=(-7.2, 0.0))) == 8
    # Slopes of one sign can come from one neuron: its weight is then 4, past either slope.
    alike = Scene(teacher=(2.0, 2.0))
    ends = [path[-1] for path in landscape.simulate(alike).paths.values()]
    assert 3 < max(abs(w).max() for w in ends) < landscape.extent(alike) == 5


RUNNER = """
const l = require(process.argv[1]);
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"));
const answers = cases.map((scene) => ({
  ...l.simulate(scene), loss: l.loss(scene.init_a, scene.teacher), gradient: l.gradient(scene.init_a, scene.teacher),
  losses: l.simulate(scene).paths.dense_a.map((w) => l.loss(w, scene.teacher)),
  output: [-1.5, 0, 0.3].map((x) => l.output(scene.init_b, x)),
}));
process.stdout.write(JSON.stringify(answers));
"""


def in_node(cases: list[Scene]) -> list[dict]:
    return tools.run_node(RUNNER, str(SCRIPT), given=[asdict(scene) for scene in cases])


def assert_twins(scene: Scene, answer: dict) -> None:
    result = landscape.simulate(scene)
    close = {"rtol": 1e-12, "atol": 1e-300}  # the same operations in the same order
    np.testing.assert_allclose(answer["loss"], landscape.loss(scene.init_a, scene.teacher), **close)
    np.testing.assert_allclose(
        answer["gradient"], landscape.gradient(scene.init_a, scene.teacher), **close
    )
    np.testing.assert_allclose(answer["losses"], result.losses()["dense_a"], **close)
    np.testing.assert_allclose(
        answer["output"], landscape.output(scene.init_b, [-1.5, 0, 0.3]), **close
    )
    assert set(answer["paths"]) == set(result.paths) == set(landscape.RUNS)
    for name, path in result.paths.items():
        np.testing.assert_allclose(answer["paths"][name], path, **close)
    for name in ("mask", "permutation", "permuted_mask"):
        np.testing.assert_array_equal(answer[name], getattr(result, name))
    np.testing.assert_allclose(answer["pruned"], result.pruned, **close)


@given(cases=st.lists(scenes, min_size=5, max_size=30))
@settings(max_examples=12, deadline=None)
def test_the_script_agrees_with_python(cases):
    for scene, answer in zip(cases, in_node(cases), strict=True):
        assert_twins(scene, answer)


def test_the_script_agrees_on_a_grid_of_starts_and_long_runs():
    side = np.linspace(-2.5, 2.5, 6)
    cases = [Scene(init_a=(x, y), init_b=(y, -x), steps=300) for x in side for y in side]
    cases += [Scene(), Scene(teacher=(1.0, 1.5), learning_rate=1.5, rewind=20)]
    cases += [
        Scene(init_a=(0.0, 0.5), init_b=(-0.5, 0.0)),
        Scene(init_a=(1.0, -1.0), init_b=(0.0, -0.0)),
    ]
    for scene, answer in zip(cases, in_node(cases), strict=True):
        assert_twins(scene, answer)


def test_the_figure_is_one_piece_of_html_with_a_picture_to_fall_back_on():
    bundle = landscape.interactive(Scene(), charts.METHODS, element="one")
    html = bundle["text/html"]
    assert html.count("</script>") == 1 and html.rstrip().endswith("</script>")
    assert "://" not in html
    assert 'id="one"' in html and 'getElementById("one")' in html
    assert bundle["image/png"].startswith(b"\x89PNG")
    assert "naive 1.000" in bundle["text/plain"]


def test_words_that_look_like_the_end_of_a_script_stay_inside():
    methods = {name: ("</script><b>", colour) for name, (_, colour) in charts.METHODS.items()}
    assert landscape.interactive(Scene(), methods)["text/html"].count("</script>") == 1
