"""Textbook costs against figures worked out by hand, and against torch's counter."""

import pytest
import sympy
import torch
from hand_worked import WORKED, figures_of, run_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from layerscope.dry_run import dry_run
from layerscope.operations.convolution import conv_flops, conv_macs, conv_transpose_macs
from layerscope.operations.normalization import norm_flops
from layerscope.operations.pooling import max_pool_flops
from layerscope.operations.products import linear_macs
from layerscope.reconcile.account import account
from layerscope.theory import LayerCost


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", WORKED)
def test_costs_are_those_worked_out_by_hand(name):
    run = run_of(WORKED[name])
    assert figures_of(run) == WORKED[name].expected(run)


def cost_of(network: nn.Module, image: torch.Tensor) -> LayerCost:
    (cost,) = account(dry_run(network, (image,)), 4).costs.layers
    return cost


def counted(network: nn.Module, image: torch.Tensor) -> tuple[int, int, tuple[int, ...]]:
    """Return the counts of forward and backward by torch's counter, and the output's shape."""
    forward, backward = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with forward:
        output = network(image)
    with backward:
        output.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops(), tuple(output.shape)


def images(dims: int, channels: int) -> st.SearchStrategy[torch.Tensor]:
    sizes = st.tuples(st.integers(1, 3), *[st.integers(5, 9)] * dims)
    return sizes.map(lambda s: torch.zeros(s[0], channels, *s[1:], requires_grad=True))


@settings(deadline=None, max_examples=40, derandomize=True)
@given(data=st.data(), dims=st.integers(1, 3), transposed=st.booleans(), bias=st.booleans())
def test_any_convolution(data, dims, transposed, bias):
    draw = data.draw
    groups = draw(st.sampled_from([1, 1, 2]))
    channels, filters = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel_size = draw(st.tuples(*[st.integers(1, 3)] * dims))
    options = {
        "stride": draw(st.integers(1, 3)),
        "padding": draw(st.integers(0, 1)),
        "dilation": draw(st.integers(1, 2)),
        "groups": groups,
        "bias": bias,
    }
    if options["padding"] and transposed:
        assume(min(kernel_size) > 1)  # The output would be empty.
    build = getattr(nn, f"Conv{'Transpose' if transposed else ''}{dims}d")
    network = build(channels, filters, kernel_size, **options)
    image = draw(images(dims, channels))
    cost = cost_of(network, image)
    forward, backward, shape = counted(network, image)
    assert cost.output_shapes == (shape,)
    assert 2 * cost.macs == cost.forward_flops == forward
    if groups == 1:  # For more, it counts the weight gradient as if there were one.
        assert cost.backward_flops == backward
    assert cost.bias_gradient_flops == (cost.output_elements if bias else 0)


@settings(deadline=None, max_examples=20, derandomize=True)
@given(
    rows=st.lists(st.integers(1, 4), max_size=3),
    features=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    bias=st.booleans(),
)
def test_any_linear_layer(rows, features, bias):
    network = nn.Linear(*features, bias=bias)
    image = torch.zeros(*rows, features[0], requires_grad=True)
    cost = cost_of(network, image)
    forward, backward, shape = counted(network, image)
    assert cost.output_shapes == (shape,)
    assert 2 * cost.macs == cost.forward_flops == forward
    assert cost.backward_flops == backward
    assert cost.bias_gradient_flops == (cost.output_elements if bias else 0)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(data=st.data(), dims=st.integers(1, 3), is_max=st.booleans())
def test_any_pool(data, dims, is_max):
    """A max pool costs 1 per window element and output; an average pool 1 per input."""
    draw = data.draw
    kernel_size = draw(st.integers(1, 4))
    options = {
        "stride": draw(st.integers(1, 3)),
        "padding": draw(st.integers(0, kernel_size // 2)),
        "ceil_mode": draw(st.booleans()),
    }
    network = getattr(nn, f"{'Max' if is_max else 'Avg'}Pool{dims}d")(kernel_size, **options)
    image = draw(images(dims, 2))
    cost = cost_of(network, image)
    assert cost.output_shapes == (tuple(network(image).shape),)
    window = cost.output_elements * kernel_size**dims
    assert cost.forward_flops == (window if is_max else image.numel())
    assert (cost.macs, cost.backward_flops) == (0, image.numel())


SYMBOLIC = {
    "conv": (nn.Conv2d(8, 4, 3, groups=2), (2, 8, 6, 6)),
    "transposed": (nn.ConvTranspose2d(8, 4, 3), (2, 8, 6, 6)),
    "linear": (nn.Linear(8, 3), (2, 8)),
    "batch norm": (nn.BatchNorm2d(8), (2, 8, 6, 6)),
    "relu": (nn.ReLU(), (2, 8, 6, 6)),
    "max pool": (nn.MaxPool2d(2), (2, 8, 6, 6)),
    "average pool": (nn.AvgPool2d(2), (2, 8, 6, 6)),
    "softmax": (nn.Softmax(1), (2, 8, 6, 6)),
}


@pytest.mark.parametrize("name", SYMBOLIC)
def test_every_formula_takes_symbols(name):
    network, shape = SYMBOLIC[name]
    table = account(dry_run(network, (torch.zeros(shape),)), 4).costs
    (cost,), (formulas,) = table.layers, table.formulas.values()
    assert formulas
    for formula in formulas:
        symbols = {name: sympy.Symbol(name, positive=True) for name in formula.arguments}
        expression = formula.function(**symbols)
        assert expression.free_symbols == set(symbols.values())
        numbers = {symbols[name]: value for name, value in formula.arguments.items()}
        assert expression.subs(numbers) == formula.value == getattr(cost, formula.quantity)


def test_the_formulas_are_the_textbooks():
    N, C_out, H_out, W_out, C_in, k_h, k_w = sympy.symbols("N C_out H_out W_out C_in k_h k_w")
    geometry = {
        "N": N,
        "C_out": C_out,
        "C_in_per_group": C_in,
        "H_out": H_out,
        "W_out": W_out,
        "k_h": k_h,
        "k_w": k_w,
    }
    assert conv_macs(**geometry) == N * C_out * H_out * W_out * C_in * k_h * k_w
    assert conv_flops(**geometry) == 2 * conv_macs(**geometry)
    assert conv_transpose_macs(N, C_in, C_out, W_out, k_w) == N * C_in * C_out * W_out * k_w
    assert linear_macs(N, C_in, C_out) == N * C_in * C_out
    assert max_pool_flops(N, C_out, W_out, k_w, H_out, k_h) == N * C_out * W_out * k_w * H_out * k_h
    assert norm_flops(N=N, C=C_out) == 5 * N * C_out
