"""Signs and scrambling: what is changed, what is kept, and that permutations pass through."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lotperm.errors import ParameterError
from lotperm.science.scrambling import scatter, scramble
from lotperm.science.signs import shuffle_signs, sign_agreement, ticket_bits, with_signs
from lotperm.science.sparsity import Mask, full_mask, magnitude_prune, prunable_parameters
from lotperm.science.symmetry import PermutationSpec, compose, invert, permute

SEEDS = st.integers(0, 10**6)
NETWORKS = {
    "mlp": (
        nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3)),
        (6,),
    ),
    "cnn": (
        nn.Sequential(
            nn.Conv1d(2, 5, 3),
            nn.BatchNorm1d(5),
            nn.ReLU(),
            nn.Conv1d(5, 4, 3),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16, 3),
        ),
        (2, 8),
    ),
}
SPECS = {
    name: PermutationSpec.trace(network, torch.randn(2, *shape))
    for name, (network, shape) in NETWORKS.items()
}


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights_and_mask(name: str, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor], Mask]:
    """Two sets of random weights, some of them zero, and a mask of the first."""
    network = NETWORKS[name][0]
    draw = generator(seed)
    one, two = (
        {
            n: torch.randn(t.shape, generator=draw) * (torch.rand(t.shape, generator=draw) > 0.1)
            if t.is_floating_point()
            else t
            for n, t in network.state_dict().items()
        }
        for _ in range(2)
    )
    names = prunable_parameters(network)
    return one, two, magnitude_prune(one, full_mask(network, names), 0.6)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(NETWORKS)), SEEDS)
def test_signs_are_taken_on_the_mask_alone(name: str, seed: int) -> None:
    weights, signs, mask = weights_and_mask(name, seed)
    found = with_signs(weights, signs, mask)
    assert list(found) == list(weights)
    for n, tensor in found.items():
        assert torch.equal(tensor.abs(), weights[n].abs())
        if n not in mask:
            assert torch.equal(tensor, weights[n])
            continue
        assert torch.equal(tensor[~mask[n]], weights[n][~mask[n]])
        changed = mask[n] & (signs[n] != 0) & (weights[n] != 0)
        assert torch.equal(tensor[changed].sign(), signs[n][changed].sign())
        zero = mask[n] & (signs[n] == 0)
        assert torch.equal(tensor[zero], weights[n][zero])
    assert with_signs(found, signs, mask).keys() == found.keys()
    assert all(torch.equal(t, with_signs(found, signs, mask)[n]) for n, t in found.items())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(NETWORKS)), SEEDS)
def test_permuting_commutes_with_giving_signs(name: str, seed: int) -> None:
    weights, signs, mask = weights_and_mask(name, seed)
    spec = SPECS[name]
    p = spec.random(generator(seed + 1))

    def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return permute(tensors, spec, p)

    before = moved(with_signs(weights, signs, mask))
    after = with_signs(moved(weights), moved(signs), moved(mask))
    assert all(torch.equal(before[n], after[n]) for n in before)
    # So signs say the same of the moved pair as of the pair.
    assert sign_agreement(moved(weights), moved(signs), moved(mask)) == pytest.approx(
        sign_agreement(weights, signs, mask)
    )


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(NETWORKS)), SEEDS)
def test_shuffled_signs_keep_the_balance_of_every_layer(name: str, seed: int) -> None:
    _, signs, mask = weights_and_mask(name, seed)
    dealt = shuffle_signs(signs, mask, generator(seed))
    assert dealt.keys() == mask.keys()
    for n, kept in mask.items():
        assert not dealt[n][~kept].any()
        for value in (-1, 0, 1):
            assert (dealt[n][kept] == value).sum() == (signs[n][kept].sign() == value).sum()
    again = shuffle_signs(signs, mask, generator(seed))
    assert all(torch.equal(dealt[n], again[n]) for n in dealt)


def test_shuffled_signs_agree_by_chance() -> None:
    signs = {"w": torch.randn(200, 200, generator=generator(0))}
    mask = {"w": torch.ones(200, 200, dtype=torch.bool)}
    assert sign_agreement(signs, signs, mask) == 1
    assert sign_agreement(signs, shuffle_signs(signs, mask, generator(1)), mask) == pytest.approx(
        0.5, abs=0.01
    )


def test_signs_of_another_network_are_refused() -> None:
    mask = {"w": torch.ones(3, 2, dtype=torch.bool)}
    with pytest.raises(ParameterError, match="w has shape"):
        with_signs({"w": torch.ones(3, 2)}, {"w": torch.ones(2, 3)}, mask)
    with pytest.raises(ParameterError, match="unknown masked tensor"):
        with_signs({"w": torch.ones(3, 2)}, {"v": torch.ones(3, 2)}, mask)
    with pytest.raises(ParameterError, match="keeps no weight"):
        sign_agreement({"w": torch.ones(2)}, {"w": torch.ones(2)}, {"w": torch.zeros(2).bool()})


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.lists(st.integers(1, 40), min_size=1, max_size=3), st.floats(0, 1))
def test_scrambling_moves_exactly_its_share(seed: int, sizes: list[int], share: float) -> None:
    draw = generator(seed)
    p = {f"g{i}": torch.randperm(n, generator=draw) for i, n in enumerate(sizes)}
    found = scramble(p, share, generator(seed))
    for group, n in zip(p, sizes, strict=True):
        assert torch.equal(found[group].sort().values, torch.arange(n))
        moved = round(share * n)
        differs = int((found[group] != p[group]).sum())
        assert differs == (0 if moved == 1 else moved)
    # Without a share nothing moves; with all of it nothing is where it was.
    assert all(torch.equal(t, p[g]) for g, t in scramble(p, 0.0, generator(seed)).items())
    for group, t in scramble(p, 1.0, generator(seed)).items():
        assert len(t) == 1 or not (t == p[group]).any()
    # Scrambling is of places: it doesn't know what the permutation says.
    inner = scramble({g: torch.arange(len(t)) for g, t in p.items()}, share, generator(seed))
    both = compose(inner, p)
    assert all(torch.equal(found[g], both[g]) for g in p)
    assert all(torch.equal(compose(invert(inner), found)[g], p[g]) for g in p)


@settings(max_examples=40, deadline=None)
@given(SEEDS, st.integers(2, 40), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_moves_the_units_of_a_smaller_one(
    seed: int, n: int, one: float, two: float
) -> None:
    p = {"g": torch.arange(n)}
    few, many = (
        set((scramble(p, share, generator(seed))["g"] != p["g"]).nonzero().flatten().tolist())
        for share in sorted((one, two))
    )
    assert few <= many


def test_scrambling_refuses_what_is_no_share() -> None:
    with pytest.raises(ParameterError, match=r"share is 1\.5; expected 0 <= share <= 1"):
        scramble({"g": torch.arange(3)}, 1.5, generator(0))


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_scattering_keeps_the_counts_of_layers(seed: int) -> None:
    _, _, mask = weights_and_mask("mlp", seed)
    found = scatter(mask, generator(seed))
    assert {n: int(m.sum()) for n, m in found.items()} == {n: int(m.sum()) for n, m in mask.items()}


def test_bits_of_a_ticket_by_counting() -> None:
    mask = {
        "a": torch.tensor([[True, False], [False, False]]),
        "b": torch.tensor([True, True, False]),
    }
    bits = ticket_bits(mask, {"g": 4, "h": 1})
    assert bits.mask == pytest.approx(math.log2(4) + math.log2(3))
    assert bits.signs == 3
    assert bits.permutation == pytest.approx(math.log2(24))
