"""Products with named axes, as in Einstein notation, of activations with each other or weights."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lotperm.science.labels import LARGE, Labels
from lotperm.science.matrices import STAYS, Matrix
from lotperm.science.rules.elementwise import align
from lotperm.science.rules.reductions import statistic
from lotperm.science.rules.registry import Call, rule, unknown

# One factor of a product: ids or weights, and a letter for each of its axes.
_Factor = tuple[Any, str]


def contract(labels: Labels, x: Tensor, y: Tensor) -> Tensor:
    """Label ``x @ y`` of two activations, as a sum of products of single values.

    Attention scores are a sum over the units inside each head, so a value of the head; what they
    weight belongs to the head.
    """
    for ids in (x, y):
        if labels.may_move(ids):
            labels.consume(ids)
    if x.dim() == 1 or y.dim() == 1:
        x, dim = (x, -1) if y.dim() == 1 else (x.unsqueeze(-1), -2)
        return statistic(labels, align(labels, [x, y]), [dim], "scores").squeeze(dim)
    products = align(labels, [x.unsqueeze(-1), y.unsqueeze(-3)])
    return statistic(labels, products, [-2], "scores").squeeze(-2)


@rule("cdist")
def distances(labels: Labels, call: Call) -> Tensor:
    """Label the distances between rows, each a sum over the last dimension."""
    x, y = call.tensors
    differences = align(labels, [x.unsqueeze(-2), y.unsqueeze(-3)])
    return statistic(labels, differences, [-1], "scores").squeeze(-1)


@rule("cross", "linalg_cross")
def cross(labels: Labels, call: Call) -> Tensor:
    """Label a cross product of vectors, each of which may move as a whole."""
    out = align(labels, call.tensors)
    dim = call.arguments["dim"]
    dim = list(call.shape).index(3) if dim is None else dim % out.dim()
    labels.because("mixes the components of each vector, whose order matters")
    if dim in labels.varying(out):
        labels.unify(out, out.narrow(dim, 0, 1))
    if labels.may_move(out) and not labels.varying(out):
        labels.fix(out)
    return labels.find(out)


@rule("einsum", matrix=tuple(range(1, 9)))
def einsum(labels: Labels, call: Call) -> Any:
    """Label a product of activations and weights in Einstein notation."""
    equation, operands = call.args[:2]
    found = _letters(equation, [len(operand.shape) for operand in operands])
    if found is None:
        return unknown(labels, call)
    letters, result = found
    return product(labels, call, list(zip(operands, letters, strict=True)), result)


@rule("tensordot", matrix=(0, 1))
def tensordot(labels: Labels, call: Call) -> Any:
    """Label a product that is summed over pairs of axes."""
    a, b = call.args[:2]
    dims = [
        [d % len(x.shape) for d in dims] for x, dims in zip((a, b), call.args[2:4], strict=True)
    ]
    of_a = string.ascii_letters[: len(a.shape)]
    of_b = list(string.ascii_letters[len(a.shape) : len(a.shape) + len(b.shape)])
    for one, other in zip(*dims, strict=True):
        of_b[other] = of_a[one]
    result = [x for x in (*of_a, *of_b) if (x in of_a) != (x in of_b)]
    return product(labels, call, [(a, of_a), (b, "".join(of_b))], "".join(result))


@rule("inner", matrix=(0, 1))
def inner(labels: Labels, call: Call) -> Any:
    """Label a product that is summed over the last axes."""
    a, b = call.args
    of_a = string.ascii_lowercase[: len(a.shape) - 1]
    of_b = string.ascii_uppercase[: len(b.shape) - 1]
    return product(labels, call, [(a, of_a + "z"), (b, of_b + "z")], of_a + of_b)


@rule("bilinear", matrix=2)
def bilinear(labels: Labels, call: Call) -> Any:
    """Label ``x @ w[o] @ y + b`` for each output o."""
    x, y, weight = call.args[:3]
    if not all(isinstance(ids, Tensor) for ids in (x, y)):
        return unknown(labels, call)
    rest = string.ascii_lowercase[: x.dim() - 1]
    factors = [(x, rest + "X"), (y, rest + "Y"), (weight, "ZXY")]
    out = product(labels, call, factors, rest + "Z")
    bias = call.arguments.get("bias")
    return out if bias is None else align(labels, [out, bias])


def batched(labels: Labels, call: Call) -> Any:
    """Label ``x @ w`` or ``w @ x`` with weights that have batch axes before those of a matrix."""
    left, right = call.args[:2]
    if len(left.shape) < 2 or len(right.shape) < 2:
        return unknown(labels, call)
    count = len(call.shape) - 2
    result = string.ascii_lowercase[:count]
    factors = []
    for operand, own in ((left, "XZ"), (right, "ZY")):
        letters = result[count - len(operand.shape) + 2 :]
        # An axis of size 1 is repeated.
        kept = [d for d, _ in enumerate(letters) if operand.shape[d] > 1]
        operand = _without(operand, [d for d in range(len(letters)) if d not in kept])
        if operand is None:
            return unknown(labels, call)
        factors.append((operand, "".join(letters[d] for d in kept) + own))
    return product(labels, call, factors, result + "XY")


def _without(operand: Tensor | Matrix, dims: Sequence[int]) -> Any:
    """Return a factor without the given axes, along which it has size 1 or is constant."""
    if not dims:
        return operand
    if isinstance(operand, Tensor):
        return operand[tuple(0 if d in dims else slice(None) for d in range(operand.dim()))]
    return operand.reduced(dims, tuple(n for d, n in enumerate(operand.shape) if d not in dims))


def _letters(equation: str, dims: list[int]) -> tuple[list[str], str] | None:
    """Return the letters of each operand and of the result, or None if they can't be determined."""
    terms, arrow, result = equation.replace(" ", "").partition("->")
    letters = terms.split(",")
    if len(letters) != len(dims):
        return None
    # Letters for the axes that an ellipsis stands for, the last letters for the last axes.
    free = [x for x in string.ascii_letters if x not in equation]
    # The ellipsis counts as three letters of its term; each other letter is an axis.
    most = max(
        (n - len(t) + 3 for t, n in zip(letters, dims, strict=True) if "..." in t), default=0
    )
    if most < 0 or most > len(free):
        return None
    rest = "".join(free[:most])
    if not arrow:
        single = sorted(x for x in set(terms) - set(",.") if terms.count(x) == 1)
        result = ("..." if "..." in terms else "") + "".join(single)
    letters = [
        term.replace("...", rest[most - (n - len(term) + 3) :]) if "..." in term else term
        for term, n in zip(letters, dims, strict=True)
    ]
    result = result.replace("...", rest)
    if any(len(own) != n for own, n in zip(letters, dims, strict=True)):
        return None
    return letters, result


def product(labels: Labels, call: Call, factors: list[_Factor], result: str) -> Any:
    """Label a product of factors, summed over the letters that the result lacks."""
    if any(len(set(own)) < len(own) for own in (*(own for _, own in factors), result)):
        return unknown(labels, call)
    sizes = {x: n for f, own in factors for x, n in zip(own, f.shape, strict=True) if n > 1}
    weights = [(w, own) for w, own in factors if isinstance(w, Matrix)]
    values = [(ids, own) for ids, own in factors if isinstance(ids, Tensor)]
    while weights:
        # Take weights that share a letter with an activation; letters not needed later are summed.
        at = next(
            (i for i, (_, b) in enumerate(weights) if any(set(b) & set(a) for _, a in values)), 0
        )
        weight, own = weights.pop(at)
        mine = [(ids, a) for ids, a in values if set(a) & set(own)]
        values = [(ids, a) for ids, a in values if not set(a) & set(own)]
        later = set(result).union(*(a for _, a in (*weights, *values)))
        every = dict.fromkeys("".join(a for _, a in (*mine, (None, own))))
        kept = result if not weights and not values else "".join(x for x in every if x in later)
        ids = _weighed(labels, mine, weight, own, kept, sizes) if mine else None
        if ids is None:
            return unknown(labels, call)
        values.append((ids, kept))
    while len(values) > 1:
        (x, a), (y, b), *values = values
        later = set(result).union(*(own for _, own in values))
        kept = "".join(c for c in dict.fromkeys(a + b) if c in later) if values else result
        values.insert(0, (_contracted(labels, [x, y], [a, b], kept), kept))
    ids, own = values[0]
    if own != result:  # a single factor
        ids = _contracted(labels, [ids], [own], result)
    return ids.expand(call.shape)


def _weighed(
    labels: Labels,
    factors: list[tuple[Tensor, str]],
    weight: Matrix,
    own: str,
    result: str,
    sizes: dict[str, int],
) -> Tensor | None:
    """Label the product of activations with weights; None if there is no rule for it.

    Input units lie along the letters that both share and that are summed over, output units along
    the letters that only the weights have. A shared letter that remains numbers blocks, each with
    weights of its own, which keep their order.
    """
    given = {letter for _, a in factors for letter in a}
    blocks = [letter for letter in own if letter in given and letter in result]
    # No units lie along these: the weights are constant there, or summed without another factor.
    constant = [x for x in blocks if all(axes[own.index(x)] == () for _, axes in weight.parts)]
    alone = [letter for letter in own if letter not in given and letter not in result]
    dropped = [own.index(letter) for letter in (*constant, *alone)]
    left = _without(weight, dropped)
    if left is None:
        return None
    weight, own = left, "".join(x for d, x in enumerate(own) if d not in dropped)
    blocks = [x for x in blocks if x not in constant]
    made = [letter for letter in own if letter not in given]
    summed = [letter for letter in own if letter not in result]
    if not made or not summed:
        values = _values(labels, weight)
        if values is None:
            return None
        every = [*(ids for ids, _ in factors), values]
        return _contracted(labels, every, [*(a for _, a in factors), own], result)
    # Blocks can be told apart only along the first axis of a parameter (`Place`).
    of_rows = all(axes[0] == (0,) for _, axes in weight.parts) and weight.part is None
    if len(blocks) > 1 or (blocks and (own.index(blocks[0]) != 0 or not of_rows)):
        return None
    rows = [(i, i + 1) for i in range(weight.shape[0])] if blocks else [None]
    passing: list[Tensor] = []
    for ids, a in factors:
        here = [letter for letter in a if letter in summed]
        over = [d for d, letter in enumerate(a) if letter not in (*own, *result)]
        if over:
            ids = _without(statistic(labels, ids, over), over)
            a = "".join(letter for letter in a if letter in (*own, *result))
        rest = [letter for letter in a if letter not in (*blocks, *here)]
        kept = [letter for letter in a if letter in blocks]
        moved = ids.permute([a.index(letter) for letter in (*rest, *kept, *here)])
        varying = labels.varying(moved) if labels.may_move(moved) else []
        if varying and max(varying) < len(rest):  # positions are summed over, and units pass
            first = moved.flatten(len(rest))[..., 0] if len(rest) < moved.dim() else moved
            passing.append(_placed(first, rest, result))
            moved = torch.zeros([sizes.get(x, 1) for x in (*kept, *here)], dtype=torch.int64)
        else:
            flat = moved.reshape(math.prod(moved.shape[: len(rest)]), -1)
            moved = labels.along(flat, 1).view(moved.shape[len(rest) :])
        labels.consume(moved)
        for i, block in enumerate(rows):
            units = moved[i] if kept else moved
            _lie_on(labels, weight, own, here, units, block)
    axes = tuple(own.index(letter) for letter in made)
    shape = [weight.shape[d] for d in axes]
    every_block = [weight.produce(labels, axes, math.prod(shape), block) for block in rows]
    if blocks:
        labels.keep_together(every_block)
    if passing:
        labels.because("mixes positions, along another axis than the units that pass it")
        units = align(labels, passing)
        mixture = _placed(every_block[0].view(shape), made, result)
        few = units.numel() * mixture.numel() <= LARGE
        if not blocks and few and labels.may_move(units) and labels.may_move(mixture):
            return labels.pair(units[:1], mixture, "mixed").expand(
                [sizes.get(x, 1) for x in result]
            )
        for ids in every_block:
            labels.fix(ids)
        return units
    out = labels.find(torch.stack(every_block).view([*([len(rows)] if blocks else []), *shape]))
    return _placed(out, [*blocks, *made], result).expand([sizes.get(x, 1) for x in result])


def _placed(ids: Tensor, letters: Sequence[str], every: Sequence[str]) -> Tensor:
    """Return ids with axes in the order of `every`, of size 1 for letters that they lack."""
    ids = ids.permute([letters.index(x) for x in every if x in letters])
    return ids[tuple(slice(None) if x in letters else None for x in every)]


def _lie_on(
    labels: Labels,
    weight: Matrix,
    own: str,
    here: list[str],
    units: Tensor,
    rows: tuple[int, int] | None,
) -> None:
    """Record that units lie along axes of weights that are summed over together."""
    if not here:
        return
    along = labels.varying(units) if labels.may_move(units) else []
    if not along:
        labels.fix(units)
    for d, letter in enumerate(here):
        if d not in along:  # positions
            size = weight.shape[own.index(letter)]
            weight.lie_on(labels, own.index(letter), torch.zeros(size, dtype=torch.int64), rows)
    if along:
        once = units[tuple(slice(None) if d in along else 0 for d in range(units.dim()))]
        axes = tuple(own.index(here[d]) for d in along)
        weight.lie_on(labels, axes, once.flatten(), rows)


def _values(labels: Labels, weight: Matrix) -> Tensor | None:
    """Return an id for each value, if the weights are an unchanged parameter, else None."""
    if len(weight.parts) != 1 or weight.part is not None or math.prod(weight.shape) > LARGE:
        return None
    (name, axes), shape = weight.parts[0], tuple(labels.shapes[weight.name])
    if weight.shape != shape or any(a == STAYS for a in axes):
        return None
    same = all(a == ((d,) if shape[d] > 1 else ()) for d, a in enumerate(axes))
    return labels.values_of(name) if same else None


def _contracted(labels: Labels, operands: list[Tensor], letters: list[str], result: str) -> Tensor:
    """Label an elementwise product of activations, and its sum over letters not in `result`."""
    every = "".join(dict.fromkeys("".join(letters)))
    aligned = []
    for ids, own in zip(operands, letters, strict=True):
        aligned.append(_placed(ids, own, every))
        if labels.may_move(ids):
            labels.consume(ids)
    products = align(labels, aligned)
    summed = [d for d, letter in enumerate(every) if letter not in result]
    if summed:
        products = statistic(labels, products, summed, "scores")
        products = products[tuple(0 if d in summed else slice(None) for d in range(len(every)))]
    kept = [letter for letter in every if letter in result]
    return products.permute([kept.index(letter) for letter in result])
