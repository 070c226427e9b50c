"""What the compiler gets in place of PyTorch's operations: the same values, in shorter loops."""

import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch._inductor.utils import run_and_get_cpp_code
from torch.fx.experimental.proxy_tensor import make_fx

from lotperm.engine.compiled import CPU_OPTIONS
from lotperm.engine.rewritten import ON_ANY_DEVICE, ON_CPU

ATEN = torch.ops.aten
SHAPES = [(6, 5), (6, 5, 7), (6, 5, 4, 3), (6, 1, 1, 2)]


def called(graph):
    return {node.target for node in graph.graph.nodes if node.op == "call_function"}


@pytest.mark.parametrize("factors", [{}, {"beta": 0}, {"beta": 0.5, "alpha": -2.0}])
def test_a_product_with_a_bias_is_compiled_as_a_product_and_a_sum(factors):
    draw = torch.Generator().manual_seed(0)
    bias, x, weight = (torch.randn(2, *s, generator=draw) for s in ((1, 5), (4, 3), (3, 5)))
    traced = make_fx(partial(torch.baddbmm, **factors), ON_ANY_DEVICE)(bias, x, weight)
    assert ATEN.bmm.default in called(traced) and ATEN.baddbmm.default not in called(traced)
    expected = torch.baddbmm(bias.double(), x.double(), weight.double(), **factors)
    torch.testing.assert_close(traced(bias, x, weight).double(), expected, rtol=1e-6, atol=1e-6)


def normalized(training, *case):
    """A norm's output, the gradients of a loss that weighs every number of it differently, and the
    running statistics afterwards."""
    x, weight, bias, mean, var = case
    leaves = [t.detach().requires_grad_() for t in (x, weight, bias)]
    out = F.batch_norm(leaves[0], mean, var, leaves[1], leaves[2], training, 0.3, 1e-5)
    factors = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
    return out, *torch.autograd.grad((out * factors).sum(), leaves), mean, var


def norm_case(shape, dtype, shift, **layout):
    draw = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=draw) * 2 + shift).to(dtype).contiguous(**layout)
    kind = torch.promote_types(dtype, torch.float32)
    weight, bias, mean, var = (
        torch.rand(shape[1], generator=draw).to(kind) + 0.5 for _ in range(4)
    )
    return x, weight, bias, mean, var


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "shift", "tolerance"),
    [
        (torch.float32, 0.0, 1e-5),
        # 500 standard deviations from zero: E[x²] − E[x]² itself would have no right digit.
        (torch.float32, 1000.0, 1e-3),
        (torch.float64, 1000.0, 1e-9),
        (torch.bfloat16, 0.0, 2e-2),
    ],
)
def test_a_norm_and_its_gradients_are_those_of_pytorch(shape, dtype, shift, tolerance):
    case = norm_case(shape, dtype, shift)
    traced = make_fx(partial(normalized, True), ON_CPU)(*(t.clone() for t in case))
    assert not called(traced) & {
        ATEN.native_batch_norm.default,
        ATEN.native_batch_norm_backward.default,
    }
    expected = normalized(True, *(t.double().clone() for t in case))
    found = traced(*(t.clone() for t in case))
    for name, a, b in zip(
        ("out", "x", "weight", "bias", "mean", "var"), found, expected, strict=True
    ):
        scale = b.abs().max() if name not in ("mean", "var") else b.abs()
        assert ((a.double() - b).abs() <= tolerance * scale.clamp_min(1)).all(), name
    assert found[0].dtype == found[1].dtype == dtype


def test_a_norm_of_equal_numbers_has_no_variance_below_zero():
    case = norm_case((64, 3, 4, 4), torch.float32, 0.0)
    x = torch.full_like(case[0], 0.1)
    out, *_, var = make_fx(partial(normalized, True), ON_CPU)(x, *case[1:])(
        x, *(t.clone() for t in case[1:])
    )
    torch.testing.assert_close(out, case[2].view(1, 3, 1, 1).expand_as(out), rtol=0, atol=1e-5)
    torch.testing.assert_close(var, 0.7 * case[4], rtol=1e-6, atol=0)


def test_norms_that_do_not_train_or_lack_a_part_are_left_to_pytorch():
    x, weight, bias, mean, var = norm_case((6, 5, 4, 3), torch.float32, 0.0)
    for parts in ((mean, var, None, None), (None, None, weight, bias)):
        norm = partial(lambda parts, x: F.batch_norm(x, *parts, training=True), parts)
        assert ATEN.native_batch_norm.default in called(make_fx(norm, ON_CPU)(x))
    evaluated = make_fx(partial(normalized, False), ON_CPU)
    assert ATEN.native_batch_norm_backward.default in called(evaluated(x, weight, bias, mean, var))


def test_compiled_loops_over_activations_neither_wait_nor_repeat():
    """In the C++ that is generated: no recurrence, each square root once a norm, nothing written
    over what the same loop reads."""
    x, *parts = norm_case((64, 16, 16, 16), torch.bfloat16, 0.0, memory_format=torch.channels_last)
    case = [x, torch.full((16, 16, 1, 1), 0.1, dtype=x.dtype), *parts]

    def two_norms(x, kernel, *parts):
        def both(x):
            hidden = F.batch_norm(x, *parts[2:], *parts[:2], True).relu()
            return F.batch_norm(F.conv2d(hidden, kernel), *parts[2:], *parts[:2], True).relu()

        leaf = x.detach().requires_grad_()
        return torch.autograd.grad(both(leaf).sum(), leaf)

    def generated(rewritten, options):
        def compile_and_run():
            inputs = [t.clone() for t in case]
            graph = make_fx(two_norms, rewritten, tracing_mode="fake")(*inputs)
            return torch._inductor.compile(graph, inputs, options=options)(*inputs)

        return run_and_get_cpp_code(compile_and_run)

    (ours,), code = generated(ON_CPU, CPU_OPTIONS)
    (theirs,), other = generated({}, {"cpp_wrapper": True})
    assert "elford" not in code and len(re.findall(r"rsqrt\(", code)) == 2
    assert "BFloat16* in_out_ptr" not in code
    # What is looked for is there without these measures.
    assert "elford" in other and len(re.findall(r"rsqrt\(", other)) > 2
    assert "BFloat16* in_out_ptr" in other
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)
