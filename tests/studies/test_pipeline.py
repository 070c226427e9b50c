"""The pipeline: its stages are what they say, are computed once, and the tables are tidy."""

import json

import pandas as pd
import pytest
import torch
from little import tiny

from lotperm import Experiment, Pipeline, Store, permute, run
from lotperm.config.seeds import Seeds
from lotperm.data.batches import normalize
from lotperm.engine.models import initialize
from lotperm.engine.runtime import Runtime
from lotperm.errors import ParameterError, StorageError
from lotperm.science.ranking import kept_after
from lotperm.science.sparsity import apply_mask
from lotperm.studies.arms.arms import PAPER_ARMS


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def stage_names(store):
    return sorted(
        path.name for path in (store.root / "stages").iterdir() if not path.name.startswith(".")
    )


def test_the_table_is_tidy(smoke):
    pipeline, results = smoke
    experiment = pipeline.experiment
    keys = ["seed", "method", "sparsity", "rewind_epoch", "metric"]
    assert list(results.table.columns) == [*keys, "value"]
    assert not results.table.duplicated(keys).any()
    assert results.table["value"].notna().all()
    assert set(results.table["method"]) == {"dense_a", "dense_b", "imp", *PAPER_ARMS}
    for method in results.table["method"].unique():
        assert set(results.table.loc[results.table["method"] == method, "seed"]) == set(
            experiment.seeds
        )
    accuracy = results.table.loc[results.table["metric"] == "test_accuracy", "value"]
    assert accuracy.between(0, 1).all()


def test_smoke_shows_the_effect_and_its_numbers(smoke, request):
    """The means of this machine are those recorded beside this file, up to what other
    processors change.
    """
    _, results = smoke
    summary = results.summary().set_index("method")["mean"]
    recorded = json.loads((request.path.parents[1] / "reference" / "smoke.json").read_text())[
        "accuracy"
    ]
    assert recorded.keys() == set(summary.index)
    for method, mean in recorded.items():
        assert summary[method] == pytest.approx(mean, abs=0.05), method
    assert summary["lth"] > summary["naive"] + 0.03
    assert summary["permuted"] > summary["naive"] + 0.02


def test_what_the_arms_start_from(smoke):
    """The arms differ in just what they should: weights of A or B at epoch k, mask m or π(m)."""
    pipeline, _ = smoke
    sparsity, k = pipeline.experiment.sparsities[0], pipeline.experiment.rewind_epochs[0]
    masks, matchings = pipeline.masks(sparsity, k), pipeline.match()
    stage = pipeline.sparse(sparsity, k)
    final = stage.load("final")
    n = len(pipeline.experiment.seeds)
    for i in range(n):
        for arm, position in (("lth", i), ("permuted", n + i), ("naive", 2 * n + i)):
            mask = permute(masks[i], pipeline.spec, matchings[i]) if arm == "permuted" else masks[i]
            kept = 0
            for name, keep in mask.items():
                weights = final[name][position]
                assert int(torch.count_nonzero(weights[~keep])) == 0, (
                    f"{arm}: a pruned weight of {name} isn't zero"
                )
                assert torch.count_nonzero(weights[keep]) > 0.9 * keep.sum()
                kept += int(keep.sum())
            assert kept == kept_after(sum(m.numel() for m in mask.values()), sparsity)
    # Before the first step: the loss of B's rewind weights under each mask.
    b = pipeline.dense().weights(k)[1]
    for arm, position in (("permuted", n), ("naive", 2 * n)):
        mask = permute(masks[0], pipeline.spec, matchings[0]) if arm == "permuted" else masks[0]
        start = apply_mask(b[0], mask)
        accuracy = _accuracy(pipeline, start)
        assert stage.results["evaluations"]["0"]["accuracy"][position] == pytest.approx(
            accuracy, abs=1e-6
        )


def _accuracy(pipeline, weights):

    pipeline.model.eval()
    with torch.no_grad():
        x = normalize(pipeline.data.test.inputs, pipeline.data)
        logits = torch.func.functional_call(pipeline.model, weights, x)
    return (logits.argmax(1) == pipeline.data.test.targets).float().mean().item()


def test_dense_networks_are_kept_at_exact_epochs(smoke):
    pipeline, _ = smoke
    a, b = pipeline.dense().weights(0)

    for network, states in (("dense_a", a), ("dense_b", b)):
        for seed, state in zip(pipeline.experiment.seeds, states, strict=True):
            fresh = initialize(pipeline.build, Seeds.of(network, seed).init)
            assert all(torch.equal(fresh[name], state[name]) for name in fresh)
    last = pipeline.dense().weights(pipeline.experiment.dense.epochs)[0][0]
    final = pipeline.dense().weights()[0][0]
    assert all(torch.equal(last[name], final[name]) for name in final)


def test_running_again_computes_nothing(smoke, monkeypatch):
    pipeline, results = smoke
    monkeypatch.setattr("lotperm.studies.workbench.train", _never)
    monkeypatch.setattr("lotperm.studies.subject.match_activations", _never)
    again = run(pipeline.experiment)
    pd.testing.assert_frame_equal(again.table, results.table)
    pd.testing.assert_frame_equal(again.curves, results.curves)


def _never(*args, **kwargs):
    raise AssertionError("something was computed again")


def test_two_stores_give_the_same_bits(tmp_path):
    stores = [Store(tmp_path / name) for name in "ab"]
    for s in stores:
        tiny(s).run()
    assert stage_names(stores[0]) == stage_names(stores[1])
    for name in stage_names(stores[0]):
        files = [sorted((s.root / "stages" / name).glob("*.safetensors")) for s in stores]
        assert [f.name for f in files[0]] == [f.name for f in files[1]]
        assert all(f.read_bytes() == g.read_bytes() for f, g in zip(*files, strict=True)), name


def test_stages_are_shared(store):
    tiny(store, sparsity=[0.5, 0.6]).run()
    names = stage_names(store)
    # 0.5 takes rounds 0.2, 0.36, 0.488, 0.5; 0.6 takes 0.2, 0.36, 0.488, 0.59, 0.6: three are
    # shared.
    count = {
        kind: sum(name.startswith(f"{kind}-") for name in names)
        for kind in ("dense", "imp", "match", "sparse")
    }
    assert count == {"dense": 1, "imp": 6, "match": 1, "sparse": 2}
    tiny(store, rewind_epoch=[0, 2], sparsity=0.5).run()
    names = stage_names(store)
    count = {
        kind: sum(name.startswith(f"{kind}-") for name in names)
        for kind in ("dense", "imp", "match", "sparse")
    }
    assert count == {"dense": 1, "imp": 6, "match": 1, "sparse": 4}


def test_a_result_depends_on_what_it_should(store):
    base = tiny(store).run().summary()["mean"].tolist()
    assert tiny(store, lr=0.05).run().summary()["mean"].tolist() != base
    assert tiny(store, seeds=[4, 5]).run().summary()["mean"].tolist() != base


@pytest.mark.parametrize(
    "changes",
    [
        {"imp": "rewind"},
        {"scope": "layerwise"},
        {"matching": "weight"},
        {"prunable": "all", "model": "resnet8", "width": 0.25},
        {"model": "resnet8", "width": 0.25, "match_points": "penultimate", "match_samples": 100},
        {"model": "vgg11", "width": 0.0625, "precision": "bfloat16"},
    ],
)
def test_other_ways_run(store, changes):
    results = tiny(store, **changes).run()
    assert results.table["value"].notna().all()
    assert len(results.comparisons()) == 4


def test_imp_by_rewinding_starts_from_the_rewind_weights(store):
    pipeline = tiny(store, imp="rewind", rewind_epoch=1)
    first = pipeline.imp_rounds(0.5, 1)[0]
    recipe = pipeline.experiment.sparse_recipe(1)
    assert first.config["recipe"]["epochs"] == recipe.epochs == 2
    mask = {name: kept[0] for name, kept in first.load("mask").items()}
    start = apply_mask(pipeline.dense().weights(1)[0][0], mask)
    assert first.results["evaluations"]["2"]["accuracy"][0] != _accuracy(pipeline, start)
    fine = tiny(store).imp_rounds(0.5, 1)[0]
    # The first mask is cut from the same trained A; what follows differs.
    assert all(torch.equal(first.load("mask")[n], fine.load("mask")[n]) for n in mask)
    assert not torch.equal(
        first.load("final")["classifier.weight"], fine.load("final")["classifier.weight"]
    )


def test_the_page_shows_the_numbers(smoke):
    _, results = smoke
    page = results.markdown()
    for row in results.summary().to_dict("records"):
        assert (
            f"| {row['method']} | {100 * row['mean']:.2f} ± {100 * row['half_width']:.2f} |" in page
        )
    closed = results.comparisons().set_index("comparison").loc["gap closed"]
    assert f"gap closed (percent) | {100 * closed['mean']:.2f}" in page
    assert results.stages[-1]["source"][:12] in page


def test_files_of_the_results(smoke, tmp_path):
    _, results = smoke
    results.save(tmp_path)
    table = pd.read_csv(tmp_path / "results.csv")
    assert len(table) == len(results.table)
    assert set(pd.read_csv(tmp_path / "curves.csv")["metric"]) == {
        "train_loss",
        "test_accuracy",
        "test_loss",
    }
    assert (tmp_path / "summary.md").read_text() == results.markdown()
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["experiment"]["profile"] == "smoke"
    assert {c["comparison"] for c in content["comparisons"]} == {
        "permuted - naive",
        "lth - permuted",
        "lth - naive",
        "gap closed",
    }
    assert all(
        {"stage", "key", "source", "versions", "device"} <= stage.keys()
        for stage in content["stages"]
    )


def test_a_missing_data_set_is_named_before_anything_trains(store, monkeypatch):
    monkeypatch.setattr("lotperm.studies.workbench.train", _never)
    with pytest.raises(StorageError, match="lotperm data fetch cifar10"):
        Pipeline(Experiment.from_parameters(dataset="cifar10", profile="smoke"), store).run()
    assert not (store.root / "stages").exists() or not stage_names(store)


def test_one_seed_gives_no_interval_but_a_result(store):
    results = tiny(store, seeds=1).run()
    assert results.summary()["half_width"].isna().all()
    json.dumps(results.experiment.to_dict())


def test_tasks_are_known_before_anything_is_computed(store):
    pipeline = tiny(store, sparsity=[0.3, 0.36])
    tasks = pipeline.tasks()
    assert not (store.root / "stages").exists()
    assert not any(task.done() for task in tasks)
    assert [task.name for task in tasks] == [
        "dense",
        "imp",
        "imp",
        "match",
        "sparse",
        "imp",
        "sparse",
    ]
    assert all(before in tasks[:i] for i, task in enumerate(tasks) for before in task.after)
    pipeline.run()
    again = tiny(store, sparsity=[0.3, 0.36])
    assert [task.key for task in again.tasks()] == [task.key for task in tasks]
    assert all(task.done() for task in again.tasks())
    assert len(stage_names(store)) == len(tasks)


def test_the_work_of_a_task_is_what_was_trained(store):
    counted = []

    class Bar:
        def update(self, n):
            counted[-1] += n

        def set_postfix_str(self, s):
            pass

        def close(self):
            pass

    def bar(label, images):
        counted.append(0)
        return Bar()

    pipeline = Pipeline(tiny(store).experiment, store, Runtime(progress=bar))
    tasks = pipeline.tasks()
    pipeline.run()
    trained = [task.work.train_images for task in tasks if task.work.networks]
    assert counted == trained
    assert tasks[0].work.networks == 4
    assert tasks[0].work.epochs == 3


def test_a_network_with_nothing_to_permute_is_refused_before_it_is_trained(tmp_path, monkeypatch):
    monkeypatch.setattr("lotperm.studies.workbench.train", _never)
    experiment = Experiment.from_parameters(profile="smoke", hidden=[1, 1])
    with pytest.raises(ParameterError, match="mlp has no layer of two units or more"):
        Pipeline(experiment, Store(tmp_path)).run()
