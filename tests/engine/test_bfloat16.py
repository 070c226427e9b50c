"""Products of bfloat16 numbers on a processor without instructions for them."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from little import tiny
from torch.utils._python_dispatch import TorchDispatchMode
from toys import SIGNAL, factory, toy

from lotperm import Store
from lotperm.config.experiment import Recipe
from lotperm.config.seeds import Seeds
from lotperm.engine import bfloat16
from lotperm.engine import compiled as engine_compiled
from lotperm.engine.models import initialize
from lotperm.engine.precision import autocast, products_in
from lotperm.engine.runtime import Runtime
from lotperm.engine.training import train

ATEN = torch.ops.aten
CPU = torch.device("cpu")
LOW = torch.bfloat16


@pytest.fixture(params=[False, True], ids=["lacking", "native"])
def native(request, monkeypatch):
    monkeypatch.setattr(bfloat16, "native", lambda: request.param)
    monkeypatch.setattr(engine_compiled, "PROGRAMS", {})
    return request.param


@pytest.fixture
def lacking(monkeypatch):
    monkeypatch.setattr(bfloat16, "native", lambda: False)
    monkeypatch.setattr(engine_compiled, "PROGRAMS", {})


class Watched(TorchDispatchMode):
    """Notes the operations whose factors are in bfloat16."""

    def __init__(self):
        super().__init__()
        self.low, self.full = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kinds = {a.dtype for a in args if isinstance(a, torch.Tensor)}
        (self.low if LOW in kinds else self.full).add(func)
        return func(*args, **(kwargs or {}))


def draw(*shape):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator)


CASES = {
    "mm": (torch.mm, (4, 30), (30, 5)),
    "bmm": (torch.bmm, (2, 4, 30), (2, 30, 5)),
    "addmm": (torch.addmm, (5,), (4, 30), (30, 5)),
    "baddbmm": (torch.baddbmm, (2, 1, 5), (2, 4, 30), (2, 30, 5)),
    "mv": (torch.mv, (4, 30), (30,)),
    "dot": (torch.dot, (30,), (30,)),
    "linear": (F.linear, (3, 4, 30), (5, 30), (5,)),
    "conv1d": (lambda x, w: F.conv1d(x, w, padding=1), (2, 6, 9), (4, 6, 3)),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, 2, groups=2), (2, 6, 9, 9), (4, 3, 3, 3), (4,)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_product_and_its_gradients_are_those_of_its_factors_in_bfloat16(name, lacking):
    """The sums are rounded once: half a unit in the last place, 2⁻⁹, whatever their length."""
    product, *shapes = CASES[name]
    factors = [draw(*shape).to(LOW).requires_grad_() for shape in shapes]
    with Watched() as below, products_in(CPU, "bfloat16"):
        found = product(*factors)
        gradients = torch.autograd.grad(found.float().sum(), factors)
    exact = [factor.detach().double().requires_grad_() for factor in factors]
    expected = product(*exact)
    wanted = torch.autograd.grad(expected.sum(), exact)
    for a, b in zip((found, *gradients), (expected, *wanted), strict=True):
        assert a.dtype == LOW
        torch.testing.assert_close(a.double(), b, rtol=2**-8, atol=1e-5)
    assert below.full & bfloat16.PRODUCTS and not below.low & bfloat16.PRODUCTS


@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_rounded_stays_rounded(compiled, lacking):
    """1 + 2⁻⁹ is 1 in bfloat16, and 256 + 1 is 256, also where the compiler would leave out a
    conversion that is followed by its inverse."""

    def step(x, w):
        with products_in(CPU, "bfloat16"), autocast(CPU, "bfloat16"):
            return torch.mm(x, w).float() * 1.0

    x = torch.tensor([[1 + 2**-9, 1.0], [256.0, 1.0]])
    w = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    if compiled:
        graph = torch.fx.experimental.proxy_tensor.make_fx(step, tracing_mode="fake")(x, w)
        step = torch._inductor.compile(graph, [x, w], options=engine_compiled.CPU_OPTIONS)
    assert step(x, w).tolist() == [[0.0, 2.0], [255.0, 256.0]]


def test_nothing_is_changed_where_it_needn_t_be(native):
    """Other precisions, other dtypes, and processors that have the instructions."""
    low, full = draw(3, 3).to(LOW), draw(3, 3)
    with Watched() as below, products_in(CPU, "bfloat16"):
        assert torch.mm(full.double(), full.double()).dtype == torch.double
        assert (low + low).dtype == LOW
        low @ low
    assert (ATEN.mm.default in below.low) == native
    with Watched() as below, products_in(CPU, "float32"):
        low @ low
    assert ATEN.mm.default in below.low


@pytest.mark.parametrize("model", ["resnet8", "vit_tiny", "mlp"])
def test_networks_train_and_are_evaluated_as_with_the_instructions(model, native):
    make, data = factory(model, SIGNAL), toy(SIGNAL, n=64)
    recipe = Recipe(epochs=2, lr=0.02, batch_size=32, precision="bfloat16")
    starts, seeds = [initialize(make, i) for i in (0, 1)], [Seeds.of("t", i) for i in (0, 1)]
    full = train(make(), starts, data, dataclasses.replace(recipe, precision="float32"), seeds)
    runtime = Runtime(compile=model == "mlp")
    with Watched() as below:
        low = train(make(), starts, data, recipe, seeds, runtime=runtime)
    assert low.mode == ("compiled" if model == "mlp" else "plain")
    # Those of a compiled step are seen while it is traced.
    assert bool(below.low & bfloat16.PRODUCTS) == native
    for a, b in zip(low.weights, full.weights, strict=True):
        apart = max(float((a[n] - b[n]).abs().max()) for n in a if a[n].is_floating_point())
        assert 0 < apart < 0.05


def test_a_record_says_that_products_were_in_float32(native, tmp_path):
    low = tiny(Store(tmp_path), precision="bfloat16")
    assert ("bfloat16" in low.meta()) != native
    assert "bfloat16" not in tiny(Store(tmp_path)).meta()
