"""Masks and state dicts as torch.nn.utils.prune, wrappers and training frameworks save them."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm
from torch.nn.utils.parametrizations import weight_norm

from lotperm import (
    PermutationSpec,
    full_mask,
    load_mask,
    magnitude_prune,
    match_activations,
    match_weights,
    permute,
    prunable_parameters,
    save_mask,
)
from lotperm.errors import ParameterError, UnsupportedModelError
from lotperm.science.barrier import loss_barrier
from lotperm.science.sparsity import (
    apply_mask,
    count,
    from_torch_prune,
    mask_of_zeros,
    to_torch_prune,
)
from lotperm.science.state_dicts import copy_of, read_mask, read_weights
from lotperm.store.files import save_tensors


def mlp(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5)
    )


INPUTS = torch.randn(32, 20, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def spec():
    return PermutationSpec.trace(mlp(), INPUTS)


@pytest.fixture
def pruned():
    model = mlp()
    for layer in (0, 2, 4):
        prune.l1_unstructured(model[layer], "weight", 0.5)
    return model


def planted(spec, seed=1):
    return spec.random(torch.Generator().manual_seed(seed))


def equal(a, b):
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


FORMS = {
    "masks": lambda model: {n: t for n, t in model.state_dict().items() if n.endswith("_mask")},
    "state dict": lambda model: model.state_dict(),
    "module": lambda model: model,
    "checkpoint": lambda model: {"state_dict": model.state_dict(), "epoch": 3},
    "by weight": lambda model: {
        n.removesuffix("_mask"): t for n, t in model.state_dict().items() if n.endswith("_mask")
    },
    "wrapped": lambda model: {f"module._orig_mod.{n}": t for n, t in model.state_dict().items()},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.int64, torch.bfloat16, None])
def test_a_mask_is_read_in_any_form(form, dtype, pruned):
    expected = {f"{i}.weight": pruned[i].weight_mask == 1 for i in (0, 2, 4)}
    mask = FORMS[form](pruned)
    if dtype and not isinstance(mask, nn.Module) and "state_dict" not in mask:
        mask = {
            n: t.to(dtype) if "_orig" not in n and "bias" not in n else t for n, t in mask.items()
        }
    dense = mlp()
    kept = magnitude_prune(dense.state_dict(), mask, 0.5)
    assert [kept[n].tolist() for n in kept] == [m.tolist() for m in expected.values()]
    assert count(dense, mask).kept == sum(int(m.sum()) for m in expected.values())
    zeroed = apply_mask(dense.state_dict(), mask)
    for name, keep in expected.items():
        assert torch.equal(zeroed[name], dense.state_dict()[name] * keep)


def test_a_pruned_network_is_pruned_further(pruned):
    names = prunable_parameters(pruned)
    assert names == ["0.weight", "2.weight", "4.weight"]
    full = full_mask(pruned.state_dict(), names)
    assert all(bool(m.all()) for m in full.values())
    expected = magnitude_prune(mlp().state_dict(), from_torch_prune(pruned), 0.9)
    for weights in (pruned, pruned.state_dict()):
        assert equal(magnitude_prune(weights, pruned, 0.9), expected)
        assert equal(magnitude_prune(weights, full, 0.9), expected)
    assert equal(mask_of_zeros(pruned, names), from_torch_prune(pruned))


def test_a_pruned_state_dict_is_permuted_as_it_is_saved(pruned, spec):
    p = planted(spec)
    moved = permute(pruned, spec, p)
    assert list(moved) == list(pruned.state_dict())
    other = copy_of(pruned)
    other.load_state_dict(moved)
    torch.testing.assert_close(other(INPUTS), pruned(INPUTS))
    names = {f"{i}.weight": pruned[i].weight_mask for i in (0, 2, 4)}
    by_weight = permute(names, spec, p)
    assert all(torch.equal(by_weight[n], moved[f"{n}_mask"]) for n in names)


def test_what_is_permuted_can_be_loaded_with_its_metadata(spec):
    moved = permute(mlp(), spec, planted(spec))
    assert moved._metadata == mlp().state_dict()._metadata
    mlp().load_state_dict(moved)


@pytest.mark.parametrize("value", [0.5, 2.0, float("nan"), -1.0])
def test_weights_are_no_mask(value, spec, tmp_path):
    odd = {"0.weight": torch.full((16, 20), value)}
    for call in (
        lambda: magnitude_prune(mlp().state_dict(), odd, 0.9),
        lambda: apply_mask(mlp().state_dict(), odd),
        lambda: save_mask(tmp_path / "m.safetensors", odd),
    ):
        with pytest.raises(ParameterError, match=r"^0\.weight holds .*a mask holds bool tensors"):
            call()


def test_the_line_between_pruned_networks(pruned):
    data = {"test": [(INPUTS, torch.zeros(32, dtype=torch.long))]}
    line = loss_barrier(pruned, pruned, pruned.state_dict(), data, (0.0, 0.5, 1.0))
    masked = apply_mask(mlp(), pruned)
    assert line.loss.equals(loss_barrier(mlp(), masked, masked, data, (0.0, 0.5, 1.0)).loss)


def test_masks_in_files(pruned, tmp_path):
    expected = from_torch_prune(pruned)
    for number, content in enumerate((pruned.state_dict(), FORMS["masks"](pruned))):
        save_tensors(tmp_path / f"{number}.safetensors", content)
        assert equal(load_mask(tmp_path / f"{number}.safetensors"), expected)
    save_mask(tmp_path / "own.safetensors", pruned)
    assert equal(load_mask(tmp_path / "own.safetensors"), expected)


def test_export_to_torch_prune_and_back(pruned):
    model = mlp()
    to_torch_prune(model, from_torch_prune(pruned))
    assert equal(model.state_dict(), pruned.state_dict())
    assert torch.equal(model(INPUTS), pruned(INPUTS))
    with pytest.raises(ParameterError, match=r"mask of 0\.weight has shape \(3,\)"):
        to_torch_prune(mlp(), {"0.weight": torch.ones(3)})
    with pytest.raises(ParameterError, match="no masks of torch"):
        from_torch_prune(mlp())


# ------------------------------------------------------------------ names


PREFIXED = {
    "DataParallel": lambda sd: {f"module.{n}": t for n, t in sd.items()},
    "compiled": lambda sd: {f"_orig_mod.{n}": t for n, t in sd.items()},
    "both": lambda sd: {f"module._orig_mod.{n}": t for n, t in sd.items()},
    "one compiled layer": lambda sd: {n.replace("2.", "2._orig_mod."): t for n, t in sd.items()},
    "Lightning": lambda sd: {"state_dict": {f"model.{n}": t for n, t in sd.items()}, "epoch": 1},
    "with a loss": lambda sd: {f"net.{n}": t for n, t in sd.items()} | {"loss.w": torch.ones(2)},
    "nested": lambda sd: {"state": {"model": sd}, "args": {"lr": 0.1}},
}


@pytest.mark.parametrize("form", PREFIXED)
def test_checkpoints_are_matched_by_name(form, spec):
    a, p = mlp(), planted(spec)
    b = mlp()
    b.load_state_dict(permute(a, spec, p))
    given_a, given_b = (PREFIXED[form](m.state_dict()) for m in (a, b))
    for found in (
        match_activations(given_a, b, [INPUTS], spec),
        match_activations(given_a, given_b, [INPUTS], spec),
        match_weights(given_a, given_b, spec),
        match_weights(a, given_b, spec),
    ):
        assert all(torch.equal(found[g], p[g]) for g in p)
    data = {"test": [(INPUTS, torch.zeros(32, dtype=torch.long))]}
    line = loss_barrier(mlp(1), given_a, given_a, data, (0.0, 0.5, 1.0))
    assert line.loss.equals(loss_barrier(mlp(1), a, a, data, (0.0, 0.5, 1.0)).loss)
    if form != "with a loss":
        moved = permute(given_a, spec, p)
        assert equal(dict(zip(a.state_dict(), moved.values(), strict=True)), b.state_dict())


def test_the_state_of_an_optimizer_is_no_state_dict(spec):
    model = mlp()
    optimizer = torch.optim.Adam(model.parameters())
    model(INPUTS).sum().backward()
    optimizer.step()
    checkpoint = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 1}
    checkpoint |= {"rng": torch.get_rng_state(), "extra": {"teacher": mlp(1).state_dict()}}
    found = match_weights(checkpoint, model, spec)
    assert all(torch.equal(found[g], torch.arange(n)) for g, n in spec.sizes.items())


def test_a_network_that_never_ran_has_no_weights():
    with pytest.raises(UnsupportedModelError, match="run the network once"):
        prunable_parameters(nn.Sequential(nn.LazyLinear(3)))


class _Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.i, self.o = nn.Linear(6, 8), nn.Linear(8, 3)
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.o(self.b(self.a(self.i(x).tanh()).tanh()).tanh())


@pytest.mark.parametrize("lost", ["a.weight", "b.weight"])
def test_tied_weights_are_there_under_one_name(lost):
    model, inputs = _Tied(), torch.randn(64, 6)
    spec = PermutationSpec.trace(model, inputs)
    p = planted(spec)
    moved = permute(model, spec, p)
    part = {n: t for n, t in moved.items() if n != lost}
    assert equal(match_weights(part, moved, spec), spec.identity())
    assert equal(match_weights(model, part, spec), match_weights(model, moved, spec))
    found = match_activations(model, part, [inputs], spec)
    assert equal(found, match_activations(model, moved, [inputs], spec))
    assert all(torch.equal(found[group], p[group]) for group in p)


def test_plain_names_serve_a_network_that_was_wrapped(spec):
    model = nn.Module()
    model.module = mlp()
    model.forward = lambda x: model.module(x)
    wrapped = PermutationSpec(
        spec.sizes,
        spec.points,
        {f"module.{n}": axes for n, axes in spec.axes.items()},
        {f"module.{n}": shape for n, shape in spec.shapes.items()},
        {f"module.{n}": roles for n, roles in spec.roles.items()},
    )
    p = planted(spec)
    assert equal(permute(mlp(), wrapped, p), permute(mlp(), spec, p))


def test_a_tensor_that_ends_as_one_of_the_network_is_left_alone():
    """As of timm's EVA-02, whose rotary embedding has a ``pos_embed`` that isn't a parameter."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
            self.scale = nn.Parameter(torch.rand(6) + 1)
            self.rope = nn.Module()
            self.rope.register_buffer("scale", torch.rand(2))

        def forward(self, x):
            return self.layers(x * self.scale)

    net, x = Net(), torch.randn(5, 6)
    spec = PermutationSpec.trace(net, x)
    sd = net.state_dict()
    assert "rope.scale" in sd
    p = planted(spec)
    moved = permute(sd, spec, p)
    assert torch.equal(moved["rope.scale"], sd["rope.scale"])
    found = match_activations(moved, sd, [torch.randn(200, 6)], spec)
    assert equal(permute(moved, spec, found), sd)


def test_errors_name_the_cause(spec):
    sd = mlp().state_dict()
    with pytest.raises(ParameterError, match=r"weights of A: none of the 2 names is the network's"):
        match_weights({"enc.w": torch.ones(2), "enc.b": torch.ones(2)}, sd, spec)
    with pytest.raises(ParameterError, match=r"both name the network's '0\.weight'"):
        permute(dict(sd) | {"module.0.weight": sd["0.weight"]}, spec, spec.identity())
    with pytest.raises(ParameterError, match=r"mapping with 2 of them \(model, ema\)"):
        permute({"model": dict(sd), "ema": dict(sd)}, spec, spec.identity())
    with pytest.raises(ParameterError, match="mapping with 0 of them"):
        match_weights({"epoch": 3}, sd, spec)
    with pytest.raises(ParameterError, match=r"unknown tensor .* 'module\.x'"):
        permute({"module.x": torch.ones(2)}, spec, spec.identity())
    many = nn.Sequential(*[nn.Linear(2, 2) for _ in range(60)])
    long = PermutationSpec.trace(many, torch.randn(2, 2))
    with pytest.raises(ParameterError) as error:
        permute({"x": torch.ones(2)}, long, {})
    assert len(str(error.value)) < 400 and "(120 in all)" in str(error.value)


def test_a_name_of_the_networks_own_is_no_prefix():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.layer1 = nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 6))
            self.o = nn.Linear(6, 2)

        def forward(self, x):
            return self.o(self.layer1(self.conv1(x).relu()).relu())

    net = Net()
    spec = PermutationSpec.trace(net, torch.randn(2, 4))
    with pytest.raises(ParameterError, match=r"unknown tensor.*'layer1\.conv1\.weight'"):
        permute({"layer1.conv1.weight": net.conv1.weight}, spec, spec.identity())


# ------------------------------------------------------------------ which weights


def test_parametrized_layers_share_nothing():
    layers = [layer for _ in range(6) for layer in (weight_norm(nn.Linear(8, 8)), nn.ReLU())]
    model = nn.Sequential(*layers)
    names = [f"{i}.weight" for i in range(0, 12, 2)]
    for _ in range(20):
        assert prunable_parameters(model) == prunable_parameters(model, "all") == names
    by_module = magnitude_prune(model, full_mask(model, names), 0.75)
    state = model.state_dict()
    assert equal(magnitude_prune(state, full_mask(state, names), 0.75), by_module)
    assert count(model, by_module).sparsity_of_all == 0.75
    with pytest.raises(ParameterError, match="remove_parametrizations"):
        apply_mask(state, by_module)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_older_weight_norm():
    model = nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(8, 6)), nn.Linear(6, 2))
    assert prunable_parameters(model) == ["0.weight", "1.weight"]
    kept = magnitude_prune(model.state_dict(), full_mask(model, ["0.weight"]), 0.5)
    plain = {"0.weight": model[0].weight.detach()}
    assert equal(kept, magnitude_prune(plain, full_mask(plain, plain), 0.5))


class _Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.lstm = nn.Embedding(9, 4), nn.LSTM(4, 5)
        self.up, self.norm = nn.ConvTranspose2d(5, 3, 2), nn.LayerNorm((3, 4))
        self.own = nn.Parameter(torch.randn(4, 4))
        self.out = nn.Linear(4, 9)
        self.out.weight = self.embed.weight


def test_no_layer_stays_dense_without_a_word():
    model = _Everything()
    with pytest.warns(UserWarning, match=r"own \(_Everything\).* stay dense"):
        assert prunable_parameters(model) == ["up.weight", "out.weight"]
    weights = model.state_dict()
    mask = full_mask(weights, ["up.weight", "out.weight"])
    assert count(model, mask).dense == 16 + 20 * 4 + 20 * 5
    auto = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 3, 3))
    assert prunable_parameters(auto, "all") == prunable_parameters(auto) == ["0.weight", "2.weight"]


@pytest.mark.parametrize("kind", ["weight norm", "old weight norm", "spectral", "old spectral"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_normed_weights_are_read_into_a_plain_network(kind, prefix):
    norm = {
        "weight norm": weight_norm,
        "old weight norm": old_weight_norm,
        "spectral": parametrizations.spectral_norm,
        "old spectral": old_spectral_norm,
    }[kind]

    def layers():
        return [nn.Conv2d(2, 6, 3), nn.ConvTranspose2d(6, 4, 3), nn.Linear(7, 3)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        normed = nn.Sequential(*map(norm, layers())).eval()
    plain = nn.Sequential(*layers())
    for name, tensor in normed.named_parameters():
        if name.endswith(("_g", "original0")):
            nn.init.uniform_(tensor)
    given = {prefix + n: t for n, t in normed.state_dict().items()}
    read = read_weights(given, plain.state_dict())
    assert read.keys() == plain.state_dict().keys()
    x = torch.randn(2, 2, 7, 7)
    normed(x)  # old forms compute their weights when they are called
    for name, layer in normed.named_children():
        torch.testing.assert_close(read[f"{name}.weight"], layer.weight.detach())
    # Magnitudes are those of the weights that the network computes with.
    full = full_mask(given, ["0.weight", "2.weight"])
    mask = magnitude_prune(given, full, 0.5)
    expected = magnitude_prune(read, full, 0.5)
    assert all(torch.equal(mask[name], expected[name]) for name in full)


@pytest.mark.parametrize("form", ["arrays", "npz", "coo", "csr", "none"])
def test_masks_and_weights_in_other_containers(spec, tmp_path, form):
    """NumPy's arrays and files, sparse tensors, and None where there is no mask."""
    weights, p = mlp().state_dict(), planted(spec)
    mask = {n: torch.rand(weights[n].shape) < 0.5 for n in prunable_parameters(mlp())}
    expected = permute(mask, spec, p)
    given = {
        "arrays": {n: m.numpy() for n, m in mask.items()},
        "npz": {n: m.numpy() for n, m in mask.items()},
        "coo": {n: m.float().to_sparse() for n, m in mask.items()},
        "csr": {n: m.float().to_sparse_csr() for n, m in mask.items()},
        "none": {**mask, "0.bias": None},
    }[form]
    if form == "npz":
        np.savez(tmp_path / "mask.npz", **given)
        given = np.load(tmp_path / "mask.npz")
    moved = permute(given, spec, p)
    assert moved.keys() == expected.keys()
    for name, tensor in moved.items():
        assert form not in ("coo", "csr") or tensor.layout == given[name].layout
        dense = tensor.to_dense() if tensor.layout != torch.strided else tensor
        assert torch.equal(dense.bool(), expected[name])
    for name, tensor in apply_mask(weights, given).items():
        assert name not in mask or torch.equal(tensor, weights[name] * mask[name])
    arrays = {n: t.numpy() for n, t in weights.items()}
    assert torch.equal(permute(arrays, spec, p)["0.bias"], weights["0.bias"][p["0"]])


def test_arrays_of_other_things_are_refused(spec):
    with pytest.raises(ParameterError, match=r"0.weight is an array of <U1; expected numbers"):
        permute({"0.weight": np.array(["x"])}, spec, planted(spec))


def test_permutations_and_sparsities_in_other_forms(spec):
    weights, p = mlp().state_dict(), planted(spec)
    expected = permute(weights, spec, p)["0.bias"]
    for form in (lambda q: q.tolist(), lambda q: q.numpy(), lambda q: q.int().numpy()):
        moved = permute(weights, spec, {group: form(q) for group, q in p.items()})
        assert torch.equal(moved["0.bias"], expected)
    for odd in ([0.5] * 16, "0", [[0]]):
        with pytest.raises(ParameterError, match="the permutation of '0' must be an int64 tensor"):
            permute(weights, spec, {"0": odd})
    mask = full_mask(weights, prunable_parameters(mlp()))
    for sparsity in (torch.tensor(0.5), np.float32(0.5)):
        assert count(mlp(), magnitude_prune(weights, mask, sparsity)).sparsity == 0.5
    with pytest.raises(ParameterError, match=r"sparsity is '0.5'; expected 0 <= sparsity < 1"):
        magnitude_prune(weights, mask, "0.5")


@pytest.mark.parametrize("form", ["{}.mask", "{}.weight.mask", "{}", "module.{}.mask", "net.{}"])
def test_masks_named_after_layers(spec, form):
    mask = {form.format(layer): torch.ones(spec.shapes[f"{layer}.weight"]) for layer in "02"}
    assert list(read_mask(mask, spec.shapes)) == ["0.weight", "2.weight"]


@pytest.mark.parametrize("other", ["train_acc.total", "ema.decay", "head.weight"])
def test_masks_of_a_network_among_other_tensors(other):
    """What a trainer keeps beside the network has no prefix of the network's."""
    weights = mlp().state_dict()
    given = {f"model.{n}": t for n, t in weights.items()} | {other: torch.ones(2)}
    mask = full_mask(given, ["0.weight", "2.weight"])
    pruned = magnitude_prune(given, mask, 0.5)
    assert equal(pruned, magnitude_prune(weights, mask, 0.5))
    masked = apply_mask(given, pruned)
    assert torch.equal(masked["model.0.weight"], weights["0.weight"] * pruned["0.weight"])
    twice = {f"{who}.{n}": t for who in ("a.x", "b.y") for n, t in weights.items()}
    with pytest.raises(ParameterError, match=r"unknown masked tensor|twice"):
        full_mask(twice, ["0.weight"])


def test_whole_numbers_are_ranked():
    weights = {"w": torch.tensor([[3, -7, 1, 5]])}
    assert magnitude_prune(weights, full_mask(weights, ["w"]), 0.5)["w"].tolist() == [
        [False, True, False, True]
    ]


def test_two_networks_in_a_state_dict_are_refused(spec):
    weights = mlp().state_dict()
    both = {f"{who}.{n}": t for who in ("student", "teacher") for n, t in weights.items()}
    with pytest.raises(ParameterError, match=r"'student.0.weight' and 'teacher.0.weight'.* twice"):
        read_weights(both, spec.shapes)
    one = {f"student.{n}": t for n, t in weights.items()} | {"head.weight": torch.ones(2)}
    assert list(read_weights(one, spec.shapes)) == list(weights)
