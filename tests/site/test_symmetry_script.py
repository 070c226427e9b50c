"""The script of the figure whose hidden units are reordered, run under Node and compared with
Python.
"""

import base64
import json
import math
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
import tools
import torch
from torch.func import functional_call

mpl.use("Agg")

from lotperm import PermutationSpec, magnitude_prune, permute
from lotperm.engine.models import MLP, initialize
from lotperm.science.sparsity import apply_mask, full_mask
from lotperm.site import concepts

SCRIPT = Path(__file__).parents[2] / "lotperm" / "site" / "js" / "symmetry.js"
LAYERS = ("features.1", "features.3", "classifier")
NAMES = [f"{layer}.weight" for layer in LAYERS]


def network():
    return MLP(2, [4, 5], 1).double()


@pytest.fixture(scope="module")
def weights():
    return initialize(network, 0)


@pytest.fixture(scope="module")
def spec():
    return PermutationSpec.trace(network(), torch.zeros(2, 2, dtype=torch.float64))


@pytest.fixture(scope="module")
def points():
    generator = torch.Generator().manual_seed(1)
    inputs = 2 * torch.rand(50, 2, generator=generator, dtype=torch.float64) - 1
    return inputs, (inputs.prod(1) > 0).int()


def as_layers(weights):
    return [
        {kind: weights[f"{name}.{kind}"].tolist() for kind in ("weight", "bias")} for name in LAYERS
    ]


@pytest.fixture(scope="module")
def run():
    """Run a body of JavaScript under Node: it sees `s` (the module) and `given`, and returns
    plain data.
    """

    def call(body, **given):
        program = f"""
            const s = require({json.dumps(str(SCRIPT))});
            const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
            process.stdout.write(JSON.stringify((() => {{ {body} }})()));
        """
        return tools.run_node(program, given=given)

    return call


def logits(weights, inputs):
    with torch.no_grad():
        return functional_call(network(), weights, inputs).squeeze(1)


def test_forward(run, weights, points):
    inputs, _ = points
    got = run(
        "return given.inputs.map((x) => s.forward(given.layers, x)[0]);",
        layers=as_layers(weights),
        inputs=inputs.tolist(),
    )
    np.testing.assert_allclose(got, logits(weights, inputs), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_arranging_is_permute(run, weights, spec, seed):
    pi = spec.random(torch.Generator().manual_seed(seed))
    order = [pi[group].tolist() for group in LAYERS[:2]]
    got = run(
        "return s.arrange(given.layers, {incoming: given.order, outgoing: given.order});",
        layers=as_layers(weights),
        order=order,
    )
    assert got == as_layers(permute(weights, spec, pi))


def test_swaps_are_transpositions(run, weights, spec):
    got = run(
        """const one = s.swap(s.start(given.layers), 1, 0, 3, false);
           const two = s.swap(one, 1, 3, 4, false);
           return {two, copy: s.isCopy(two), layers: s.arrange(given.layers, two)};""",
        layers=as_layers(weights),
    )
    p = torch.arange(5)
    p[[0, 3]] = p[[3, 0]]
    p[[3, 4]] = p[[4, 3]]
    assert got["two"] == {
        "incoming": [[0, 1, 2, 3], p.tolist()],
        "outgoing": [[0, 1, 2, 3], p.tolist()],
    }
    assert got["copy"]
    assert got["layers"] == as_layers(permute(weights, spec, {"features.3": p}))


def test_incoming_weights_alone_are_no_copy(run, weights, points):
    inputs, targets = points
    got = run(
        """const state = s.swap(s.start(given.layers), 0, 1, 2, true);
           return {layers: s.arrange(given.layers, state), ...s.measure(given, state, "none", 0.5)};""",
        layers=as_layers(weights),
        inputs=inputs.tolist(),
        targets=targets.tolist(),
    )
    broken = dict(weights)
    for kind in ("weight", "bias"):
        broken[f"features.1.{kind}"] = weights[f"features.1.{kind}"][[0, 2, 1, 3]]
    assert got["layers"] == as_layers(broken)
    assert not got["copy"]
    expected = (logits(broken, inputs) - logits(weights, inputs)).abs().max().item()
    assert expected > 1e-3
    assert got["difference"] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sparsity", [0.0, 0.25, 0.5, 0.83, 0.9])
def test_magnitude_mask_is_magnitude_prune(run, weights, sparsity):
    tied = {name: (8 * w).round() / 8 for name, w in weights.items()}  # many equal magnitudes
    for network_weights in (weights, tied):
        expected = magnitude_prune(network_weights, full_mask(network_weights, NAMES), sparsity)
        got = run(
            "return s.magnitudeMask(given.layers, given.sparsity);",
            layers=as_layers(network_weights),
            sparsity=sparsity,
        )
        assert got == [expected[name].tolist() for name in NAMES]


@pytest.mark.parametrize("masking", ["none", "stays", "moves"])
def test_all_that_is_read_out(run, weights, spec, points, masking):
    inputs, targets = points
    pi = spec.random(torch.Generator().manual_seed(5))
    order = [pi[group].tolist() for group in LAYERS[:2]]
    got = run(
        "return s.measure(given, {incoming: given.order, outgoing: given.order}, given.masking, 0.3);",
        layers=as_layers(weights),
        inputs=inputs.tolist(),
        targets=targets.tolist(),
        order=order,
        masking=masking,
    )
    mask = {} if masking == "none" else magnitude_prune(weights, full_mask(weights, NAMES), 0.3)
    moved = permute(weights, spec, pi)
    before = logits(apply_mask(weights, mask), inputs)
    after = logits(
        apply_mask(moved, permute(mask, spec, pi) if masking == "moves" else mask), inputs
    )
    assert got["difference"] == pytest.approx(
        (after - before).abs().max().item(), rel=1e-12, abs=1e-12
    )
    assert (got["difference"] < 1e-12) == (masking != "stays")
    squares = sum(((moved[name] - weights[name]) ** 2).sum() for name in weights)
    assert got["distance"] == pytest.approx(math.sqrt(squares), rel=1e-12)
    assert got["accuracy"] == ((after > 0).int() == targets).double().mean().item()
    assert got["originalAccuracy"] == ((before > 0).int() == targets).double().mean().item()
    assert got["copies"] == math.factorial(4) * math.factorial(5)
    assert got["copy"]


def test_units_in_the_last_place(run):
    values = [1.0, 0.75, 2.0**-30, 1 - 2.0**-53, 3.7e5, 5e-324, 2.0**-1022, 1.7e308]
    assert run("return given.values.map(s.ulp);", values=values) == [
        math.ulp(value) for value in values
    ]


def test_shuffling_gives_every_order(run, weights):
    got = run(
        """const random = s.generator(0), seen = {};
           for (let n = 0; n < 2400; n++) {
             const order = s.shuffle(s.start(given.layers), random, false).incoming[0].join("");
             seen[order] = (seen[order] || 0) + 1;
           }
           return seen;""",
        layers=as_layers(weights),
    )
    assert len(got) == 24
    assert min(got.values()) > 60
    assert max(got.values()) < 140


def test_the_figure_stands_without_scripts_and_network(run, weights, points):
    inputs, targets = points
    other = initialize(network, 1)
    figure = concepts.clickable_network(weights, other, inputs, targets, sparsity=0.5)
    html = figure["text/html"]
    assert "://" not in html
    assert html.count("</script>") == html.count("<script>") == 2
    assert base64.b64decode(figure["image/png"]).startswith(b"\x89PNG")
    assert (
        f'<noscript><img src="data:image/png;base64,{figure["image/png"]}" alt="A network' in html
    )
    data = json.loads(re.search(r"mount\(element, (.*)\);", html).group(1).replace("<\\/", "</"))
    assert data["layers"] == as_layers(weights)
    squares = sum(((other[name] - weights[name]) ** 2).sum() for name in weights)
    assert data["otherDistance"] == pytest.approx(math.sqrt(squares))
    # What the page runs is the file, slashes escaped, and it still computes.
    script = html.split("<script>")[1].split("</script>")[0]
    assert script.replace("<\\/", "</") == "\n" + SCRIPT.read_text(encoding="utf-8")
