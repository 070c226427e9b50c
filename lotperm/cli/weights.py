"""``lotperm match``, ``permute``, ``prune``, ``mask`` and ``convert``: files of weights and masks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import rich
import typer
from rich.table import Table
from torch import Tensor, nn

from lotperm.cli.networks import network_alone, network_and_spec
from lotperm.config.choices import MODELS
from lotperm.data import batches, datasets
from lotperm.data.dataset import Dataset, first
from lotperm.errors import IntegrityError, ParameterError, unknown_name
from lotperm.science import matching
from lotperm.science.patterns import (
    Pattern,
    breaks_pattern,
    nearest_pattern,
    pattern_breakers,
    pattern_cost,
)
from lotperm.science.ranking import collapsed
from lotperm.science.sparsity import (
    count,
    full_mask,
    magnitude_prune,
    mask_of_zeros,
    prunable_parameters,
)
from lotperm.science.state_dicts import read_mask, read_weights
from lotperm.science.symmetry import PermutationSpec, permute
from lotperm.store import convert
from lotperm.store.files import load_tensors, save_tensors
from lotperm.store.masks import read_tensors, save_mask

ModelOption = Annotated[
    str,
    typer.Option(
        help=f"{', '.join(MODELS)}; or your own as MODULE:FUNCTION, called without arguments."
    ),
]
DatasetOption = Annotated[str, typer.Option(help="Data set whose inputs the network takes.")]
WidthOption = Annotated[float, typer.Option(help="Width of the model, if it is one of ours.")]
HiddenOption = Annotated[str, typer.Option(help="Hidden widths of the mlp, such as 128,128.")]
ShapeOption = Annotated[
    str | None,
    typer.Option(
        help="Shape of an example, such as 3,32,32, in place of the data set's; reads no data."
    ),
]


def match(
    weights_a: Annotated[
        Path, typer.Argument(help="Weights of A: a state dict in a safetensors file.")
    ],
    weights_b: Annotated[Path, typer.Argument(help="Weights of B.")],
    out: Annotated[Path, typer.Option(help="Where to write the permutation.")] = Path(
        "permutation.safetensors"
    ),
    model: ModelOption = "resnet20",
    dataset: DatasetOption = "cifar10",
    width: WidthOption = 1.0,
    hidden: HiddenOption = "128,128",
    method: Annotated[str, typer.Option(help="activation or weight matching.")] = "activation",
    samples: Annotated[
        int, typer.Option(min=2, help="Training examples to compare activations on.")
    ] = 2000,
    input_shape: ShapeOption = None,
) -> None:
    """Find the permutation that aligns network A to network B, from two files of weights."""
    # Refused before the data set is loaded.
    if method not in ("activation", "weight"):
        raise unknown_name("method", method, ("activation", "weight"))
    data = datasets.load(dataset) if method == "activation" else None
    if data is not None and input_shape is not None:
        raise ParameterError(
            "--input-shape is for --method weight; activations need a data set's inputs."
        )
    network, spec = network_and_spec(model, dataset, data, input_shape, width, hidden)
    a, b = _load_weights(weights_a, network), _load_weights(weights_b, network)
    if data is None:
        found = matching.match_weights(a, b, spec)
    else:
        found = matching.match_activations(a, b, _inputs(data, samples), spec)
    # The scores go along, as evidence for the permutation.
    save_tensors(out, dict(found), {"kind": "permutation", "scores": json.dumps(found.scores)})
    table = Table(title="Score of each group of units: matched, and without permuting")
    for column in ("group", "units", "matched", "identity"):
        table.add_column(column)
    for group, score in found.scores.items():
        table.add_row(
            group, str(len(found[group])), f"{score:.3f}", f"{found.identity_scores[group]:.3f}"
        )
    rich.print(table)
    rich.print(f"Wrote {out}")


def permute_file(
    tensors: Annotated[Path, typer.Argument(help="A mask or weights, in a safetensors file.")],
    permutation: Annotated[Path, typer.Argument(help="What `lotperm match` wrote.")],
    out: Annotated[Path, typer.Option(help="Where to write the permuted tensors.")] = Path(
        "permuted.safetensors"
    ),
    model: ModelOption = "resnet20",
    dataset: DatasetOption = "cifar10",
    width: WidthOption = 1.0,
    hidden: HiddenOption = "128,128",
    input_shape: ShapeOption = None,
) -> None:
    """Carry a mask or weights of A over to B with a permutation."""
    # The network's form is all that moving tensors needs.
    _, spec = network_and_spec(model, dataset, None, input_shape, width, hidden)
    given, notes = load_tensors(tensors)
    moved = _load_permutation(permutation, spec)
    if not given:
        raise ParameterError(f"{tensors} holds no tensors, so there is nothing to permute.")
    result = permute(given, spec, moved)
    save_tensors(out, result, {"kind": notes.get("kind", "tensors")})
    rich.print(f"Wrote {out}: {len(result)} tensors permuted")


def prune(
    weights: Annotated[Path, typer.Argument(help="Weights: a state dict in a safetensors file.")],
    sparsity: Annotated[float, typer.Argument(help="Fraction of the prunable weights to remove.")],
    out: Annotated[Path, typer.Option(help="Where to write the mask.")] = Path("mask.safetensors"),
    model: ModelOption = "resnet20",
    dataset: DatasetOption = "cifar10",
    width: WidthOption = 1.0,
    hidden: HiddenOption = "128,128",
    rule: Annotated[
        str, typer.Option(help="Which tensors: paper (not the shortcut convs) or all.")
    ] = "paper",
    input_shape: ShapeOption = None,
) -> None:
    """Make a mask by global magnitude pruning, in one shot."""
    network = network_alone(model, dataset, input_shape, width, hidden)
    state = _load_weights(weights, network)
    # In one shot, from the dense network: rounds need training in between.
    full = full_mask(state, prunable_parameters(network, rule))
    found = magnitude_prune(state, full, sparsity)
    save_mask(out, found)
    counts = count(network, found)
    rich.print(
        f"Wrote {out}: {counts.kept:,} of {counts.prunable:,} prunable weights kept "
        f"(sparsity {counts.sparsity:.4f}; {counts.sparsity_of_all:.4f} of all "
        "weights)"
    )
    _say_what_is_lost(found)


def mask(
    source: Annotated[
        Path,
        typer.Argument(
            help="A mask; a state dict pruned by torch.nn.utils.prune; an open_lth folder; or weights "
            "whose zeros are the mask. Safetensors or .pt."
        ),
    ],
    pattern: Annotated[
        str | None, typer.Option(help="Also check a pattern n:m along the inputs, such as 2:4.")
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights by whose magnitude the nearest mask with --pattern is chosen."),
    ] = None,
    permutation: Annotated[
        Path | None, typer.Option(help="What `lotperm match` wrote: does it keep --pattern?")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write the mask.")] = None,
    model: ModelOption = "resnet20",
    dataset: DatasetOption = "cifar10",
    width: WidthOption = 1.0,
    hidden: HiddenOption = "128,128",
    rule: Annotated[
        str, typer.Option(help="Which tensors, for weights with zeros: paper or all.")
    ] = "paper",
    input_shape: ShapeOption = None,
) -> None:
    """Read a mask in any format, and show what it keeps of every layer."""
    if pattern is None and (weights or permutation):
        raise ParameterError("--weights and --permutation go with --pattern n:m.")
    wanted = None if pattern is None else Pattern.parse(pattern)

    def prunable() -> list[str]:
        return prunable_parameters(network_alone(model, dataset, input_shape, width, hidden), rule)

    found = _read_mask(source, prunable, model)
    broken = breaks_pattern(found, wanted) if wanted else {}
    table = Table(title="What the mask keeps of every layer")
    columns = ["layer", "weights", "kept", "density"]
    for column in columns + ([f"groups that break {pattern}"] if wanted else []):
        table.add_column(column)
    for name, kept in found.items():
        row = [name, f"{kept.numel():,}", f"{int(kept.sum()):,}", f"{kept.float().mean():.4f}"]
        table.add_row(*row, *([f"{broken.get(name, 0):,}"] if wanted else []))
    rich.print(table)
    total, left = (sum(int(n) for n in ns) for ns in zip(*_sizes(found), strict=True))
    rich.print(f"{left:,} of {total:,} weights kept (sparsity {1 - left / total:.4f})")
    _say_what_is_lost(found)
    if wanted and permutation:
        _, spec = network_and_spec(model, dataset, None, input_shape, width, hidden)
        apart = pattern_breakers(spec, _load_permutation(permutation, spec), wanted)
        rich.print(
            f"The permutation takes groups of inputs apart in {', '.join(apart)}."
            if apart
            else f"The permutation keeps {pattern} of any mask."
        )
    if wanted and weights:
        values = read_tensors(weights)
        nearest = nearest_pattern(values, found, wanted)
        cost = pattern_cost(values, found, nearest)
        rich.print(
            f"Nearest mask with {pattern}: {cost.removed:,} of {cost.kept:,} kept weights fewer, "
            f"{100 * cost.magnitude:.2f} % of their magnitude"
        )
        found = nearest
    if out is not None:
        save_mask(out, found)
        rich.print(f"Wrote {out}")


def _read_mask(source: Path, prunable: Callable[[], list[str]], model: str) -> dict[str, Tensor]:
    """Read a mask, or weights of a network whose zeros are meant.

    Parameters
    ----------
    source : Path
        The file, or a folder of open_lth.
    prunable : callable
        Gives the names of those weights of the network that may be pruned.
    model : str
        What the network is called.

    Raises
    ------
    ParameterError
        The file holds neither.
    """
    tensors = read_tensors(source)
    if not tensors:
        raise ParameterError(f"{source} holds no tensors, so no mask.")
    try:
        return read_mask(tensors)
    except ParameterError as error:
        try:
            return mask_of_zeros(tensors, prunable())
        except ParameterError as other:
            raise ParameterError(
                f"{source} isn't a mask: {str(error).rstrip('.')}; nor are these weights of "
                f"--model {model}: {other}"
            ) from None


def _load_permutation(path: Path, spec: PermutationSpec) -> dict[str, Tensor]:
    """Load what `match` wrote, with names of groups of the network."""
    found, _ = load_tensors(path)
    if not found:
        raise ParameterError(f"{path} holds no permutation; give what lotperm match wrote.")
    for group in found:
        if group not in spec.sizes:
            raise ParameterError(f"{path}: {unknown_name('permutation group', group, spec.sizes)}")
    return found


def _say_what_is_lost(mask: Mapping[str, Tensor]) -> None:
    if lost := collapsed(mask):
        rich.print(f"Nothing is kept of {', '.join(lost)}: no signal passes there.")


def _sizes(mask: Mapping[str, Tensor]) -> Iterator[tuple[int, int]]:
    return ((kept.numel(), int(kept.sum())) for kept in mask.values())


def convert_file(
    weights: Annotated[
        Path, typer.Argument(help="What torch.save wrote: a state dict, or a dict that holds one.")
    ],
    out: Annotated[Path, typer.Argument(help="The safetensors file to write.")],
    key: Annotated[
        str | None, typer.Option(help="Which entry is the state dict, if there are several.")
    ] = None,
) -> None:
    """Convert weights from elsewhere (.pt, .pth) to safetensors; a file that could run code is
    refused.
    """
    count = convert.convert(weights, out, key=key)
    rich.print(f"Wrote {out}: {count} tensors")


def _load_weights(path: Path, network: nn.Module) -> dict[str, Tensor]:
    """Load a state dict from a safetensors file; entries that the network lacks are left out.

    Raises
    ------
    IntegrityError
        If an entry of the network is missing or has another shape.
    """
    expected = network.state_dict()
    tensors, _ = load_tensors(path)
    try:
        weights = read_weights(tensors, expected)
    except ParameterError as error:
        raise IntegrityError(f"{path}: {error}") from None
    # Compared here, so that the error names the file; PyTorch's wouldn't.
    for name, tensor in expected.items():
        if name.rpartition(".")[2] == "num_batches_tracked":
            weights.setdefault(name, tensor)  # which old files lack, and nothing here reads
        if name not in weights:
            # First what the network doesn't know, as that may be the weight by another name.
            has = sorted(tensors, key=lambda other: other in weights)
            more = ", …" if len(has) > 3 else "."
            raise IntegrityError(
                f"{path} has no {name}, which the network needs; it has "
                f"{', '.join(has[:3]) or 'no tensors'}{more}"
            )
        if tensor.is_floating_point() and not weights[name].is_floating_point():
            raise IntegrityError(f"{path}: {name} is {weights[name].dtype}; expected floats.")
        if weights[name].shape != tensor.shape:
            raise IntegrityError(
                f"{path}: {name} is {tuple(weights[name].shape)}; expected {tuple(tensor.shape)}."
            )
    # What else a checkpoint holds, such as an optimizer's state, isn't needed.
    return {name: weights[name] for name in expected}


def _inputs(data: Dataset, samples: int) -> Iterator[Tensor]:
    """Yield the first so many training inputs in batches, normalized."""
    yield from batches.Batches(data, first(data.train, samples)).inputs()
