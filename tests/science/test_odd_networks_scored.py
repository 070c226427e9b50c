"""Scores of weights in networks with norms, tied and computed weights, embeddings and softmax."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from lotperm.engine.models import build
from lotperm.errors import ParameterError, UnsupportedModelError
from lotperm.science.ranking import collapsed
from lotperm.science.saliency import grasp_scores, snip_scores, synflow_mask, synflow_scores
from lotperm.science.sparsity import prunable_parameters


@pytest.fixture(autouse=True)
def _same_numbers():
    torch.manual_seed(0)


def scattered(norm):
    """Give a norm statistics and parameters as training leaves them, of either sign."""
    with torch.no_grad():
        if norm.running_mean is not None:
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        for parameter in norm.parameters():
            parameter.normal_()
    return norm


@pytest.mark.parametrize("affine", [True, False])
def test_synflow_takes_batch_norm_as_if_it_were_folded(affine):
    convs = [nn.Conv1d(2, 6, 3, bias=False), nn.Conv1d(6, 5, 3, bias=False)]
    norms = [scattered(nn.BatchNorm1d(c, affine=affine)) for c in (6, 5)]
    head = [nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(5, 3)]
    model = nn.Sequential(convs[0], norms[0], nn.ReLU(), convs[1], norms[1], nn.ReLU(), *head)
    folded = nn.Sequential(
        nn.Conv1d(2, 6, 3), nn.ReLU(), nn.Conv1d(6, 5, 3), nn.ReLU(), *copy.deepcopy(head)
    )
    with torch.no_grad():
        for conv, norm, whole in zip(convs, norms, (folded[0], folded[2]), strict=True):
            gamma, beta = (norm.weight, norm.bias) if affine else (torch.ones(()), torch.zeros(()))
            scale = gamma * (norm.running_var + norm.eps).rsqrt()
            whole.weight.copy_(conv.weight * scale[:, None, None])
            whole.bias.copy_(beta - norm.running_mean * scale)
    x = torch.randn(4, 2, 12)
    torch.testing.assert_close(model.eval()(x), folded(x), rtol=1e-4, atol=1e-5)
    before = copy.deepcopy(model.state_dict())
    names, places = ("0.weight", "3.weight", "8.weight"), ("0.weight", "2.weight", "6.weight")
    scores = synflow_scores(model, (2, 12), names)
    expected = synflow_scores(folded, (2, 12), places)
    for name, place in zip(names, places, strict=True):
        torch.testing.assert_close(scores[name], expected[place], rtol=1e-5, atol=0)
        assert (scores[name] > 0).all()
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


NORMS = {
    "layer": lambda: nn.LayerNorm(24),
    "group": lambda: nn.GroupNorm(4, 24),
    "rms": lambda: nn.RMSNorm(24),
    "batch's own": lambda: nn.BatchNorm1d(24, track_running_stats=False),
    "not affine": lambda: nn.LayerNorm(24, elementwise_affine=False),
}


@pytest.mark.parametrize("kind", NORMS)
def test_synflow_flows_through_norms_of_their_own_statistics(kind):
    model = nn.Sequential(
        nn.Linear(6, 24, False),
        NORMS[kind](),
        nn.ReLU(),
        nn.Linear(24, 24, False),
        NORMS[kind](),
        nn.ReLU(),
        nn.Linear(24, 3, False),
    )
    names = prunable_parameters(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = synflow_scores(model, (6,), names)
        mask = synflow_mask(model, (6,), names, 0.95)
    first, second, last = scores.values()
    # What flows into a unit flows out of it.
    torch.testing.assert_close(first.sum(1), second.sum(0))
    torch.testing.assert_close(second.sum(1), last.sum(0))
    assert all((score > 0).all() for score in scores.values())
    assert collapsed(mask) == []


def test_group_and_instance_norm_of_images_scale_channels():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        scattered(nn.InstanceNorm2d(4, affine=True)),
        nn.ReLU(),
        nn.Conv2d(4, 4, 1, bias=False),
        nn.GroupNorm(2, 4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    scores = synflow_scores(model, (2, 8, 8), ["0.weight", "3.weight"])
    # Each channel by its own factor: with that of a channel at zero, nothing flows there.
    with torch.no_grad():
        model[1].weight[2] = 0
    without = synflow_scores(model, (2, 8, 8), ["0.weight", "3.weight"])
    assert not without["0.weight"][2].any()
    torch.testing.assert_close(without["0.weight"][[0, 1, 3]], scores["0.weight"][[0, 1, 3]])


def test_synflow_of_a_transformer_says_what_softmax_weakens():
    model = build("vit_tiny", input_shape=(1, 40), classes=3, width=0.25)
    names = prunable_parameters(model)
    with pytest.warns(
        UserWarning, match=r"SynFlow's scores of .*attention\.key\.weight are partly neg"
    ):
        scores = synflow_scores(model, (1, 40), names)
    rest = [name for name in names if ".key." not in name and ".query." not in name]
    assert rest
    assert all((scores[name] > 0).all() for name in rest)


def test_synflow_refuses_networks_that_ones_cannot_pass():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(UnsupportedModelError, match=r"passes ones of shape \(3,\).*SNIP and GraSP"):
        synflow_scores(model, (3,), ["2.weight"])
    x, y = torch.randint(9, (8, 3)), torch.randint(3, (8,))
    scores = snip_scores(model, [(x, y)], ["0.weight", "2.weight"])
    # Rows that no example takes have no score.
    unseen = sorted(set(range(9)) - set(x.flatten().tolist()))
    assert not scores["0.weight"][unseen].any()
    assert scores["2.weight"].all()


COMPUTED = {
    "weight norm": parametrizations.weight_norm,
    "weight norm by a hook": weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "spectral norm by a hook": spectral_norm,
    "pruned": lambda layer: prune.random_unstructured(layer, "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", COMPUTED)
def test_computed_weights_are_scored_as_what_they_are(kind):
    model = nn.Sequential(COMPUTED[kind](nn.Linear(6, 8)), nn.ReLU(), nn.Linear(8, 3))
    model(torch.randn(4, 6))
    model.eval()
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with torch.no_grad():
        for mine, its in zip(plain, model, strict=True):
            if isinstance(mine, nn.Linear):
                mine.weight.copy_(its.weight)
                mine.bias.copy_(its.bias)
    x, y = torch.randn(20, 6), torch.randint(3, (20,))
    names, before = prunable_parameters(model), copy.deepcopy(model.state_dict())
    outputs = model(x)
    for scores in (
        lambda net: snip_scores(net, [(x, y)], names),
        lambda net: grasp_scores(net, [(x, y)], names),
        lambda net: synflow_scores(net, (6,), names),
    ):
        found, expected = scores(model), scores(plain)
        for name in names:
            torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-9)
    assert found["0.weight"].any()
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert torch.equal(model(x), outputs), "the network itself computes as before"


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 6)
        self.head = nn.Linear(6, 9, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(torch.tanh(self.embedding(x).mean(1)))


def test_a_tied_weight_is_scored_by_either_name_and_in_both_places():
    model, x, y = Tied(), torch.randint(9, (20, 3)), torch.randint(9, (20,))
    by_name = {
        name: snip_scores(model, [(x, y)], [name])[name]
        for name in ("head.weight", "embedding.weight")
    }
    torch.testing.assert_close(by_name["head.weight"], by_name["embedding.weight"])
    loss = nn.functional.cross_entropy(model(x), y)
    whole = (torch.autograd.grad(loss, model.head.weight)[0] * model.head.weight).abs()
    torch.testing.assert_close(by_name["head.weight"], (whole / whole.sum()).detach())
    with pytest.raises(ParameterError, match="are one weight, which is scored once"):
        snip_scores(model, [(x, y)], ["head.weight", "embedding.weight"])
