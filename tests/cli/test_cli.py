"""The command line as users type it: output, files, exit codes, one-line errors."""

import os
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from lotperm import __version__
from lotperm.data.datasets import load
from lotperm.data.pictures import write_picture_crops
from lotperm.engine import models
from lotperm.science.patterns import Pattern, breaks_pattern
from lotperm.science.symmetry import PermutationSpec, permute
from lotperm.site import build, notebooks
from lotperm.store.files import load_tensors, save_tensors
from lotperm.store.masks import load_mask
from lotperm.studies import clone
from lotperm.studies.tickets import load_ticket

ROOT = Path(__file__).parents[2]
TINY = [
    "--profile",
    "smoke",
    "-p",
    "train_size=300",
    "-p",
    "test_size=100",
    "-p",
    "epochs=3",
    "-p",
    "rewind_epoch=1",
    "-p",
    "finetune_epochs=1",
    "-p",
    "hidden=[12]",
    "-p",
    "seeds=2",
    "-p",
    "sparsity=0.5",
]


def test_experiment_writes_a_tidy_table(command, tmp_path):
    code, out, err = command("experiment", *TINY, "--out", tmp_path, "--device", "cpu")
    assert code == 0, err
    assert "permuted" in out
    assert "gap closed" in out
    table = pd.read_csv(tmp_path / "results.csv")
    assert {"seed", "method", "sparsity", "rewind_epoch", "metric", "value"} == set(table.columns)
    assert set(table["method"]) == {"dense_a", "dense_b", "imp", "lth", "permuted", "naive"}
    code, out, err = command("experiment", *TINY, "--out", tmp_path, "--device", "cpu", "--tickets")
    assert code == 0
    assert "img" not in err, "a second run trained again"
    assert "2 files of tickets" in out
    for seed in (0, 1):
        assert load_ticket(tmp_path / "tickets" / f"seed{seed}_k1.safetensors").seed == seed


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["experiment", "-p", "sparisty=0.9"],
            2,
            "unknown parameter 'sparisty'. Did you mean 'sparsity'?",
        ),
        (["experiment", "-p", "sparsity"], 2, "NAME=VALUE"),
        (["experiment", "-p", "sparsity=0.9", "-p", "sparsity=0.8"], 2, "given twice"),
        (["experiment", "-p", "sparsity=high"], 2, "sparsity is 'high'; expected a number"),
        (["experiment", "-p", "lr=1e999"], 2, "lr is inf"),
        (["experiment", "-p", "dataset=__import__('os').system('true')"], 2, "unknown dataset"),
        (["experiment", "--profile", "papr"], 2, "Did you mean 'paper'?"),
        (["experiment", "--device", "gpu"], 2, "unknown device"),
        (["run", "metod"], 2, "Did you mean 'method'?"),
        (["run", "method", "-p", "epoch=3"], 2, "Did you mean 'epochs'?"),
        (["run", "method", "-p", "sparsity=2"], 2, "0 < sparsity < 1"),
        (
            ["run", "mode_connectivity", "-p", "points=4"],
            2,
            "points is 4; expected an odd number, 3 or more",
        ),
        (["run", "svhn", "-p", "compile=maybe"], 2, "compile is 'maybe'; expected True or False"),
        (["run", "svhn", "-p", "compile=1"], 2, "compile is 1; expected True or False"),
        (["run", "svhn", "-p", "workers=-1"], 2, "workers is -1; expected 0 or more"),
        (["run", "resnet50_imagenet", "-p", "microbatch=few"], 2, "microbatch is 'few'"),
        (["run", "svhn", "-p", "compiel=true"], 2, "Did you mean 'compile'?"),
        (["run", "svhn", "-p", "device=7"], 2, "unknown device '7'"),
        (["run", "nowhere.ipynb"], 5, "there is no notebook nowhere.ipynb"),
        (["data", "verify", "cifar11"], 2, "Did you mean 'cifar10'?"),
        (["data", "verify", "svhn"], 5, "lotperm data fetch svhn"),
        (
            ["match", "a", "b", "--dataset", "mnist1d", "--model", "resnet21"],
            2,
            "Did you mean 'resnet20'?",
        ),
        (
            ["match", "a", "b", "--dataset", "mnist1d", "--model", "nothing:here"],
            2,
            "MODULE:FUNCTION",
        ),
        (
            ["match", "a.safetensors", "b.safetensors", "--dataset", "mnist1d", "--model", "mlp"],
            5,
            "a.safetensors",
        ),
    ],
)
def test_errors_are_one_line_and_an_exit_code(command, arguments, code, message):
    got, out, err = command(*arguments)
    assert got == code, err
    assert re.match(r"lotperm: error: [^\n]+\n$", err), err
    assert message in err
    assert out == ""


def test_a_pickle_is_refused_unread(command, tmp_path):
    torch.save({"weight": torch.zeros(2)}, tmp_path / "a.pt")
    files = [tmp_path / "a.pt", tmp_path / "a.pt"]
    code, _, err = command("match", *files, "--dataset", "mnist1d", "--model", "mlp")
    assert code == 3
    assert re.match(r"lotperm: error: .*a\.pt[^\n]+\n$", err), err


def test_match_prune_and_permute_files(command, tmp_path):
    """From two files of weights to a permuted mask, with a planted permutation."""
    data = load("mnist1d")

    def factory():
        return models.build("mlp", input_shape=data.input_shape, classes=10, hidden=(16, 12))

    a = models.initialize(factory, 1)
    spec = PermutationSpec.trace(factory(), torch.randn(2, *data.input_shape))
    planted = spec.random(torch.Generator().manual_seed(0))
    files = {name: tmp_path / f"{name}.safetensors" for name in ("a", "b", "p", "mask", "moved")}
    save_tensors(files["a"], a)
    save_tensors(files["b"], permute(a, spec, planted))
    network = ["--model", "mlp", "--hidden", "16,12", "--dataset", "mnist1d"]
    for method in ("activation", "weight"):
        code, out, err = command(
            "match", files["a"], files["b"], "--out", files["p"], "--method", method, *network
        )
        assert code == 0, err
        assert "identity" in out
        found, _ = load_tensors(files["p"])
        assert all(torch.equal(found[g], planted[g]) for g in planted), method
    code, out, err = command("prune", files["a"], 0.75, "--out", files["mask"], *network)
    assert code == 0, err
    mask = load_mask(files["mask"])
    total = sum(m.numel() for m in mask.values())
    assert sum(int(m.sum()) for m in mask.values()) == total - round(0.75 * total)
    code, _, err = command("permute", files["mask"], files["p"], "--out", files["moved"], *network)
    assert code == 0, err
    expected = permute(mask, spec, planted)
    assert all(torch.equal(t, expected[name]) for name, t in load_mask(files["moved"]).items())


def test_masks_from_elsewhere_are_read_and_described(command, tmp_path):
    """torch.nn.utils.prune, a folder as open_lth writes it, and weights with zeros."""
    from torch.nn.utils import prune

    net = models.build("mlp", input_shape=(1, 40), classes=10, hidden=(16, 12))
    layers = {n: m for n, m in net.named_modules() if hasattr(m, "weight")}
    for layer in layers.values():
        prune.l1_unstructured(layer, "weight", 0.75)
    expected = {f"{n}.weight": layer.weight_mask.bool() for n, layer in layers.items()}
    torch.save(net.state_dict(), tmp_path / "pruned.pt")
    # open_lth: level_2/main/mask.pth, int32, beside model_ep0_it0.pth and others.
    level = tmp_path / "level_2" / "main"
    level.mkdir(parents=True)
    torch.save({n: m.int() for n, m in expected.items()}, level / "mask.pth")
    for layer in layers.values():
        prune.remove(layer, "weight")
    torch.save(net.state_dict(), level / "model_ep160_it0.pth")
    network = ["--model", "mlp", "--hidden", "16,12", "--dataset", "mnist1d"]
    for source in ("pruned.pt", "level_2/main", "level_2/main/model_ep160_it0.pth"):
        out = tmp_path / "mask.safetensors"
        code, said, err = command("mask", tmp_path / source, "--out", out, *network)
        assert code == 0, err
        assert "sparsity 0.75" in said
        found = load_mask(out)
        assert found.keys() == expected.keys(), source
        assert all(torch.equal(found[n], m) for n, m in expected.items()), source
    assert all(torch.equal(load_mask(level)[n], m) for n, m in expected.items())
    # 2:4, and what a permutation does to it.
    spec = PermutationSpec.trace(net, torch.randn(2, 1, 40))
    save_tensors(tmp_path / "p.safetensors", spec.random(torch.Generator().manual_seed(0)))
    weights = level / "model_ep160_it0.pth"
    options = (
        "--pattern",
        "2:4",
        "--weights",
        weights,
        "--permutation",
        tmp_path / "p.safetensors",
    )
    code, said, err = command("mask", level, *options, "--out", out, *network)
    assert code == 0, err
    words = " ".join(said.split())
    assert re.search(r"Nearest mask with 2:4: \d+ of 238 kept weights fewer", words), words
    assert "takes groups of inputs apart in features.3.weight, classifier.weight" in words
    assert breaks_pattern(load_mask(out), Pattern(2, 4)) == {}
    code, _, err = command("mask", tmp_path, *network)
    assert (code, err.count("\n")) == (5, 1)
    assert "has no mask.pth" in err
    code, _, err = command("mask", level, "--weights", weights, *network)
    assert (code, err) == (
        2,
        "lotperm: error: --weights and --permutation go with --pattern n:m.\n",
    )


def test_a_network_of_ones_own_by_name(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynet.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(40, 9), nn.Tanh(), nn.Linear(9, 3))\n"
    )
    from torch import nn

    net = nn.Sequential(nn.Flatten(), nn.Linear(40, 9), nn.Tanh(), nn.Linear(9, 3))
    save_tensors(tmp_path / "a.safetensors", net.state_dict())
    code, _, err = command(
        "match", "a.safetensors", "a.safetensors", "--model", "mynet:make", "--dataset", "mnist1d"
    )
    assert code == 0, err
    found, _ = load_tensors(tmp_path / "permutation.safetensors")
    assert [p.tolist() for p in found.values()] == [list(range(9))]


OWN = """
from torch import nn
def make():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))
def boom():
    raise RuntimeError("no such file\\nand more")
def needs(classes):
    return nn.Linear(classes, 2)
def notmodule():
    return {"a": 1}
number = 3
ready = make()
def empty():
    return nn.Flatten()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Return the network of the file own.py in the working directory; no data set is here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LOTPERM_DATA")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "broken.py").write_text("1 / 0")
    sys.modules.pop("own", None)
    import own

    yield own.make()
    sys.modules.pop("own", None)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own:boom", "boom() fails: RuntimeError: no such file. It is called without arguments"),
        ("own:needs", "needs() fails: TypeError: needs() missing 1 required positional argument"),
        ("own:notmodule", "notmodule() gives a dict; expected an nn.Module"),
        ("own:number", "number is a int; expected a function"),
        ("own:nothing", "Expected MODULE:FUNCTION"),
        ("broken:make", "broken fails: ZeroDivisionError: division by zero."),
        (":make", "Expected MODULE:FUNCTION"),
    ],
)
def test_what_is_wrong_with_ones_own_network(command, own, name, message):
    for arguments in (["prune", "a", "0.5"], ["permute", "a", "b"]):
        code, _, err = command(*arguments, "--model", name, "--dataset", "mnist1d")
        assert code == 2 and re.match(r"lotperm: error: [^\n]+\n$", err), err
        assert message in err


@pytest.mark.parametrize("wrapped", [False, True])
def test_ones_own_network_without_a_data_set(command, own, tmp_path, wrapped):
    a, shape = own.state_dict(), ["--input-shape", "3,8,8", "--model", "own:make"]
    spec = PermutationSpec.trace(own, torch.randn(2, 3, 8, 8))
    planted = spec.random(torch.Generator().manual_seed(0))
    prefix = "module." if wrapped else ""
    for name, state in (("a", a), ("b", permute(a, spec, planted))):
        save_tensors(tmp_path / name, {prefix + n: t for n, t in state.items()})
    code, _, err = command("match", "a", "b", "--method", "weight", "--out", "p", *shape)
    assert code == 0, err
    assert all(torch.equal(load_tensors(tmp_path / "p")[0][g], planted[g]) for g in planted)
    code, _, err = command("prune", "a", "0.5", "--out", "m", "--model", "own:ready")
    assert code == 0, err
    code, _, err = command("permute", "m", "p", "--out", "n", *shape)
    assert code == 0, err
    expected = permute(load_mask(tmp_path / "m"), spec, planted)
    assert all(torch.equal(t, expected[n]) for n, t in load_mask(tmp_path / "n").items())
    save_tensors(tmp_path / "i", {n: t.int() for n, t in a.items()})
    code, _, err = command("prune", "i", "0.5", "--model", "own:make")
    assert (code, err) == (3, "lotperm: error: i: 0.weight is torch.int32; expected floats.\n")
    code, _, err = command("prune", "a", "0.5", "--model", "own:empty")
    assert code == 3 and "the network has 'none'" in err
    for bad in ("3,x", "", "3,0"):
        code, _, err = command("permute", "m", "p", "--model", "own:make", "--input-shape", bad)
        assert code == 2 and "--input-shape is" in err
    code, _, err = command("match", "a", "b", "--dataset", "mnist1d", *shape)
    assert code == 2 and "--input-shape is for --method weight" in err


def test_data_list_and_verify(command):
    load("mnist1d")
    code, out, _ = command("data", "list")
    assert code == 0
    assert all(name in out for name in ("mnist1d", "fashion_mnist", "cifar10", "cifar100", "svhn"))
    code, out, _ = command("data", "verify", "mnist1d")
    assert code == 0
    assert "verified" in out


def test_help_names_every_command(command):
    code, out, _ = command("--help")
    assert code == 0
    for name in ("experiment", "run", "book", "parameters", "data", "match", "prune", "permute"):
        assert re.search(rf"\b{name}\b", out)


def test_parameters_are_listed(command):
    code, out, _ = command("parameters")
    assert code == 0
    assert "prune_fraction" in out


def test_version(command):

    assert command("--version")[1].strip() == __version__


def test_an_image_folder_of_ones_own(command, tmp_path, monkeypatch):
    monkeypatch.setenv("LOTPERM_HOME", str(tmp_path))
    monkeypatch.delenv("LOTPERM_DATA")
    code, _, err = command("data", "verify", "imagefolder")
    assert code == 5 and "lotperm data fetch imagefolder --source PATH" in err
    root = tmp_path / "images"
    write_picture_crops(root)
    code, out, err = command("data", "fetch", "imagefolder", "--source", root)
    assert code == 0, err
    assert command("data", "verify", "imagefolder")[1] == out
    code, out, _ = command("data", "list")
    assert code == 0 and re.search(r"imagefolder\W+yes", out)
    bad = max((root / "val" / "head-00").iterdir(), key=lambda path: path.stat().st_size)
    bad.write_bytes(bad.read_bytes()[:200])
    code, _, err = command("data", "verify", "imagefolder")
    assert code == 3
    assert re.match(rf"lotperm: error: [^\n]*{bad.name}[^\n]*\n$", err), err


@pytest.fixture
def without_notebooks_here(monkeypatch, tmp_path):
    """An empty working directory; what executes a notebook only prints which one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(notebooks, "execute", lambda path, out, *_, **__: path.resolve())


def test_a_notebook_is_found_from_any_folder(command, without_notebooks_here):
    """Of an editable install: the clone is the folder that the package lies in."""
    for name in ("method", "04", "04_method"):
        code, out, err = command("run", name, "--profile", "smoke")
        assert code == 0, err
        assert out.replace("\n", "") == f"Wrote {ROOT / 'notebooks' / '04_method.ipynb'}"
    code, _, err = command("run", "metod")
    assert code == 2 and "Did you mean 'method'?" in err


def test_a_notebook_here_comes_first(command, without_notebooks_here, tmp_path):
    (tmp_path / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "04_method.ipynb", tmp_path / "notebooks" / "01_method.ipynb")
    code, out, err = command("run", "method", "--profile", "smoke")
    assert code == 0, err
    assert out.replace("\n", "") == f"Wrote {tmp_path / 'notebooks' / '01_method.ipynb'}"


@pytest.mark.parametrize("arguments", [["run", "method"], ["book"]])
def test_without_a_clone_there_is_no_book(
    command, without_notebooks_here, monkeypatch, tmp_path, arguments
):
    monkeypatch.setattr(clone, "__file__", str(tmp_path / "lotperm" / "studies" / "clone.py"))
    code, out, err = command(*arguments)
    assert code == 5 and out == ""
    assert re.fullmatch(r"lotperm: error: there is no folder .* in a clone of lotperm\.\n", err)


def test_the_book_is_built_from_any_folder(command, monkeypatch, tmp_path):
    """Its sources are the clone's; the site and the store are here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOTPERM_HOME")
    seen = {}

    def built(profile, out, *, root, **_):
        seen.update(root=root, out=out, home=os.environ.get("LOTPERM_HOME"))
        return out / "html" / "index.html"

    monkeypatch.setattr(build, "build", built)
    code, _, err = command("book", "--profile", "smoke")
    assert code == 0, err
    assert seen == {"root": ROOT, "out": Path("_build"), "home": str(tmp_path / ".lotperm")}
    assert "LOTPERM_HOME" not in os.environ
    monkeypatch.chdir(ROOT)
    assert command("book", "--profile", "smoke")[0] == 0
    assert seen == {"root": Path(), "out": Path("_build"), "home": None}
    code, _, err = command("book", "--out", ROOT / "book" / "site")
    assert code == 2 and "inside the book's sources" in err
