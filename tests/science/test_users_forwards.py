"""Forward passes, outputs, names and kinds of modules as users have them; what is refused, and how."""

from __future__ import annotations

import random
import threading
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from science.users import (
    IMAGE,
    TOKENS,
    WORDS,
    Case,
    Net,
    X,
    check_sizes,
    dense,
    draw,
    found,
    image,
    mlp,
    outputs,
)
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from lotperm.errors import ParameterError, UnsupportedModelError
from lotperm.science.matching import match_activations
from lotperm.science.symmetry import PermutationSpec

LENGTHS = torch.tensor([6, 5, 4, 3, 2, 1, 6, 5, 4, 3, 2, 1, 6, 5, 4, 3])
LABELS = torch.arange(16) % 5
Pair = namedtuple("Pair", ["logits", "rest"])


@dataclass
class Output:
    """As Hugging Face's networks return it."""

    loss: Tensor | None = None
    logits: Tensor | None = None


class Blocks(nn.Module):
    """Layers ``i``, ``b`` and ``o``, from 20 inputs over 8 units to 5 outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.i, self.b, self.o = nn.Linear(20, 8), nn.Linear(8, 8), nn.Linear(8, 5)


def blocks(body: Callable[..., Any]) -> Callable[[], nn.Module]:
    """Make a class of its own, whose `forward` has the arguments of a function."""
    return type("Own", (Blocks,), {"forward": body})


def no_gradients(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = self.i(x).tanh()
        with torch.enable_grad():
            g = self.b(h)
    return self.o(h + g.tanh())


def gradients_in_training(self: Any, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(self.training):
        h = self.i(x).tanh()
    return self.o(h)


def inference(self: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        h = self.i(x).tanh()
    return self.o(h.clone())


def lower_precision(self: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=x.dtype == torch.float32):
        h = self.i(x).tanh()
    return self.o(h.to(self.o.weight.dtype))


def dropped_layer(self: Any, x: Tensor) -> Tensor:
    h = self.i(x).tanh()
    if not self.training or torch.rand(1).item() < 0.8:
        h = h + self.b(h).tanh()
    return self.o(h)


def noisy(self: Any, x: Tensor) -> Tensor:
    h = self.i(x)
    return self.o((h + torch.randn_like(h) if self.training else h).tanh())


def by_shapes(self: Any, x: Tensor) -> Tensor:
    h = self.i(x.flatten(1) if x.dim() > 2 else x).tanh()
    if x.shape[-1] > 10:
        h = h + self.b(h).tanh()
    return self.o(h)


def by_parity(self: Any, x: Tensor) -> Tensor:
    h = self.i(x).tanh()
    return self.o(h + self.b(h).tanh() if x.shape[0] % 2 == 0 else h)


def steps(self: Any, x: Tensor) -> Tensor:
    h = self.i(x)
    for _ in range(4):
        h = h + 0.1 * self.b(h.tanh())
    return self.o(h)


def with_loss(self: Any, input_ids: Tensor, labels: Tensor | None = None) -> Output:
    logits = self.o(self.i(input_ids).tanh())
    return Output(None if labels is None else F.cross_entropy(logits, labels), logits)


def reconstructed(self: Any, x: Tensor, y: Tensor) -> Any:
    z = self.o(self.i(x).tanh())
    return F.mse_loss(z, y) + F.smooth_l1_loss(z, y), F.binary_cross_entropy_with_logits(
        z, y.sigmoid()
    )


def distilled(self: Any, x: Tensor) -> Any:
    """A loss of two hidden layers, whose units it compares."""
    h, g = self.i(x).tanh(), self.i(x).sigmoid()
    return self.o(h), F.mse_loss(h, self.b(g)), F.kl_div(h, g)


def hooked(hook: Callable[..., Any], before: bool = False) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = mlp()
        (model[2].register_forward_pre_hook if before else model[1].register_forward_hook)(hook)
        return model

    return make


class Distributed(nn.Module):
    """A wrapper that shows what is inside of it, as DistributedDataParallel does."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.module, name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


class Aliases(Blocks):
    """Layers under several names, and a weight in two of them."""

    def __init__(self) -> None:
        super().__init__()
        self.alias, self.every = self.i, [self.i, self.o]
        self.twin = nn.Linear(8, 5)
        self.twin.weight = self.o.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.every[1](self.alias(x).tanh()) + self.twin(self.i(x).sigmoid())


def stubs() -> nn.Module:
    quantization = torch.ao.quantization
    return nn.Sequential(quantization.QuantStub(), *mlp(), quantization.DeQuantStub())


def states_of_old(self: Any, x: Tensor) -> Tensor:
    """Initial states as PyTorch's first examples made them."""
    weight = next(self.l.parameters()).data
    hidden = (weight.new(1, x.shape[0], 6).zero_(), weight.new_zeros(1, x.shape[0], 6))
    return self.o(self.l(self.e(x), hidden)[0].mean(1))


def scripted_activation() -> Callable[[Tensor], Tensor]:
    @torch.jit.script
    def swish(x):  # TorchScript reads no postponed annotations
        return x * torch.sigmoid(x)

    return swish


CASES: dict[str, Case] = {
    "a part without gradients": (blocks(no_gradients), X, [8]),
    "gradients in training alone": (blocks(gradients_in_training), X, [8]),
    "inference mode": (blocks(inference), X, [8]),
    "lower precision": (blocks(lower_precision), X, [8]),
    "checkpoints": (
        blocks(lambda self, x: self.o(checkpoint(self.i, x, use_reentrant=False).tanh())), X, [8],
    ),
    "checkpoints of old": (
        blocks(
            lambda self, x: self.o(
                checkpoint(self.b, self.i(x).tanh(), use_reentrant=True).tanh()
            )
        ),
        X, [8, 8],
    ),
    "checkpoints of a sequence": (
        lambda: Net(lambda m, x: m.o(checkpoint_sequential(m.b, 2, x, use_reentrant=False)),
                    b=mlp(), o=nn.Linear(5, 5)),
        X, [8, 9, 5],
    ),
    "a layer that is dropped in training": (blocks(dropped_layer), X, [8]),
    "noise in training": (blocks(noisy), X, [8]),
    "training mode": (
        lambda: nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5),
                              nn.Linear(8, 5)).train(),
        X, [8],
    ),
    "branches on shapes": (blocks(by_shapes), X, [8]),
    "a branch on the size of the batch": (blocks(by_parity), X, [8]),
    "steps of an equation": (blocks(steps), X, [8]),
    "parameters from elsewhere": (
        lambda: Net(
            lambda m, x: functional_call(
                m.f, {n: p * 2 for n, p in m.f.named_parameters()}, (x,)
            ),
            f=mlp(),
        ),
        X, [8, 9],
    ),
    "example by example": (
        blocks(lambda self, x: self.o(torch.vmap(lambda v: self.i(v).tanh())(x))), X, [8],
    ),
    "a scripted function": (
        lambda: dense(lambda m, x: m.o(m.swish(m.i(x))), swish=scripted_activation()), X, [8],
    ),
    "a traced graph": (lambda: torch.fx.symbolic_trace(mlp()), X, [8, 9]),
    "a hook that changes outputs": (hooked(lambda m, i, o: 2 * o + i[0]), X, [8, 9]),
    "a hook that changes inputs": (hooked(lambda m, i: (i[0].exp(),), before=True), X, [8, 9]),
    "a wrapper that shows its inside": (lambda: Distributed(mlp()), X, [8, 9]),
    "several names": (Aliases, X, [8]),
    "stubs of quantization": (stubs, X, [8, 9]),
    "a loss": (blocks(lambda self, x, y: F.cross_entropy(self.o(self.i(x)), y)), (X, LABELS), [8]),
    "losses of values": (blocks(reconstructed), (X, draw(16, 5)), [8]),
    "a loss between hidden layers": (blocks(distilled), X, [8]),
    "a named tuple": (
        blocks(lambda self, x: Pair(self.o(self.i(x).tanh()), [{"z": (self.o(self.i(x)),)}])),
        X, [8],
    ),
    "dicts in dicts": (
        blocks(lambda self, x: {"a": {"b": [self.o(self.i(x).tanh()), None]}, "n": 3}), X, [8],
    ),
    "a scalar before the examples": (
        lambda: dense(lambda m, t, x: m.o((m.i(x) * t).relu())), (torch.tensor(2.0), X), [8],
    ),
    "an argument that is None": (
        blocks(lambda self, x, mask=None, flag=False: self.o(self.i(x).tanh())), (X, None, True), [8],
    ),
    "a list of tensors": (
        blocks(lambda self, xs: self.o(sum(self.i(x).tanh() for x in xs))), ([X, 2 * X],), [8],
    ),
    "weights as numbers": (
        blocks(lambda self, x: self.o(self.i(x).tanh() * self.b.weight.norm().item())), X, [8],
    ),
    "initial states of old": (
        lambda: Net(states_of_old, e=nn.Linear(8, 7), l=nn.LSTM(7, 6, batch_first=True),
                    o=nn.Linear(6, 5)),
        TOKENS, [7, 6],
    ),
}  # fmt: skip


@pytest.mark.filterwarnings(
    "error:no unit moves",
    "ignore:(None of the inputs|reduction|.*jit.script)",
)
@pytest.mark.parametrize("name", CASES)
def test_forwards(name: str) -> None:
    check_sizes(CASES[name])


def test_a_dict_of_inputs_with_labels() -> None:
    torch.manual_seed(0)
    model, batch = blocks(with_loss)(), {"input_ids": X, "labels": LABELS}
    spec = PermutationSpec.trace(model, batch)
    assert spec.sizes == {"i": 8} and spec.fixed == ()
    found_again = match_activations(model, model, [batch], spec)
    assert torch.equal(found_again["i"], torch.arange(8))


@pytest.mark.parametrize(
    "name",
    ["code", "graph", "meta", "print_readable", "to_folder", "recompile", "_graph", "in", "lambda"],
)
def test_names_that_generated_code_has_itself(name: str) -> None:
    """Children, parameters and buffers may be called like attributes of a graph, or keywords."""
    layers = nn.ModuleDict({name: nn.Linear(20, 8)})
    own = Net(lambda m, x: m.o(m.layers[name](x).tanh() * m.get_parameter(name)), layers=layers,
              o=nn.Linear(8, 5))  # fmt: skip
    own.register_parameter(name, nn.Parameter(draw(8)))
    assert found(own, X).sizes == {f"layers.{name}": 8}
    top = Net(lambda m, x: m.o(m.get_submodule(name)(x).tanh() + m.shift), o=nn.Linear(8, 5))
    top.add_module(name, nn.Linear(20, 8))
    top.register_buffer("shift", draw(1), persistent=False)
    spec = found(top, X)
    assert spec.sizes == {name: 8}
    assert {n for n, axes in spec.axes.items() if name in axes} >= {
        f"{name}.weight",
        f"{name}.bias",
    }


class Packed(nn.Module):
    """A recurrent network on sequences of several lengths."""

    def __init__(self, kind: type[nn.RNNBase], body: Callable[..., Tensor], **options: Any) -> None:
        super().__init__()
        self.body, self.e, self.w = body, nn.Linear(8, 7), nn.Embedding(9, 7, padding_idx=0)
        self.l: Any = kind(7, 6, **({"batch_first": True} | options))
        both = 2 if options.get("bidirectional") else 1
        self.o = nn.Linear(both * (options.get("proj_size") or 6), 5)
        self.d = nn.LSTM(5, 6, batch_first=True)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.body(self, *inputs)

    def pack(self, x: Tensor, lengths: Any, ordered: bool = False) -> PackedSequence:
        return pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=ordered)


def padded(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
    h, _ = pad_packed_sequence(m.l(m.pack(m.e(x).tanh(), lengths))[0], batch_first=True)
    return m.o(h.mean(1))


def last(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
    states = m.l(m.pack(m.e(x).tanh(), lengths))[1]
    return m.o((states[0] if isinstance(states, tuple) else states)[-1])


def ordered(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
    packed = m.l(m.pack(m.e(x).tanh(), lengths, ordered=True))[0]
    h, n = pad_packed_sequence(packed, batch_first=True, total_length=8)
    return m.o(h.sum(1) / n[:, None])


def time_first(m: Any, x: Tensor, lengths: Tensor) -> Tensor:
    packed = pack_padded_sequence(m.e(x).transpose(0, 1), lengths, enforce_sorted=False)
    packed = PackedSequence(packed.data.tanh(), *packed[1:])
    return m.o(pad_packed_sequence(m.l(packed)[0], padding_value=-1.0)[0].amax(0))


def of_words(m: Any, words: Tensor) -> Tensor:
    lengths = (words != 0).sum(1).cpu()
    hidden = m.l(m.pack(m.w(words), lengths))[1][0]
    return m.o(torch.cat([hidden[-2], hidden[-1]], 1))


def translated(m: Any, x: Tensor, lengths: Tensor, y: Tensor) -> Tensor:
    return m.o(m.d(y, m.l(m.pack(m.e(x).tanh(), lengths))[1])[0])


SENTENCES = (1 + WORDS % 8) * (torch.arange(7) <= LENGTHS[:, None])


@pytest.mark.parametrize(
    ("make", "batch", "sizes"),
    [
        (lambda: Packed(nn.LSTM, padded), (TOKENS, LENGTHS), [7, 6]),
        (lambda: Packed(nn.GRU, padded, bias=False), (TOKENS, LENGTHS), [7, 6]),
        (lambda: Packed(nn.RNN, last), (TOKENS, LENGTHS), [7, 6]),
        (lambda: Packed(nn.LSTM, last, num_layers=2), (TOKENS, LENGTHS), [7, 6, 6]),
        (lambda: Packed(nn.LSTM, padded, proj_size=4), (TOKENS, LENGTHS), [7, 6, 4]),
        (
            lambda: Packed(nn.LSTM, ordered),
            (TOKENS, LENGTHS.sort(descending=True).values),
            [7, 6],
        ),
        (lambda: Packed(nn.GRU, time_first, batch_first=False), (TOKENS, LENGTHS), [7, 6]),
        (
            lambda: Packed(nn.LSTM, of_words, num_layers=2, bidirectional=True, dropout=0.1),
            SENTENCES,
            [7, 6, 6, 6, 6],
        ),
        (lambda: Packed(nn.LSTM, translated), (TOKENS, LENGTHS, draw(16, 4, 5)), [7, 6]),
    ],
    ids=[
        *("padded again", "GRU", "last state", "two layers", "projected", "in order", "time first"),
        *("of words", "from one sequence to another"),
    ],
)
def test_packed_sequences(make: Callable[[], nn.Module], batch: Any, sizes: list[int]) -> None:
    """Their units are found, and the graph computes what the network does."""
    torch.manual_seed(0)
    model = make().eval()
    spec = found(model, batch)
    assert list(spec.sizes.values()) == sizes
    inputs = batch if isinstance(batch, tuple) else (batch,)
    with torch.no_grad():
        computed = spec.network.run(spec.tensors(model), *inputs)
    torch.testing.assert_close(computed, outputs(model, batch), rtol=1e-6, atol=1e-7)


def test_a_failure_inside_of_vmap_leaves_it() -> None:
    """Else every later operation of the process would be taken for one on many examples."""
    model = blocks(lambda self, x: torch.vmap(lambda v: self.o(self.i(v)))(x))().eval()
    spec = PermutationSpec.trace(model, X)
    odd = {name: tensor.double() for name, tensor in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="dtype"):
        spec.network.run(odd, X)
    assert torch.randn(3, generator=torch.Generator().manual_seed(0)).shape == (3,)
    assert spec.points == {"i": ()}
    assert match_activations(model, model, [X], spec) == {}


def calibrated() -> nn.Module:
    model = torch.ao.quantization.quantize_dynamic(mlp(), {nn.Linear})
    assert isinstance(model, nn.Module)
    return model


def elsewhere(self: Any, x: Tensor) -> Tensor:
    """Compute something else while it is exported, as no network should."""
    return self.o(self.i(x) * (2 if torch.compiler.is_exporting() else 1))


def drawn(self: Any, x: Tensor) -> Tensor:
    """Draw a number that no graph has."""
    return self.o(self.i(x)) * random.random()


def dead_end(self: Any, x: Tensor) -> Tensor:
    assert not torch.isnan(x).any()
    return self.o(self.i(x))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*deprecated")
@pytest.mark.parametrize(
    ("make", "batch", "message"),
    [
        (
            lambda: torch.jit.script(mlp()),
            X,
            r"^the network is a RecursiveScriptModule of TorchScript.*that it was made from\.$",
        ),
        (lambda: torch.jit.trace(mlp(), X), X, r"^the network is a .*Module of TorchScript"),
        (
            lambda: nn.Sequential(nn.Linear(20, 8), torch.jit.script(nn.Linear(8, 5))),
            X,
            r"^1 is a RecursiveScriptModule of TorchScript",
        ),
        (calibrated, X, r"^0 is a Linear of torch.ao.nn.quantized.*before it was quantized\.$"),
        (
            lambda: dense(lambda m, x: m.o(m.i(x)[:, m.kept]), 8, 5, kept=torch.arange(8) < 5),
            X,
            r"^the shape of what aten\.index\.Tensor \(.*users\.py:\d+\) gives depends on values",
        ),
        (blocks(elsewhere), X, r"^the graph .* of Own computes something else than the network"),
        (blocks(drawn), X, r"^two passes .* differ, so it is random; switch its randomness off"),
        (
            blocks(dead_end),
            X,
            r"can't turn Own .*, at .*test_users_forwards\.py:\d+: Could not guard on data-depend.*"
            r"control flow doesn't depend on values, that it doesn't turn tensors into numbers",
        ),
        (
            blocks(
                lambda self, x: torch.func.jvp(
                    lambda v: self.o(self.i(v)), (x,), (torch.ones_like(x),)
                )[1]
            ),
            X,
            r"^_jvp_increment_nesting has a network inside, whose units can't be followed",
        ),
        (
            blocks(
                lambda self, x: torch.cond(
                    x.sum() > 0, lambda x: self.o(self.i(x)), lambda x: self.o(-self.i(x)), (x,)
                )
            ),
            X,
            r"^cond .*has a network inside, whose units can't be followed",
        ),
        (
            lambda: Packed(nn.LSTM, padded),
            pack_padded_sequence(TOKENS, LENGTHS, batch_first=True, enforce_sorted=False),
            r"^example_input is a PackedSequence.*takes padded sequences and their lengths",
        ),
        (
            lambda: Packed(nn.LSTM, padded),
            (TOKENS, LENGTHS - 1),
            r"^Packed fails on the example input.*greater than 0",
        ),
        (
            blocks(lambda self, x: self.o(self.i(x)) + torch.nan),
            X,
            r"^no output of this network on the example input is finite",
        ),
    ],
    ids=[
        *("scripted", "traced", "scripted in part", "quantized", "a shape by values"),
        *("exported unlike it runs", "drawn outside of PyTorch"),
        *("a branch by values", "derivatives", "branches of a graph", "packed", "no length", "NaN"),
    ],
)
def test_what_is_refused_is_named(
    make: Callable[[], nn.Module], batch: Any, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = make()
    capfd.readouterr()
    with pytest.raises(ParameterError, match=message) as info:
        PermutationSpec.trace(model, batch)
    assert "\n" not in str(info.value)
    assert isinstance(info.value, UnsupportedModelError) or "PackedSequence" in message
    assert capfd.readouterr() == ("", "")


def test_buffers_that_are_infinite_or_empty() -> None:
    """A mask of attention is no weight, and what nothing uses has no units."""
    mask = torch.full((6, 6), -torch.inf).triu(1)
    model = Net(
        lambda m, x: m.o((((h := m.i(x)) @ h.transpose(1, 2) + m.mask).softmax(-1) @ h).mean(1)),
        i=nn.Linear(8, 7), o=nn.Linear(7, 5), mask=mask, nothing=torch.zeros(0),
    )  # fmt: skip
    spec = found(model, TOKENS)
    assert spec.sizes == {"i": 7} and spec.fixed == ()
    model.mask[0, 0] = torch.nan
    with pytest.raises(ParameterError, match="weights of mask are not finite"):
        PermutationSpec.trace(model, TOKENS)


def test_norms_over_positions_hold_no_units() -> None:
    spec = PermutationSpec.trace(image(lambda m, h: m.n(h), n=nn.LayerNorm([10, 10])), IMAGE)
    assert spec.sizes == {"c": 8} and spec.fixed == ()


def test_a_network_that_holds_what_cannot_be_copied(tmp_path: Path) -> None:
    """A log file, a lock, and a hook that writes into them."""
    torch.manual_seed(0)
    model = mlp()
    model.lock, model.log = threading.Lock(), open(tmp_path / "log", "w")  # noqa: SIM115
    model.more = {"lock": model.lock}
    logger = type("Logger", (), {"write": lambda self, *_: self.log.write("seen\n") and None})()
    logger.log = model.log
    model[1].register_forward_hook(logger.write)
    with model.log:
        assert list(found(model, X).sizes.values()) == [8, 9]


@pytest.mark.filterwarnings("ignore:no unit moves")
def test_what_numbers_fix_is_said() -> None:
    """Words whose numbers leave the network stay, and the spec says by which operation."""
    model = dense(
        lambda m, x: (n := (m.i(x) @ m.book.weight.t()).argmax(1)) is None or (m.o(m.book(n)), n), 6,
        book=nn.Embedding(9, 6),
    )  # fmt: skip
    spec = PermutationSpec.trace(model, X)
    assert spec.sizes == {"i": 6}
    (fixed,) = [part for part in spec.fixed if part.layer == "book"]
    assert (fixed.total, fixed.operation) == (9, "aten.argmax.default")
    assert "numbers of them that aren't only looked up" in str(fixed)
