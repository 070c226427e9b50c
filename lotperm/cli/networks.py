"""The networks that files of weights and masks belong to: one of ours, or the user's own."""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from lotperm.config.choices import MODELS
from lotperm.data import batches, datasets
from lotperm.data.catalog import SPECS
from lotperm.data.dataset import Dataset
from lotperm.engine import models
from lotperm.errors import ParameterError, UnsupportedModelError, did_you_mean, shown
from lotperm.science.symmetry import PermutationSpec


def network_and_spec(
    model: str,
    dataset: str,
    data: Dataset | None,
    input_shape: str | None,
    width: float,
    hidden: str,
) -> tuple[nn.Module, PermutationSpec]:
    """Build the network that the files belong to, and trace its symmetries.

    Parameters
    ----------
    model : str
        A name of ours, or ``MODULE:FUNCTION`` of the user's own.
    dataset : str
        Name of the data set.
    data : Dataset | None
        The data set, if it was loaded: its first two training images are what the network is
        traced on. Otherwise random inputs of the same shape.
    input_shape : str | None
        Shape of an example, in place of the data set's.
    width : float
        Multiple of the published width; of our networks alone.
    hidden : str
        Widths of the MLP's hidden layers, separated by commas.

    Raises
    ------
    ParameterError
        If there is no such network, or a text can't be read.
    """
    shape, classes = form_of(dataset, data, input_shape)
    network = network_of(model, shape, classes, width, hidden)
    if data is not None:
        inputs = batches.normalize(data.train.inputs[:2], data)
        return network, PermutationSpec.trace(network, inputs)
    inputs = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    try:
        return network, PermutationSpec.trace(network, inputs)
    except UnsupportedModelError:
        # A network of words takes their numbers, of which 0 is the first in any.
        numbers = torch.zeros_like(inputs, dtype=torch.int64)
        with contextlib.suppress(UnsupportedModelError):
            return network, PermutationSpec.trace(network, numbers)
        raise


def network_alone(
    model: str, dataset: str, input_shape: str | None, width: float, hidden: str
) -> nn.Module:
    """Build the network that a file belongs to, without tracing it; parameters are as above.

    A network of the user's own needs no form of the data.
    """
    if ":" in model:
        return own_network(model)
    return network_of(model, *form_of(dataset, None, input_shape), width, hidden)


def form_of(
    dataset: str, data: Dataset | None, input_shape: str | None
) -> tuple[tuple[int, ...], int]:
    """Return the shape of an example and the number of classes; read no data for them."""
    sizes = None if input_shape is None else _whole_numbers("--input-shape", input_shape, "3,32,32")
    if data is None and dataset in SPECS:
        return sizes or SPECS[dataset].shape, SPECS[dataset].classes
    data = data or datasets.load(dataset)
    return sizes or data.input_shape, data.classes


def _whole_numbers(option: str, text: str, example: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(n) for n in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise ParameterError(f"{option} is {text!r}; expected whole numbers, as {example}.")
    return sizes


def network_of(
    model: str, shape: tuple[int, ...], classes: int, width: float, hidden: str
) -> nn.Module:
    """Build one of our networks, or the user's own."""
    if ":" in model:
        return own_network(model)
    sizes = _whole_numbers("--hidden", hidden, "128,128")
    if not 0 < width < math.inf:
        raise ParameterError(f"--width is {width}; expected a number above 0.")
    if model not in MODELS and Path(model.removesuffix(".py") + ".py").is_file():
        raise ParameterError(
            f"unknown model {shown(model)}. For a network in that file, say which function makes "
            f"it: {model}:FUNCTION."
        )
    return models.build(model, input_shape=shape, classes=classes, width=width, hidden=sizes)


def own_network(name: str) -> nn.Module:
    """Call the user's ``MODULE:FUNCTION``, which may be a file in the working directory.

    The module may be given as the path of its file. A module in place of the function is taken as
    it is.
    """
    module, _, function = name.rpartition(":")
    own = _imported(name, module)
    made = getattr(own, function, None)
    if made is None:
        valid = [n for n, value in vars(own).items() if callable(value)]
        raise ParameterError(
            f"--model {name}: {module} has no {shown(function)}.{did_you_mean(function, valid)} "
            "Expected MODULE:FUNCTION."
        )
    if not isinstance(made, nn.Module):
        if not callable(made):
            raise ParameterError(
                f"--model {name}: {function} is a {type(made).__name__}; expected a function that "
                "makes the network."
            )
        try:
            made = made()
        except (Exception, SystemExit) as error:  # whatever the user's file raises
            raise ParameterError(
                f"--model {name}: {function}() fails: {_first_line(error)} It is called without "
                "arguments."
            ) from error
    if not isinstance(made, nn.Module):
        raise ParameterError(
            f"--model {name}: {function}() gives a {type(made).__name__}; expected an nn.Module."
        )
    return made


def _imported(name: str, module: str) -> ModuleType:
    """Import the module that has the network, by its name or the path of its file."""
    folder = Path.cwd()
    if module.endswith(".py"):
        folder, module = Path(module).parent.absolute(), Path(module).stem
    if not module or module.startswith("."):
        raise ParameterError(f"--model {name}: no module is named. Expected MODULE:FUNCTION.")
    sys.path.insert(0, str(folder))
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:  # one that the user's file wants
            raise ParameterError(f"--model {name}: {module} fails: {_first_line(error)}") from None
        files = [path.stem for path in folder.glob("*.py")]
        raise ParameterError(
            f"--model {name}: {error}.{did_you_mean(module, files)} Expected MODULE:FUNCTION that "
            "can be imported here."
        ) from None
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        raise ParameterError(f"--model {name}: {module} fails: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    text = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {text.rstrip('.')}."
