"""Units observed before their nonlinearity, against hooks of the network itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lotperm.engine.models import build
from lotperm.science.matching import match_activations
from lotperm.science.preactivations import before_nonlinearities
from lotperm.science.symmetry import PermutationSpec, permute

SHAPE = (1, 40)


def made(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    network = build(name, input_shape=SHAPE, classes=10, width=0.25, hidden=(8, 6))
    # Fresh batch norms would be nearly the identity.
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network.eval()


@pytest.mark.parametrize("name", ["mlp", "resnet8"])
def test_a_relu_of_what_is_observed_is_what_was_observed(name: str) -> None:
    network, inputs = made(name, 0), torch.randn(5, *SHAPE)
    spec = PermutationSpec.trace(network, inputs)
    before = before_nonlinearities(spec)
    assert before.sizes == spec.sizes and before.points.keys() == spec.points.keys()
    for place in (0, -1):
        points, earlier = (
            {group: nodes[place] for group, nodes in s.points.items()} for s in (spec, before)
        )
        state = network.state_dict()
        behind, found = (
            spec.activations(state, inputs, points),
            before.activations(state, inputs, earlier),
        )
        for group, values in found.items():
            assert torch.equal(values.relu(), behind[group])
            assert (values < 0).any()


def test_a_permuted_copy_is_found_also_where_relus_are_silent() -> None:
    """A unit that is 0 on all examples is dead behind its ReLU, and like any other before it."""
    network, inputs = made("mlp", 1), torch.randn(200, *SHAPE)
    with torch.no_grad():
        next(m for m in network.modules() if isinstance(m, nn.Linear)).bias.fill_(-100)
    spec = PermutationSpec.trace(network, inputs)
    known = spec.random(torch.Generator().manual_seed(0))
    copy = permute(network.state_dict(), spec, known)
    group = next(iter(spec.sizes))
    found, behind = (
        match_activations(network, copy, inputs, s) for s in (before_nonlinearities(spec), spec)
    )
    assert torch.equal(found[group], known[group])
    assert behind.scores[group] == 0 and found.scores[group] == pytest.approx(1)
