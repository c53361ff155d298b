"""The formulas against the dispatcher's counts, the walkthrough's figures, and as symbols."""

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from layerscope.layers import describe
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.theory import KINDS, cost_table, formulas, macs
from layerscope.theory.formulas import (
    conv_flops,
    conv_macs,
    conv_transpose_macs,
    linear_macs,
    max_pool_flops,
    norm_flops,
)


def counted_flops(network, shape):
    """What the dispatcher's counter says of a forward: two per multiply-accumulate."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.zeros(shape))
    return counter.get_total_flops()


def counted_backward(network, shape, input_requires_grad):
    image = torch.zeros(shape, requires_grad=input_requires_grad)
    loss = network(image).sum()
    counter = FlopCounterMode(display=False)
    with counter:
        loss.backward()
    return counter.get_total_flops()


def only(network, shape):
    (cost,) = cost_table(describe(network, shape), 4).layers
    return cost


convolutions = st.fixed_dictionaries(
    {
        "in_channels": st.sampled_from([2, 4, 6]),
        "out_channels": st.sampled_from([2, 4, 8]),
        "kernel_size": st.tuples(st.integers(1, 4), st.integers(1, 4)),
        "stride": st.integers(1, 3),
        "dilation": st.integers(1, 2),
        "groups": st.sampled_from([1, 2]),
    }
)


@settings(deadline=None, max_examples=30)
@given(
    settings=convolutions,
    padding=st.one_of(st.integers(0, 3), st.just("valid")),
    batch=st.integers(1, 3),
    size=st.tuples(st.integers(8, 12), st.integers(8, 12)),
)
def test_conv(settings, padding, batch, size):
    network = nn.Conv2d(**settings, padding=padding)
    shape = (batch, settings["in_channels"], *size)
    cost = only(network, shape)
    assert 2 * cost.macs == cost.forward_flops == counted_flops(network, shape)
    # the counter's weight gradient is right where there is one group
    if settings["groups"] == 1:
        assert cost.weight_gradient_flops == counted_backward(network, shape, False)
        assert cost.backward_flops == counted_backward(network, shape, True)


@settings(deadline=None, max_examples=15)
@given(settings=convolutions, padding=st.integers(0, 1), size=st.integers(4, 8))
def test_conv_transpose(settings, padding, size):
    network = nn.ConvTranspose2d(**settings, padding=padding)
    shape = (2, settings["in_channels"], size, size)
    cost = only(network, shape)
    assert 2 * cost.macs == cost.forward_flops == counted_flops(network, shape)
    if settings["groups"] == 1:
        assert cost.backward_flops == counted_backward(network, shape, True)


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Conv1d(4, 6, 3, groups=2), (2, 4, 9)),
        (nn.Conv3d(2, 3, (1, 2, 3)), (2, 2, 4, 5, 6)),
        (nn.Conv2d(4, 4, 3, padding="same", groups=4), (2, 4, 5, 5)),
        (nn.Linear(3, 5), (7, 2, 3)),
        (nn.Linear(3, 5), (3,)),
    ],
)
def test_other_layers_with_macs(network, shape):
    cost = only(network, shape)
    assert 2 * cost.macs == cost.forward_flops == counted_flops(network, shape)


def test_a_bias_is_summed_over_everything_but_the_channels():
    conv = only(nn.Conv2d(3, 4, 3, padding=1), (2, 3, 5, 6))
    assert conv.bias_gradient_flops == 2 * 4 * 5 * 6
    assert only(nn.Conv2d(3, 4, 3, bias=False), (2, 3, 5, 6)).bias_gradient_flops == 0
    assert only(nn.Linear(3, 5), (7, 3)).bias_gradient_flops == 7 * 5


def test_an_image_without_a_batch_dimension():
    cost = only(nn.Conv2d(3, 4, 3), (3, 5, 5))
    assert cost.macs == 4 * 3 * 3 * 3 * 9
    assert cost.bias_gradient_flops == 4 * 3 * 3


@pytest.mark.parametrize(
    ("layer", "shape", "forward", "backward"),
    [
        (nn.BatchNorm2d(3), (2, 3, 4, 5), 5 * 120, 5 * 120),
        (nn.LayerNorm(5), (2, 3, 5), 5 * 30, 5 * 30),
        (nn.GroupNorm(3, 6), (2, 6, 5, 5), 5 * 300, 5 * 300),
        (nn.ReLU(), (2, 3, 4, 5), 120, 120),
        *(
            (activation(), (2, 3, 4, 5), 120, 120)
            for activation in (
                nn.ReLU6,
                nn.GELU,
                nn.SiLU,
                nn.Sigmoid,
                nn.Hardswish,
                nn.Hardsigmoid,
                nn.Tanh,
            )
        ),
        (nn.MaxPool2d(3, 2), (2, 3, 7, 7), 2 * 3 * 3 * 3 * 9, 2 * 3 * 49),
        (nn.MaxPool2d((2, 1), (2, 1)), (2, 3, 6, 5), 2 * 3 * 3 * 5 * 2, 2 * 3 * 30),
        (nn.MaxPool1d(2), (2, 3, 8), 2 * 3 * 4 * 2, 48),
        (nn.AvgPool2d(2), (2, 3, 6, 6), 216, 216),
        (nn.AdaptiveAvgPool2d(1), (2, 3, 6, 6), 216, 216),
        (nn.Dropout(0.5), (2, 3), 6, 6),
        (nn.Softmax(1), (2, 3), 18, 24),
        (nn.Flatten(), (2, 3, 4), 0, 0),
        (nn.Identity(), (2, 3), 0, 0),
    ],
)
def test_the_textbooks_conventions(layer, shape, forward, backward):
    cost = only(layer, shape)
    assert (cost.macs, cost.forward_flops, cost.backward_flops) == (0, forward, backward)


def test_cifar_cnn_in_total():
    table = cost_table(describe(CifarCNN(), (32, 3, 32, 32)), 4)
    total = table.total()
    assert total.macs == 330_342_400
    assert total.forward_flops == 673_595_392
    assert total.backward_flops == 1_334_280_192
    assert total.output_bytes == 23_872_768
    assert total.gradient_bytes == 24_264_704
    assert total.parameter_gradient_bytes == total.parameter_bytes == 379_944
    assert total.buffer_bytes == 1_816
    bias = {
        cost.layer: cost.bias_gradient_flops for cost in table.layers if cost.bias_gradient_flops
    }
    assert bias == {
        "block1.conv": 1_048_576,
        "block2.conv": 524_288,
        "block3.conv": 262_144,
        "fc": 320,
    }
    assert table.input_bytes == 393_216
    assert not total.lower_bound


def test_blocks_and_kinds_add_up_to_the_total():
    table = cost_table(describe(CifarCNN(), (32, 3, 32, 32)), 4)
    blocks = {total.name: total for total, _ in table.blocks()}
    assert list(blocks) == ["block1", "block2", "block3"]
    assert blocks["block1"].output_bytes == 13 * 2**20
    assert [blocks[name].num_parameters for name in blocks] == [960, 18_624, 74_112]
    kinds = {total.name: total for total in table.by_kind()}
    assert kinds["conv2d"].num_parameters == 93_248
    for field in ("forward_flops", "output_bytes", "num_parameters", "num_layers"):
        assert sum(getattr(kind, field) for kind in kinds.values()) == getattr(table.total(), field)


def test_half_the_element_size_is_half_the_bytes():
    spec = describe(CifarCNN(), (8, 3, 32, 32))
    assert cost_table(spec, 2).total().output_bytes * 2 == cost_table(spec, 4).total().output_bytes


def test_a_module_called_twice_is_one_row():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(self.fc(x))

    cost = only(Twice(), (2, 3))
    assert (cost.num_calls, cost.num_parameters, cost.macs) == (2, 12, 36)


def test_unknown_is_none_and_not_0_and_makes_totals_lower_bounds():
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    table = cost_table(describe(nn.Sequential(nn.Linear(8, 8), attention), (2, 3, 8)), 4)
    linear, unknown = table.layers
    assert (unknown.macs, unknown.forward_flops, unknown.backward_flops) == (None, None, None)
    assert unknown.num_parameters > 0
    total = table.total()
    assert total.unknown == ("TransformerEncoderLayer",)
    assert total.lower_bound
    assert total.forward_flops == linear.forward_flops
    assert formulas(describe(attention, (2, 3, 8)).layers[0]) == ()


def test_known_to_have_no_macs_though_its_flops_are_unknown():
    cost = only(nn.LocalResponseNorm(2), (2, 3, 4, 4))
    assert (cost.macs, cost.forward_flops) == (0, None)


def test_each_formulas_value_is_the_rows():
    spec = describe(CifarCNN(), (32, 3, 32, 32))
    for layer, cost in zip(spec.layers, cost_table(spec, 4).layers, strict=True):
        values = {formula.quantity: formula.value for formula in formulas(layer)}
        assert values.get("forward_flops", 0) == cost.forward_flops
        assert values.get("macs", 0) == cost.macs == macs(layer)


def test_every_formula_takes_symbols():
    shapes = {2: (2, 8), 4: (2, 8, 6, 6)}
    layers = [nn.Conv2d(8, 4, 3, groups=2), nn.ConvTranspose2d(8, 4, 3), nn.Linear(8, 3)]
    layers += [nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Softmax(1)]
    for layer in layers:
        shape = shapes[2] if isinstance(layer, nn.Linear) else shapes[4]
        for formula in formulas(describe(layer, shape).layers[0]):
            symbols = {
                name: sympy.Symbol(name, integer=True, positive=True) for name in formula.arguments
            }
            expression = formula.function(**symbols)
            assert expression.free_symbols == set(symbols.values())
            numbers = {symbols[name]: value for name, value in formula.arguments.items()}
            assert expression.subs(numbers) == formula.value


def test_the_formulas_are_the_textbooks():
    N, C_out, H_out, W_out, C_in, k_h, k_w = sympy.symbols(
        "N C_out H_out W_out C_in k_h k_w", integer=True, positive=True
    )
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


def test_what_a_kind_keeps_is_known_where_its_flops_are():
    assert [name for name, kind in KINDS.items() if kind.known and kind.keeps is None] == []
