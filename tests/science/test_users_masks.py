"""Masks in odd forms: whatever they are named and stored as, they move with their units."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from science.users import X, mlp
from torch import Tensor, nn
from torch.nn.utils import prune

from lotperm.errors import ParameterError
from lotperm.science.sparsity import (
    apply_mask,
    count,
    from_torch_prune,
    magnitude_prune,
    prunable_parameters,
    to_torch_prune,
)
from lotperm.science.state_dicts import as_dense, read_mask
from lotperm.science.symmetry import PermutationSpec, permute

Masks = dict[str, Tensor]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return mlp().eval()


@pytest.fixture(scope="module")
def mask(model: nn.Module) -> Masks:
    return {n: model.state_dict()[n].abs() > 0.1 for n in prunable_parameters(model)}


def each(change: Callable[[Tensor], Any]) -> Callable[[Masks], Any]:
    return lambda mask: {name: change(kept) for name, kept in mask.items()}


def renamed(change: Callable[[str], str]) -> Callable[[Masks], Any]:
    return lambda mask: {change(name): kept for name, kept in mask.items()}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize(
    "form",
    [
        *(each(lambda t, d=d: t.to(d)) for d in (torch.float64, torch.bfloat16, torch.uint8)),
        each(lambda t: t.to(torch.int32).t().contiguous().t()),
        each(lambda t: t.numpy()),
        each(lambda t: t.float().to_sparse()),
        each(lambda t: t.float().to_sparse_csr()),
        each(lambda t: nn.Parameter(t.float())),
        OrderedDict,
        lambda mask: {"epoch": 3, "masks": mask, "optimizer": {"state": {}}},
        lambda mask: mask | {"0.bias": None},
        renamed(lambda n: f"_orig_mod.module.{n}"),
        renamed(lambda n: f"model.{n}"),
        renamed(lambda n: f"{n}_mask"),
        renamed(lambda n: n.removesuffix(".weight")),
        renamed(lambda n: n.removesuffix("weight") + "mask"),
        renamed(lambda n: f"{n}.mask"),
    ],
    ids=[
        *("float64", "bfloat16", "uint8", "int32, transposed", "numpy", "COO", "CSR", "parameters"),
        *("ordered", "checkpoint", "None", "wrapped", "prefixed", "_mask", "layers", "layer.mask"),
        "weight.mask",
    ],
)
def test_forms_of_masks(model: nn.Module, mask: Masks, form: Callable[[Masks], Any]) -> None:
    """They prune, count and move as the plain form does."""
    given, spec = form(mask), PermutationSpec.trace(model, X)
    p = spec.random(torch.Generator().manual_seed(0))
    expected = permute(mask, spec, p)
    moved = permute(given, spec, p)
    assert len(moved) == len(mask)
    for own, kept in zip(moved.values(), expected.values(), strict=True):
        assert torch.equal(as_dense(own) != 0, kept)
    assert count(model, given) == count(model, mask)
    sparser = magnitude_prune(model, given, 0.9)
    for own, kept in zip(sparser.values(), magnitude_prune(model, mask, 0.9).values(), strict=True):
        assert torch.equal(own, kept)
    masked, plain = (apply_mask(model, m) for m in (given, mask))
    assert all(torch.equal(masked[name], plain[name]) for name in plain)


def test_a_masked_network_moves_with_its_mask(model: nn.Module, mask: Masks) -> None:
    """``permute(w * m) == permute(w) * permute(m)``, also of biases and of a part of the layers."""
    spec = PermutationSpec.trace(model, X)
    p = spec.random(torch.Generator().manual_seed(0))
    part = {"2.weight": mask["2.weight"].to(torch.uint8), "0.bias": torch.arange(8.0) % 2}
    inside = permute(apply_mask(model, part), spec, p)
    outside = apply_mask(permute(model, spec, p), permute(part, spec, p))
    assert all(torch.equal(inside[name], outside[name]) for name in inside)


HOOKS: dict[str, Callable[[Any], object]] = {
    "global": lambda m: prune.global_unstructured(
        [(m[i], "weight") for i in (0, 2, 4)], pruning_method=prune.L1Unstructured, amount=0.5
    ),
    "by units": lambda m: prune.ln_structured(m[2], "weight", 0.5, 2, 0),
    "biases too": lambda m: [prune.random_unstructured(m[0], n, 0.5) for n in ("weight", "bias")],
    "twice": lambda m: [prune.l1_unstructured(m[0], "weight", 0.5) for _ in range(2)],
    "nothing": lambda m: prune.identity(m[0], "weight"),
}


@pytest.mark.parametrize("name", HOOKS)
def test_hooks_of_pruning(name: str) -> None:
    """A network that PyTorch prunes moves with its masks, from which another is pruned alike."""
    torch.manual_seed(0)
    pruned = mlp().eval()
    HOOKS[name](pruned)
    spec = PermutationSpec.trace(pruned, X)
    p = spec.random(torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = pruned(X)
        moved = permute(pruned, spec, p)
        pruned.load_state_dict(moved)
        torch.testing.assert_close(pruned(X), before, rtol=1e-4, atol=1e-5)
    kept = from_torch_prune(pruned)
    assert all(torch.equal(kept[n], moved[f"{n}_mask"] != 0) for n in kept)
    other = mlp()
    to_torch_prune(other, kept)
    assert all(torch.equal(t, kept[n]) for n, t in from_torch_prune(other).items())


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (each(lambda t: t.to("meta")), r"^0\.weight is on the meta device"),
        (each(lambda t: t / 0.0), r"^0\.weight holds (nan|inf) \(torch\.float32\)"),
        (each(lambda t: t * 0.999), r"^0\.weight holds 0\.999 \(torch\.float32\)"),
        (each(lambda t: t.tolist()), r"^expected a state dict .*\['0\.weight'"),
        (each(lambda t: t.t()), r"has shape \(20, 8\)"),
        (each(lambda t: t[:, :1]), r"has shape \(8, 1\)"),
        (renamed(lambda n: n.replace("weight", "wieght")), r"Did you mean '0\.weight'\?"),
        (lambda mask: mask | {"9.weight": torch.ones(2, 2)}, r"unknown .*'9\.weight'"),
    ],
)
def test_what_is_no_mask_is_named(
    model: nn.Module, mask: Masks, form: Callable[[Masks], Any], message: str
) -> None:
    for use in (
        lambda m: magnitude_prune(model, m, 0.9),
        lambda m: apply_mask(model, m),
        lambda m: to_torch_prune(mlp(), m),
    ):
        with pytest.raises(ParameterError, match=message) as info:
            use(form(mask))
        assert "\n" not in str(info.value)
    unpruned = r"Sequential holds no masks of torch\.nn\.utils\.prune"
    with pytest.raises(ParameterError, match=unpruned):
        read_mask(model)
