"""book/panels/lottery.js, run by Node: every piece of it against Python."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tools
import torch
from torch import Tensor

from lotperm.config.experiment import Experiment, Recipe
from lotperm.config.seeds import Seeds, derive_seed
from lotperm.data.dataset import Dataset
from lotperm.data.datasets import load
from lotperm.engine.models import Weights, build, initialize
from lotperm.engine.schedule import draw_order
from lotperm.engine.training import train
from lotperm.science.assignment import assign
from lotperm.science.matching import Matching, match_activations
from lotperm.science.scrambling import scramble
from lotperm.science.sparsity import (
    full_mask,
    magnitude_prune,
    prunable_parameters,
    round_sparsities,
)
from lotperm.science.statistics import interval
from lotperm.science.symmetry import PermutationSpec, permute
from lotperm.store.stages import Store
from lotperm.studies.arms.arms import ARMS, PAPER_ARMS
from lotperm.studies.arms.training import train_arms
from lotperm.studies.pipeline import Pipeline

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "book" / "panels" / "lottery.js"
SIZES = [40, 128, 128, 10]
Js = Callable[..., Any]


@pytest.fixture(scope="session")
def js() -> Js:
    """Evaluates an expression of JavaScript, in which `L` is the script and each keyword a
    constant.
    """
    program = """
        const L = require(process.argv[1]);
        const given = JSON.parse(require("fs").readFileSync(0, "utf8"));
        const plain = (_, v) => ArrayBuffer.isView(v) ? Array.from(v) : typeof v === "bigint" ? String(v) : v;
        const result = new Function("L", ...Object.keys(given), process.argv[2])(L, ...Object.values(given));
        process.stdout.write(JSON.stringify(result, plain));
    """

    def evaluate(code: str, **given: Any) -> Any:
        body = code if "return" in code else f"return {code}"
        return tools.run_node(program, str(SCRIPT), body, given=given)

    return evaluate


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load("mnist1d")


def mlp(hidden: list[int] | None = None) -> torch.nn.Module:
    return build(
        "mlp", input_shape=(1, 40), classes=10, hidden=SIZES[1:-1] if hidden is None else hidden
    )


def flat(tensors: Mapping[str, Tensor], names: list[str]) -> np.ndarray:
    """The tensors of these names as the one array that the script has; True where one isn't
    there.
    """
    shapes = {name: tensor.shape for name, tensor in mlp().state_dict().items()}
    return np.concatenate(
        [
            tensors.get(name, torch.ones(shapes[name], dtype=torch.bool)).flatten().numpy()
            for name in names
        ]
    )


NAMES = [name for name, _ in mlp().named_parameters()]


@pytest.mark.parametrize("text", ["", "abc", "x" * 55, "x" * 56, "x" * 64, "lottery " * 50])
def test_sha256(js: Js, text: str) -> None:
    assert bytes(js("L.sha256(text)", text=text)) == hashlib.sha256(text.encode()).digest()


def test_seeds_follow_their_names(js: Js) -> None:
    names = ["dense_a", "dense_b", "imp_1", "imp_11", "sparse_a", "sparse_b"]
    found = js(
        "names.flatMap((n) => seeds.flatMap((s) => streams.map((t) => L.deriveSeed(n, s, t))))",
        names=names,
        seeds=[0, 7, 123456789],
        streams=["init", "order"],
    )
    wanted = [
        derive_seed(n, s, t) for n in names for s in (0, 7, 123456789) for t in ("init", "order")
    ]
    assert [int(seed) for seed in found] == wanted


@pytest.mark.parametrize("size", [1, 2, 625, 4000])
@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1, 2**32 + 5, 2**63 - 1])
def test_random_permutations_are_torchs(js: Js, size: int, seed: int) -> None:
    wanted = torch.randperm(size, generator=torch.Generator().manual_seed(seed)).tolist()
    assert js("L.randperm(size, BigInt(seed))", size=size, seed=str(seed)) == wanted


def test_the_order_of_the_examples(js: Js) -> None:
    seed = Seeds.of("dense_a", 3).order
    found = js(
        "epochs.map((e) => L.drawOrder(4000, BigInt(seed), e))",
        epochs=[0, 1, 39, 10_000],
        seed=str(seed),
    )
    assert found == [draw_order(4000, seed, epoch).tolist() for epoch in (0, 1, 39, 10_000)]


@pytest.mark.parametrize("hidden", [[128, 128], [48], [30, 20, 7]])
@pytest.mark.parametrize("seed", [0, 5])
def test_initial_weights_are_the_same_numbers(js: Js, hidden: list[int], seed: int) -> None:
    drawn = Seeds.of("dense_b", seed).init
    weights = initialize(lambda: mlp(hidden), drawn)
    found = js("L.initialize(sizes, BigInt(seed))", sizes=[40, *hidden, 10], seed=str(drawn))
    wanted = torch.cat([w.flatten() for w in weights.values()])
    assert torch.equal(torch.tensor(found, dtype=torch.float64), wanted.double())


def test_the_data_set_is_pythons(js: Js, data: Dataset) -> None:
    found = js("L.makeData()")
    for split, size in ((data.train, 4000), (data.test, 1000)):
        made = found["train" if size == 4000 else "test"]
        assert made["targets"] == split.targets.tolist()
        inputs = np.array(made["inputs"]).reshape(size, 40)
        # Both are rounded to float32, from doubles whose last bits may differ.
        np.testing.assert_allclose(
            inputs, split.inputs[:, 0].double().numpy(), rtol=2**-23, atol=1e-9
        )


@pytest.mark.parametrize(
    ("target", "fraction"), [(0.9, 0.2), (0.8, 0.2), (0.2, 0.2), (0.97, 0.5), (0.05, 0.9)]
)
def test_the_rounds_of_pruning(js: Js, target: float, fraction: float) -> None:
    found = js("L.roundSparsities(target, fraction)", target=target, fraction=fraction)
    assert found == pytest.approx(round_sparsities(target, fraction), rel=1e-15)


@pytest.mark.parametrize("ties", [False, True])
def test_pruning_keeps_the_same_weights(js: Js, ties: bool) -> None:
    weights = initialize(mlp, 4)
    if ties:  # few magnitudes, so that the threshold falls into a tie, and halves of a weight
        weights = {name: (w * 20).round() / 20 for name, w in weights.items()}
    mask = full_mask(weights, prunable_parameters(mlp()))
    rounds = [*round_sparsities(0.9), 0.95 + 0.5 / 22784 * 12, 1 - 1 / 22784]
    wanted = []
    for sparsity in rounds:
        mask = magnitude_prune(weights, mask, sparsity)
        wanted.append(flat(mask, NAMES).astype(int).tolist())
    code = """
        let mask = L.fullMask(sizes);
        return rounds.map((sparsity) => (mask = L.magnitudePrune(weights, mask, sizes, sparsity)));
    """
    found = js(code, weights=flat(weights, NAMES).tolist(), sizes=SIZES, rounds=rounds)
    assert found == wanted
    assert sum(found[-1]) == 1 + 128 + 128 + 10


def test_permuting_moves_every_layer(js: Js) -> None:
    weights = initialize(mlp, 4)
    spec = PermutationSpec.trace(mlp(), torch.zeros(2, 1, 40))
    generator = torch.Generator().manual_seed(0)
    permutation = {group: torch.randperm(128, generator=generator) for group in spec.sizes}
    found = js(
        "L.permute(weights, sizes, permutations)",
        weights=flat(weights, NAMES).tolist(),
        sizes=SIZES,
        permutations=[p.tolist() for p in permutation.values()],
    )
    np.testing.assert_array_equal(
        found, flat(permute(weights, spec, permutation), NAMES).astype(float)
    )


@pytest.mark.parametrize("n", [1, 2, 5, 33, 128])
def test_assignments_are_the_best(js: Js, n: int) -> None:
    matrices = (
        torch.rand(4, n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) * 2 - 1
    )
    found = js("m.map((x) => L.assign(x, n))", m=[m.flatten().tolist() for m in matrices], n=n)
    for matrix, p in zip(matrices, found, strict=True):
        wanted = assign(matrix)
        assert p == wanted.tolist()
        rows = torch.arange(n)
        assert matrix[rows, p].sum().item() == pytest.approx(
            matrix[rows, wanted].sum().item(), abs=1e-12
        )


def test_dead_units_keep_their_order(js: Js) -> None:
    matrix = torch.rand(12, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrix[[1, 4, 9]] = 0.0  # dead in B
    matrix[:, [0, 7]] = 0.0  # dead in A
    assert js("L.assign(m, 12)", m=matrix.flatten().tolist()) == assign(matrix).tolist()
    assert js("L.assign(m, 12)", m=[0.0] * 144) == list(range(12))


def test_correlations(js: Js, data: Dataset) -> None:
    a, b = initialize(mlp, 1), initialize(mlp, 2)
    a["features.1.bias"][3] = -1000.0  # a dead unit
    spec = PermutationSpec.trace(mlp(), data.train.inputs[:2])
    wanted = match_activations(
        a, b, [data.train.inputs.double()], spec, keep_correlations=True, dtype=torch.float64
    )
    code = """
        const [a, b] = weights.map((w) => {
            const network = new L.Network(sizes, arithmetic);
            network.load(w, L.fullMask(sizes));
            return network;
        });
        return L.correlate(a, b, L.makeData().train.inputs);
    """
    weights = [flat(w, NAMES).tolist() for w in (a, b)]
    for arithmetic, tolerance in (("float64", 1e-9), ("fastest", 2e-5)):
        found = js(code, weights=weights, sizes=SIZES, arithmetic=arithmetic)
        assert wanted.correlations is not None
        for matrix, correlations in zip(found, wanted.correlations.values(), strict=True):
            np.testing.assert_allclose(
                np.reshape(matrix, (128, 128)), correlations.numpy(), atol=tolerance
            )
        assert not np.reshape(found[0], (128, 128))[:, 3].any()


TRAIN = """
    const network = new L.Network(sizes, arithmetic);
    const options = { saveAt: [1], evaluateAt: [0, recipe.epochs] };
    const data = L.makeData();
    return { ...L.train(network, weights, mask, data, recipe, BigInt(seed), options), kernels: network.kernels.name };
"""


def python_and_js(
    js: Js, data: Dataset, arithmetic: str, recipe: Recipe, sparsity: float
) -> tuple[Any, Any]:
    """The same training in both: (Trained of one member, what the script found)."""
    weights = initialize(mlp, 7)
    mask = full_mask(weights, prunable_parameters(mlp()))
    if sparsity:
        mask = magnitude_prune(weights, mask, sparsity)
    exact = arithmetic == "float64"
    model = mlp().double() if exact else mlp()
    start = {name: w.double() for name, w in weights.items()} if exact else weights
    seeds = Seeds.of("dense_a", 0)
    one = train(
        model,
        [start],
        data,
        recipe,
        [seeds],
        masks=[mask],
        save_at=[1],
        evaluate_at=[0, recipe.epochs],
    )
    plain = {
        name: getattr(recipe, name)
        for name in ("epochs", "lr", "momentum", "weight_decay", "batch_size")
    }
    other = js(
        TRAIN,
        weights=flat(weights, NAMES).tolist(),
        mask=flat(mask, NAMES).astype(int).tolist(),
        sizes=SIZES,
        recipe=plain,
        seed=str(seeds.order),
        arithmetic=arithmetic,
    )
    return one, other


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(3, 0.08),
        Recipe(2, 0.01, momentum=0.0, weight_decay=0.0),
        Recipe(1, 0.05, batch_size=100),
    ],
)
def test_training_is_pythons_in_float64(
    js: Js, data: Dataset, recipe: Recipe, sparsity: float
) -> None:
    one, other = python_and_js(js, data, "float64", recipe, sparsity)
    np.testing.assert_allclose(other["weights"], flat(one.weights[0], NAMES), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        other["saved"]["1"], flat(one.checkpoints[1][0], NAMES), rtol=1e-8, atol=1e-10
    )
    # Python keeps the losses in float32.
    np.testing.assert_allclose(other["loss"], [losses[0] for losses in one.train_loss], rtol=1e-7)
    for epoch, test in one.evaluations.items():
        assert other["test"][str(epoch)]["accuracy"] == pytest.approx(test["accuracy"][0], abs=1e-6)
        assert other["test"][str(epoch)]["loss"] == pytest.approx(test["loss"][0], rel=1e-6)


@pytest.mark.parametrize("sparsity", [0.0, 0.9])
@pytest.mark.parametrize("arithmetic", ["fastest", "float32"])
def test_one_epoch_is_pythons_in_float32(
    js: Js, data: Dataset, arithmetic: str, sparsity: float
) -> None:
    one, other = python_and_js(js, data, arithmetic, Recipe(1, 0.08), sparsity)
    assert other["kernels"] == (
        "WebAssembly, float32" if arithmetic == "fastest" else "javascript, float32"
    )
    weights = flat(one.weights[0], NAMES)
    np.testing.assert_allclose(other["weights"], weights, atol=2e-5)
    assert np.array_equal(np.array(other["weights"]) == 0, weights == 0)
    assert other["loss"][0] == pytest.approx(one.train_loss[0][0], rel=1e-5)
    assert other["test"]["1"]["accuracy"] == pytest.approx(
        one.evaluations[1]["accuracy"][0], abs=0.002
    )


def test_a_loss_that_is_not_finite_ends_the_run(js: Js) -> None:
    code = (
        'try { L.run({ ...p, lr: 1e30 }); return "ran"; } catch (error) { return error.message; }'
    )
    assert "loss is not finite in epoch" in js(
        code, p={"seeds": [0], "epochs": 2, "rewind_epoch": 0}
    )


def test_without_webassembly_it_is_javascript(js: Js) -> None:
    code = (
        "globalThis.WebAssembly = undefined; return new L.Network([3, 2], 'fastest').kernels.name;"
    )
    assert js(code) == "javascript, float32"


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 20])
def test_intervals(js: Js, n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    center, half = js("L.interval(values)", values=values.tolist())
    wanted = interval(values)
    assert center == pytest.approx(wanted[0], rel=1e-12)
    assert half is None if n == 1 else half == pytest.approx(wanted[1], rel=1e-9)


class Exact(Pipeline):
    """The pipeline in float64."""

    @property
    def spec(self) -> PermutationSpec:  # type: ignore[override]
        return PermutationSpec.trace(super().build(), self.data.train.inputs[:2])

    def build(self) -> torch.nn.Module:
        return super().build().double()

    def match_pair(
        self, weights_a: Weights, weights_b: Weights, *, keep_correlations: bool = False
    ) -> Matching:
        inputs = [self.data.train.inputs.double()]
        return match_activations(weights_a, weights_b, inputs, self.spec, dtype=torch.float64)


SMALL = {
    "seeds": [0, 3],
    "epochs": 4,
    "rewind_epoch": 1,
    "finetune_epochs": 1,
    "prune_fraction": 0.4,
    "sparsity": 0.8,
    "sparse_lr": 0.04,
    "hidden": [64, 48],
}
METHODS = ("dense_a", "dense_b", *PAPER_ARMS)


def accuracies(pipeline: Pipeline) -> dict[int, dict[str, float]]:
    """Final test accuracies: seed -> method -> fraction."""
    results = pipeline.run()
    sparsity, k = pipeline.experiment.sparsities[0], pipeline.experiment.rewind_epochs[0]
    found: dict[int, dict[str, float]] = {seed: {} for seed in pipeline.experiment.seeds}
    for method in METHODS:
        where = (0.0, None) if method.startswith("dense") else (sparsity, k)
        for seed, value in results.values(method, *where).items():
            found[int(str(seed))][method] = float(value)
    return found


def test_a_whole_run_is_pythons_in_float64(js: Js, tmp_path: Path) -> None:
    pipeline = Exact(Experiment.from_parameters(profile="laptop", **SMALL), Store(tmp_path))
    wanted = accuracies(pipeline)
    found = js("L.run({ ...p, arithmetic: 'float64' })", p=SMALL)
    for replicate, (mask, matching) in enumerate(
        zip(pipeline.masks(0.8, 1), pipeline.match(), strict=True)
    ):
        run = found[replicate]
        kept = np.concatenate(
            [
                mask.get(n, torch.ones_like(w, dtype=torch.bool)).flatten().numpy()
                for n, w in pipeline.build().named_parameters()
            ]
        )
        assert run["mask"] == kept.astype(int).tolist()
        assert run["permutations"] == [p.tolist() for p in matching.values()]
        assert run["scores"] == pytest.approx(list(matching.scores.values()), abs=1e-9)
        assert run["identity"] == pytest.approx(list(matching.identity_scores.values()), abs=1e-9)
        expected = wanted[run["seed"]]
        assert {m: run["accuracies"][m] for m in METHODS} == pytest.approx(expected, abs=1e-6)


def test_a_whole_run_is_near_pythons_in_float32(js: Js, tmp_path: Path) -> None:
    # Rounding differs, and training enlarges the difference: a few of 1000 test examples fall to
    # the other side.
    wanted = accuracies(
        Pipeline(Experiment.from_parameters(profile="laptop", **SMALL), Store(tmp_path))
    )
    found = js("L.run(p).map(({ seed, accuracies }) => ({ seed, accuracies }))", p=SMALL)
    for run in found:
        assert {m: run["accuracies"][m] for m in METHODS} == pytest.approx(
            wanted[run["seed"]], abs=0.012
        )


@pytest.mark.parametrize("share", [0.0, 0.05, 0.25, 0.5, 1.0])
def test_scrambling_is_pythons(js: Js, share: float) -> None:
    seed = derive_seed("scramble", 3)
    generator = torch.Generator().manual_seed(1)
    found = {f"g{n}": torch.randperm(n, generator=generator) for n in (1, 2, 30, 128)}
    wanted = scramble(found, share, torch.Generator().manual_seed(seed))
    assert js(
        "L.scramble(permutations.map((p) => Int32Array.from(p)), share, BigInt(seed))",
        permutations=[p.tolist() for p in found.values()],
        share=share,
        seed=str(seed),
    ) == [p.tolist() for p in wanted.values()]


def test_a_dose_is_pythons_arm_in_float64(js: Js, tmp_path: Path) -> None:
    pipeline = Exact(Experiment.from_parameters(profile="laptop", **SMALL), Store(tmp_path))
    arm = dataclasses.replace(ARMS["permuted"], name="half", scrambled=0.5)
    evaluations = train_arms(pipeline, "dose", [arm], 0.8, 1).results["evaluations"]
    code = """
        const found = L.run(p), events = [];
        const half = L.dose(p, found, 0.5, (event) => events.push(event));
        const none = L.dose(p, found, 0);
        const before = found.map(({ accuracies }) => accuracies.permuted);
        return { half, none, before, events };
    """
    found = js(code, p={**SMALL, "arithmetic": "float64"})
    assert found["half"] == pytest.approx(evaluations["3"]["accuracy"], abs=1e-6)
    # Nothing scrambled is the arm itself, in every bit; half of it is another mask.
    assert found["none"] == found["before"] != found["half"]
    assert [e["kind"] for e in found["events"]] == ["dose", "dose", "dosed"]
    assert [e["accuracy"] for e in found["events"][:2]] == found["half"]


def test_a_dose_that_is_no_share_is_refused(js: Js) -> None:
    code = "try { L.dose({}, [], 1.5); } catch (error) { return error.message; }"
    assert js(code) == "scramble is 1.5; expected 0 to 1."


def test_the_defaults_are_the_recorded_run(js: Js) -> None:
    recorded = ROOT / "book" / "results" / "mnist1d_live"
    experiment = json.loads((recorded / "results.json").read_text())["experiment"]
    found = js("L.DEFAULTS")
    assert found.pop("arithmetic") == "fastest"
    assert found.pop("seeds") == experiment["seeds"][:3]
    wanted = {
        "sparsity": experiment["sparsities"][0],
        "rewind_epoch": experiment["rewind_epochs"][0],
        "sparse_lr": experiment["sparse_lr"],
        "prune_fraction": experiment["pruning"]["fraction"],
        "finetune_epochs": experiment["pruning"]["finetune"]["epochs"],
        "finetune_lr": experiment["pruning"]["finetune"]["lr"],
        "hidden": experiment["model"]["hidden"],
        **{
            name: experiment["dense"][name]
            for name in ("epochs", "lr", "momentum", "weight_decay", "batch_size")
        },
    }
    assert found == wanted
    rows = pd.read_csv(recorded / "results.csv")
    rows = rows[(rows["seed"] == 0) & (rows["metric"] == "test_accuracy")].set_index("method")[
        "value"
    ]
    run = js("L.run({ seeds: [0] }).map(({ accuracies }) => accuracies)")[0]
    assert run.keys() == set(rows.index)
    # 40 epochs in other rounding end in other weights of much the same quality.
    assert run == pytest.approx(rows.to_dict(), abs=0.04)
    assert run["naive"] + 0.1 < run["permuted"] < run["lth"]


def test_what_is_reported(js: Js) -> None:
    code = "const events = []; L.run(p, (event) => events.push(event)); return events;"
    events = js(code, p={**SMALL, "seeds": [5]})
    assert [e["kind"] for e in events if e["kind"] != "epoch"] == [
        "start",
        "matched",
        "seed",
        "end",
    ]
    epochs = [e for e in events if e["kind"] == "epoch"]
    assert [name for name, _ in itertools.groupby(e["network"] for e in epochs)] == [
        "dense_a",
        "dense_b",
        "imp",
        *PAPER_ARMS,
    ]
    shares = [e["done"] for e in epochs]
    assert shares == sorted(shares)
    assert shares[0] == 0 and shares[-1] == pytest.approx(1)
    assert [e["epoch"] for e in epochs if e["network"] == "lth"] == [0, 1, 2, 3]
    last = {e["network"]: e["test"]["accuracy"] for e in epochs if e["test"]}
    assert next(e for e in events if e["kind"] == "seed")["accuracies"] == last


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sparsity": 1.0}, "sparsity is 1; expected a fraction"),
        ({"sparsity": None}, "sparsity is null"),
        ({"rewind_epoch": 40}, "rewind_epoch is 40; expected 0 to 39"),
        ({"epochs": 2.5}, "epochs is 2.5"),
        ({"lr": -1}, "lr is -1; expected a number above 0"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "no number twice"),
        ({"prune_fraction": 0}, "prune_fraction"),
        ({"prune_fraction": 1e-17}, "prune_fraction is 1e-17; expected a fraction from 0.01 on"),
        ({"sparisty": 0.5}, "sparisty"),
    ],
)
def test_wrong_parameters_are_refused(js: Js, given: dict[str, Any], said: str) -> None:
    code = 'try { L.run(p); return "ran"; } catch (error) { return error.message; }'
    assert said in js(code, p=given)
