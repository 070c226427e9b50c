"""`lotperm match`, `permute`, `prune`, `mask` and `convert` on files that are wrong in many ways."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lotperm.store.files import load_tensors, save_tensors

NETWORKS = """
import torch
from torch import nn
def make():
    return nn.Sequential(nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5))
def stops():
    raise SystemExit(3)
def words():
    return nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 2))
def lazy():
    return nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2))
class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(20, 8), nn.Linear(6, 8)
    def forward(self, x, y):
        return self.a(x) + self.b(y)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a user's network, files of it, and others that are wrong."""
    at = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    sizes = (20, 16, 12, 5)
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
    names = [f"{2 * i}.{leaf}" for i in range(3) for leaf in ("weight", "bias")]
    values = [getattr(layer, leaf).detach() for layer in layers for leaf in ("weight", "bias")]
    state = dict(zip(names, values, strict=True))
    mask = {n: t.abs() > 0.05 for n, t in state.items() if n.endswith("weight")}
    order = torch.randperm(16)
    files = {
        "a": state,
        "b": {n: t + 0.1 * torch.randn_like(t) for n, t in state.items()},
        "lacks": {n: t for n, t in state.items() if n != "4.bias"},
        "renamed": {n.replace("0.", "fc1.", 1) if n[0] == "0" else n: t for n, t in state.items()},
        "capitals": {n.upper(): t for n, t in state.items()},
        "shape": state | {"2.weight": torch.ones(12, 15)},
        "nan": state | {"2.weight": torch.full((12, 16), torch.nan)},
        "empty": {},
        "mask": mask,
        "halves": {n: t / 2 for n, t in mask.items()},
        "mask_of_nan": {n: torch.full(t.shape, torch.nan) for n, t in mask.items()},
        "mask_more": mask | {"7.weight": torch.ones(2, 2, dtype=torch.bool)},
        "mask_misspelt": {n.replace("weight", "wieght"): t for n, t in mask.items()},
        "mask_zero": {n: t & False for n, t in mask.items()},
        "p": {"0": order, "2": torch.randperm(12)},
        "p_other": {"1": order},
        "p_twice": {"0": torch.zeros(16, dtype=torch.int64)},
        "words": {"0.weight": torch.randn(9, 4), "2.weight": torch.randn(8, 12),
                  "2.bias": torch.randn(8), "4.weight": torch.randn(2, 8), "4.bias": torch.randn(2)},
    }  # fmt: skip
    for name, tensors in files.items():
        save_tensors(at / name, tensors, {})
    (at / "cut").write_bytes((at / "a").read_bytes()[:200])
    (at / "text").write_text("hello")
    torch.save(state, at / "a.pt")
    torch.save(state, at / "old.pt", _use_new_zipfile_serialization=False)
    torch.save([1, 2], at / "list.pt")
    (at / "text.pt").write_text("hello")
    np.savez(at / "arrays.npz", **{n: t.numpy() for n, t in state.items()})
    (at / "users_net.py").write_text(NETWORKS)
    (at / "wants_more.py").write_text("import nothing_of_that_name")
    (at / "ends.py").write_text("raise SystemExit('no licence')")
    return at


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in that folder, in which no data set is."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LOTPERM_HOME", str(folder / "home"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for module in ("users_net", "wants_more", "ends"):
        sys.modules.pop(module, None)


OWN = "--model users_net:make --input-shape 20"


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (f"match lacks b --method weight {OWN}", 3, "lacks has no 4.bias, which the network needs"),
        (f"match renamed b --method weight {OWN}", 3, "has no 0.weight, .* it has fc1.bias, fc1.weight"),
        (f"match capitals b --method weight {OWN}", 3, "got '0.BIAS', the network has '0.weight'"),
        (f"match shape b --method weight {OWN}", 3, r"shape: 2.weight is \(12, 15\); expected \(12, 16\)"),
        (f"match nan b --method weight {OWN}", 2, "weights of A are not finite, in 2.weight"),
        (f"match a nan --method weight {OWN}", 2, "weights of B are not finite, in 2.weight"),
        (f"match empty b --method weight {OWN}", 3, r"it has no tensors\.$"),
        (f"match mask b --method weight {OWN}", 3, "0.weight is torch.bool; expected floats"),
        (f"match a.pt b --method weight {OWN}", 3, r"lotperm convert a\.pt a\.safetensors$"),
        (f"match cut b --method weight {OWN}", 3, "cut is corrupt or not a safetensors file"),
        (f"match text b --method weight {OWN}", 3, "text is corrupt or not a safetensors file"),
        (f"match nothing b --method weight {OWN}", 5, "cannot read nothing: No such file"),
        (f"match . b --method weight {OWN}", 5, r"cannot read \.: Is a directory"),
        (f"match a b --method weight --out . {OWN}", 5, r"cannot write \.: Is a directory"),
        (f"match a b --method weigth {OWN}", 2, "unknown method 'weigth'. Did you mean 'weight'?"),
        ("match a b --method weight --model users_net:mke", 2, "has no 'mke'. Did you mean 'make'?"),
        ("match a b --method weight --model users_nets:make", 2, "Did you mean 'users_net'?"),
        ("match a b --method weight --model users_net", 2, "which function makes it: users_net:FUNC"),
        ("match a b --method weight --model users_net:", 2, "users_net has no ''"),
        ("match a b --method weight --model users_net:stops", 2, r"stops\(\) fails: SystemExit: 3"),
        ("match a b --method weight --model ends:make", 2, "ends fails: SystemExit: no licence"),
        ("match a b --method weight --model wants_more:make", 2, "wants_more fails: ModuleNotFoundE"),
        ("match a b --method weight --model ./nowhere.py:make", 2, "No module named 'nowhere'"),
        ("match a b --method weight --model users_net:lazy --input-shape 20", 2, "layer is lazy"),
        ("match a b --method weight --model users_net:Two --input-shape 20", 2, "argument: 'y'"),
        ("match a b --method weight --model users_net:words --input-shape 3", 3, r"\(16, 20\); expected \(9, 4\)"),
        ("match a b --method weight --model users_net:make --input-shape 21", 2, r"shape \(2, 21\)"),
        ("match a b --method weight --model resnet2O", 2, "Did you mean 'resnet20'?"),
        ("match a b --method weight --model resnet20 --width 0", 2, "--width is 0.0; expected a number"),
        ("match a b --method weight --model resnet20 --width nan", 2, "--width is nan; expected a num"),
        (f"permute mask p_other {OWN}", 2, "p_other: unknown permutation group '1'. Valid: 0, 2."),
        (f"permute mask p_twice {OWN}", 2, r"permutation of '0' must hold each of 0..15 exactly once"),
        (f"permute mask a {OWN}", 2, "a: unknown permutation group '0.bias'"),
        (f"permute p mask {OWN}", 2, "mask: unknown permutation group '0.weight'"),
        (f"permute mask empty {OWN}", 2, "empty holds no permutation; give what lotperm match wrote"),
        (f"permute empty p {OWN}", 2, "empty holds no tensors, so there is nothing to permute"),
        (f"permute mask_more p {OWN}", 2, "'7.weight'. Did you mean '4.weight'?"),
        (f"permute mask_misspelt p {OWN}", 2, "'0.wieght'. Did you mean '0.weight'?"),
        ("prune a 90 --model users_net:make", 2, r"sparsity is 90.0; .* 90 % is 0.9\.$"),
        ("prune a nan --model users_net:make", 2, "sparsity is nan; expected 0 <= sparsity < 1"),
        ("prune a 0.5 --model users_net:make --rule papr", 2, "Did you mean 'paper'?"),
        ("prune nan 0.5 --model users_net:make", 2, "weights of 2.weight are not finite"),
        ("mask empty", 2, "empty holds no tensors, so no mask"),
        ("mask halves", 2, "halves isn't a mask: 0.weight holds 0.5 .*; nor .* --model resnet20: unknown"),
        ("mask p", 2, "p isn't a mask: 0 holds .*; nor are these weights of --model resnet20"),
        ("mask mask_of_nan --model users_net:make", 2, "weights of 0.weight are not finite"),
        ("mask a --model users_net:make --rule al", 2, "Did you mean 'all'?"),
        ("mask text.pt", 3, r"text\.pt isn't an archive as torch\.save has written"),
        ("mask old.pt", 3, r"old\.pt isn't an archive as torch\.save has written since PyTorch 1\.6"),
        ("mask list.pt", 2, "must hold exactly one state dict"),
        ("mask arrays.npz", 3, r"arrays\.npz is an archive of NumPy arrays"),
        ("mask .", 5, "has no mask.pth, which open_lth's folders have"),
        ("mask mask --pattern 2-4", 2, "pattern is '2-4'; expected n:m"),
        ("mask mask --pattern 2:4 --weights shape", 2, r"2.weight has shape \(12, 16\); the weights have \(12, 15\)"),
        ("mask mask --pattern 2:4 --weights renamed", 2, "unknown masked tensor '0.weight'"),
        (f"mask mask --pattern 2:4 --permutation p_other {OWN}", 2, "p_other: unknown permutation group"),
        ("mask mask --weights a", 2, "--weights and --permutation go with --pattern n:m"),
        ("convert arrays.npz x", 3, "archive of NumPy arrays"),
        ("convert old.pt x", 3, "since PyTorch 1.6"),
        ("convert a x", 2, "is a safetensors file already"),
        ("convert a.pt .", 5, r"cannot write \.: Is a directory"),
        ("convert a.pt x --key modle", 2, "leave --key out"),
        ("mtch a b", 2, r"No such command 'mtch'\. Did you mean 'match'\? See"),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_name_the_thing(command, line, code, message):
    got, out, err = command(*line.split())
    assert got == code, err or out
    assert re.fullmatch(r"lotperm: error: [^\n]+\n", err), err
    assert re.search(message, err.rstrip("\n")), err


@pytest.mark.usefixtures("here")
def test_a_network_by_the_path_of_its_file_and_one_of_words(command):
    """Networks that take numbers of words are traced with such; a mask of nothing is said."""
    way = ("--method", "weight", "--input-shape", "20", "--out", "q")
    code, _, err = command("match", "a", "b", "--model", "./users_net.py:make", *way)
    assert code == 0, err
    from_path = load_tensors(Path("q"))[0]
    code, _, err = command("match", "a", "b", "--model", "users_net:make", *way)
    assert code == 0 and from_path.keys() == {"0", "2"}
    assert all(
        torch.equal(order, from_path[group]) for group, order in load_tensors(Path("q"))[0].items()
    )
    words = "words"
    code, _, err = command(
        "match", words, words, "--model", "users_net:words", "--method", "weight", "--input-shape",
        "3", "--out", "q",
    )  # fmt: skip
    assert code == 0, err
    found = load_tensors(Path("q"))[0]
    assert {group: len(order) for group, order in found.items()} == {"0": 4, "2": 8}
    code, out, err = command("prune", "a", "0.9999", "--model", "users_net:make", "--out", "q")
    assert code == 0 and "Nothing is kept of 0.weight, 2.weight, 4.weight" in " ".join(out.split())
    code, out, err = command("mask", "mask_zero")
    assert code == 0 and "0 of 572 weights kept" in out
