"""Parameters as they are declared: what is derived from a declaration, and what is checked by it."""

import ast
import dataclasses
import inspect
import json
import pickle
from pathlib import Path

import pytest

from lotperm.config import settings
from lotperm.config.configuration import declared
from lotperm.config.experiment import Experiment
from lotperm.config.parameters import PARAMETERS, parameter_cell
from lotperm.errors import ParameterError

CONFIGURATIONS = (
    settings.Recipe,
    settings.DataConfig,
    settings.ModelConfig,
    settings.PruningConfig,
    settings.MatchingConfig,
    Experiment,
)
NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
SMOKE = Experiment.from_parameters(profile="smoke")


def test_every_parameter_has_a_field_and_a_meaning():
    found = {
        parameter.name
        for configuration in CONFIGURATIONS
        for parameter in declared(configuration).values()
    }
    only_flat = {"widths", "finetune_epochs", "finetune_lr", "finetune_schedule"}
    assert found - {"keep"} == set(PARAMETERS) - only_flat
    for name, parameter in PARAMETERS.items():
        assert parameter.name == name
        assert all(text and "\n" not in text for text in parameter.row().values())


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_default_is_one_that_is_taken(name):
    parameter = PARAMETERS[name]
    if parameter.default is not dataclasses.MISSING:
        assert parameter.check(parameter.default) == parameter.default


# A change of each parameter of a recipe; a schedule and its milestones come together.
CHANGES = {
    "epochs": {"epochs": 13},
    "lr": {"lr": 0.5},
    "sparse_lr": {"sparse_lr": 0.5},
    "momentum": {"momentum": 0.5},
    "weight_decay": {"weight_decay": 0.5},
    "batch_size": {"batch_size": 5},
    "schedule": {"schedule": "constant"},
    "milestones": {"schedule": "step", "milestones": [3]},
    "gamma": {"gamma": 0.5},
    "warmup_epochs": {"warmup_epochs": 1},
    "augment": {"augment": "crop"},
    "precision": {"precision": "bfloat16"},
    "finetune_epochs": {"finetune_epochs": 7},
    "finetune_lr": {"finetune_lr": 0.5},
    "finetune_schedule": {"finetune_schedule": "constant"},
}


def test_what_a_parameter_applies_to_is_what_it_changes():
    def recipes(experiment: Experiment) -> dict[str, settings.Recipe]:
        return {
            "dense networks": experiment.dense,
            "sparse arms": experiment.sparse_recipe(2),
            "IMP rounds": experiment.pruning.finetune,
        }

    before = recipes(SMOKE)
    assert set(CHANGES) >= {field.name for field in dataclasses.fields(settings.Recipe)}
    for name, change in CHANGES.items():
        after = recipes(Experiment.from_parameters(profile="smoke", **change))
        changed = {part for part in before if after[part] != before[part]}
        assert changed == set(PARAMETERS[name].applies.split(", ")), name


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_docstrings_list_the_fields_with_their_help(configuration):
    text = inspect.getdoc(configuration)
    for field in dataclasses.fields(configuration):
        assert f"\n{field.name} : " in text
    for parameter in declared(configuration).values():
        assert parameter.meaning[1:] in text


def test_a_cell_of_parameters_is_python_that_the_formatter_leaves_alone():
    cell = parameter_cell(PARAMETERS, epochs=3, dataset="svhn")
    lines = cell.splitlines()
    assert len(lines) == len(PARAMETERS)
    assert max(map(len, lines)) <= 100
    given = {}
    exec(cell, given)
    chosen = {"profile": "smoke", "epochs": 3, "dataset": "svhn"}
    assert {name: given[name] for name in PARAMETERS} == dict.fromkeys(PARAMETERS) | chosen
    with pytest.raises(ParameterError, match="Did you mean 'epochs'"):
        parameter_cell(["epoch"])


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_cells_of_notebooks_say_what_the_declarations_say(notebook):
    (source,) = (
        "".join(cell["source"])
        for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        if "parameters" in cell["metadata"].get("tags", ())
    )
    lines = source.splitlines()
    assigned = {node.targets[0].id: node for node in ast.parse(source).body}
    known = [name for name in assigned if name in PARAMETERS]
    if known == ["profile"]:
        return  # a page without an experiment, the same in all profiles
    for name in known:
        node = assigned[name]
        written = "\n".join(lines[node.lineno - 1 : node.end_lineno])
        assert written == parameter_cell([name], **{name: ast.literal_eval(node.value)})


def test_configurations_are_plain_dataclasses():
    assert pickle.loads(pickle.dumps(SMOKE)) == SMOKE
    assert hash(Experiment.from_dict(SMOKE.to_dict())) == hash(SMOKE)
    assert dataclasses.asdict(SMOKE)["dense"]["momentum"] == 0.9
    wider = dataclasses.replace(SMOKE, model=dataclasses.replace(SMOKE.model, width=2))
    assert wider.model.width == 2.0 and wider.dense is SMOKE.dense and wider != SMOKE
    with pytest.raises(dataclasses.FrozenInstanceError):
        SMOKE.sparse_lr = 1.0
    with pytest.raises(ParameterError, match=r"rewind_epoch is 2; expected 0 <= rewind_epoch"):
        dataclasses.replace(SMOKE, dense=dataclasses.replace(SMOKE.dense, epochs=1))


def test_what_is_kept_is_in_order_and_has_the_rewind_epochs():
    assert dataclasses.replace(SMOKE, keep=[5, 2, 5]).keep == (2, 5)
    for keep, message in (([5], "2 too"), ([2, 13], "0 <= keep <= epochs"), ([-1, 2], "0 or more")):
        with pytest.raises(ParameterError, match=f"keep is .*{message}"):
            dataclasses.replace(SMOKE, keep=keep)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"finetune_lr": -1}, "finetune_lr is -1; expected more than 0."),
        ({"finetune_schedule": "step"}, "unknown finetune_schedule 'step'."),
        ({"width": 1001}, "width is 1001; expected 0 < width <= 1,000."),
        ({"image_size": 7}, "image_size is 7; expected 8 to 4,096."),
        ({"hidden": [8, 0]}, "hidden is 0; expected 1 to 1,000,000."),
        ({"train_size": 0}, "train_size is 0; expected 1 or more."),
        ({"momentum": 1}, "momentum is 1; expected 0 <= momentum < 1."),
        ({"scope": 3}, "scope is 3; expected text."),
        ({"seeds": 1001}, "seeds is 1001; expected a count up to 1,000, or a list of whole"),
        ({"sparsity": [[0.5]]}, "sparsity is [[0.5]]; expected a number, or a list of numbers."),
        ({"image_size": 32}, "image_size is 32; expected nothing: mnist1d has a size of its own."),
    ],
)
def test_errors_name_the_parameter_and_its_bounds(given, message):
    with pytest.raises(ParameterError) as caught:
        Experiment.from_parameters(profile="smoke", **given)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("dense", "momentun"), 0.9, "unknown key 'momentun'. Did you mean 'momentum'?"),
        (("sparcities",), 1, "unknown key 'sparcities'. Did you mean 'sparsities'?"),
        (("dense",), 5, "Recipe is 5; expected the names epochs, lr, momentum"),
        (("pruning", "finetune", "lr"), "fast", "lr is 'fast'; expected a number."),
        (("pruning", "fraction"), 2, "prune_fraction is 2; expected 0 < prune_fraction < 1."),
        (("sparsities",), [0.5, "x"], "sparsity is [0.5, 'x']; expected a number, or a list"),
        (("model", "name"), "mpl", "unknown model 'mpl'. Did you mean 'mlp'?"),
    ],
)
def test_a_record_is_refused_with_the_place_of_its_fault(path, value, message):
    plain = SMOKE.to_dict()
    place = plain
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(ParameterError) as caught:
        Experiment.from_dict(plain)
    assert str(caught.value).startswith(message)


def test_a_record_without_a_value_that_has_no_default_is_refused():
    plain = SMOKE.to_dict()
    del plain["dense"]["gamma"]
    assert Experiment.from_dict(plain) == SMOKE
    del plain["dense"]["lr"]
    with pytest.raises(ParameterError, match=r"Recipe.lr is None; expected a value."):
        Experiment.from_dict(plain)
    for wrong in ([], None, {1: 2}, {**SMOKE.to_dict(), 3: 4}):
        with pytest.raises(ParameterError):
            Experiment.from_dict(wrong)


def test_positional_values_are_named_in_errors():
    with pytest.raises(ParameterError, match="lr is 'x'; expected a number"):
        settings.Recipe(1, "x")
    with pytest.raises(ParameterError, match=r"unknown dataset 'svnh'\. Did you mean 'svhn'"):
        settings.DataConfig("svnh")
