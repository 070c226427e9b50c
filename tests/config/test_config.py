"""Experiments from flat parameters: defaults, checks, canonical JSON, seeds."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_canonical import plain

from lotperm.config.canonical import canonical_json, sha256_json
from lotperm.config.choices import DATASETS
from lotperm.config.experiment import Experiment
from lotperm.config.parameters import PARAMETERS
from lotperm.config.seeds import Seeds, derive_seed
from lotperm.errors import ParameterError


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("dense", "gamma", "x"),
        ("dense", "milestones", ["a"]),
        ("dense", "milestones", 5),
        ("dense", "warmup_epochs", "z"),
        ("dense", "schedule", 3),
        ("data", "image_size", "large"),
        (None, "keep", ["q"]),
        (None, "keep", "all"),
    ],
)
def test_a_wrong_type_in_a_file_is_refused_by_name(part, name, value):
    content = json.loads(canonical_json(Experiment.from_parameters(profile="smoke").to_dict()))
    (content[part] if part else content)[name] = value
    with pytest.raises(ParameterError, match=name):
        Experiment.from_dict(content)


def test_canonical_json_does_not_depend_on_order_and_refuses_nan():
    assert sha256_json({"a": 1, "b": [1, 2.5]}) == sha256_json({"b": [1, 2.5], "a": 1})
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})
    for bad in (math.nan, math.inf, {1: 2}, {"a": {2, 3}}):
        with pytest.raises(ParameterError):
            canonical_json(bad)


def test_seeds_are_streams_of_their_own():
    streams = [
        getattr(Seeds.of(network, seed), kind)
        for network in ("dense_a", "dense_b", "sparse_b")
        for seed in range(20)
        for kind in ("init", "order", "augment")
    ]
    assert len(set(streams)) == len(streams)
    assert all(0 <= s < 2**63 for s in streams)
    assert derive_seed("a", 1) == derive_seed("a", 1)


@pytest.mark.parametrize("profile", ["smoke", "laptop", "desktop", "paper"])
@pytest.mark.parametrize("dataset", [None, *DATASETS])
def test_every_profile_and_data_set_has_defaults(profile, dataset):
    experiment = Experiment.from_parameters(profile=profile, dataset=dataset)
    assert experiment.profile == profile
    assert dataset is None or experiment.data.name == dataset
    assert all(k < experiment.dense.epochs for k in experiment.rewind_epochs)
    canonical_json(experiment.to_dict())


def test_the_paper_profile_is_the_protocol():
    e = Experiment.from_parameters(profile="paper")
    assert (e.data.name, e.model.name, e.model.width) == ("cifar10", "resnet20", 1.0)
    assert (e.dense.epochs, e.dense.lr, e.dense.momentum, e.dense.weight_decay) == (
        200,
        0.08,
        0.9,
        5e-4,
    )
    assert (e.dense.batch_size, e.dense.schedule, e.dense.augment) == (128, "cosine", "flip_crop")
    f = e.pruning.finetune
    assert (f.epochs, f.lr, f.momentum, f.weight_decay) == (50, 0.01, 0.0, 0.0)
    assert (e.pruning.imp, e.pruning.fraction, e.pruning.scope, e.pruning.prunable) == (
        "finetune",
        0.2,
        "global",
        "paper",
    )
    sparse = e.sparse_recipe(20)
    assert (sparse.epochs, sparse.lr, sparse.momentum, sparse.weight_decay) == (
        180,
        0.02,
        0.9,
        5e-4,
    )
    assert (e.sparsities, e.rewind_epochs, e.seeds) == ((0.8, 0.9, 0.95, 0.97), (20,), (0, 1, 2))
    assert e.matching.samples is None
    assert Experiment.from_parameters(profile="paper", dataset="svhn").dense.augment == "crop"


def test_given_values_win_and_lists_are_taken():
    e = Experiment.from_parameters(
        profile="smoke", sparsity=[0.5, 0.9], seeds=2, rewind_epoch=0, hidden=[8], width=2
    )
    assert (e.sparsities, e.seeds, e.rewind_epochs, e.model.hidden, e.model.width) == (
        (0.5, 0.9),
        (0, 1),
        (0,),
        (8,),
        2.0,
    )
    assert Experiment.from_parameters(profile="smoke", seeds=[3, 7]).seeds == (3, 7)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"sparisty": 0.9}, "Did you mean 'sparsity'"),
        ({"profile": "lapto"}, "Did you mean 'laptop'"),
        ({"dataset": "cifar-10"}, "Did you mean 'cifar10'"),
        ({"sparsity": "0.9"}, "sparsity is '0.9'; expected a number"),
        ({"sparsity": True}, "sparsity is True"),
        ({"sparsity": 1.0}, "0 < sparsity < 1"),
        ({"sparsity": []}, "at least one"),
        ({"sparsity": [0.5, 0.5]}, "no number twice"),
        ({"lr": math.nan}, "lr is nan"),
        ({"lr": math.inf}, "lr is inf"),
        ({"lr": -0.1}, "lr is -0.1"),
        ({"epochs": 3.5}, "epochs is 3.5; expected a whole number"),
        ({"epochs": 5, "rewind_epoch": 5}, "0 <= rewind_epoch < epochs"),
        ({"seeds": 0}, "seeds is 0"),
        ({"seeds": [-1]}, "0 or more"),
        ({"momentum": 1.0}, "momentum"),
        ({"imp": "finetun"}, "Did you mean 'finetune'"),
        ({"matching": "activations"}, "Did you mean 'activation'"),
        ({"augment": "flip"}, "Did you mean 'flip_crop'"),
        ({"batch_size": 0}, "batch_size"),
        ({"width": 0}, "width"),
        ({"prune_fraction": 1}, "prune_fraction"),
        ({"match_points": "author"}, "Did you mean 'authors'"),
        *(
            (
                {"match_points": "authors", "model": model, "dataset": "cifar10"},
                f"match_points is 'authors'; expected last or penultimate with {model}",
            )
            for model in ("mlp", "resnet8", "vgg11")
        ),
    ],
)
def test_wrong_parameters_are_refused_with_a_useful_sentence(parameters, message):
    with pytest.raises(ParameterError, match=message) as caught:
        Experiment.from_parameters(**parameters)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@given(st.sampled_from(sorted(PARAMETERS)), plain)
def test_any_value_is_taken_or_refused_by_name(name, value):
    try:
        experiment = Experiment.from_parameters(**{name: value})
    except ParameterError:  # the only error that may come
        return
    assert canonical_json(experiment.to_dict())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seeds", np.array([0, 1])),
        ("seeds", np.int64(2)),
        ("seeds", range(2)),
        ("seeds", (np.int32(0), 1)),
        ("seeds", "[0, 1]"),
        ("sparsity", np.array([0.8, 0.9])),
        ("sparsity", [np.float64(0.8), 0.9]),
        ("sparsity", "[0.8, 0.9]"),
    ],
)
def test_numbers_of_numpy_ranges_and_lists_in_text(name, value):
    plain = {"seeds": [0, 1], "sparsity": [0.8, 0.9]}
    expected = Experiment.from_parameters(profile="smoke", **plain)
    assert Experiment.from_parameters(profile="smoke", **plain | {name: value}) == expected


@pytest.mark.parametrize(
    "value", ["[0", "2", np.True_, range(10**12), np.zeros((1, 2), int), '["a"]', "[" * 10**5]
)
def test_what_is_no_list_of_seeds(value):
    with pytest.raises(ParameterError, match="expected a count up to 1,000, or a list"):
        Experiment.from_parameters(profile="smoke", seeds=value)
