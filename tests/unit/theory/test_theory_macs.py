import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from layerscope.layers import describe
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.theory import conv_macs, conv_transpose_macs, linear_macs, macs


def counted_flops(network, shape):
    """What the dispatcher's counter says: two per multiply-accumulate."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network(torch.zeros(shape))
    return counter.get_total_flops()


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
def test_conv_macs_are_half_of_the_dispatchers_flops(settings, padding, batch, size):
    network = nn.Conv2d(**settings, padding=padding)
    shape = (batch, settings["in_channels"], *size)
    (spec,) = describe(network, shape)
    assert 2 * macs(spec) == counted_flops(network, shape)


@settings(deadline=None, max_examples=15)
@given(settings=convolutions, padding=st.integers(0, 1), size=st.integers(4, 8))
def test_conv_transpose_macs_are_half_of_the_dispatchers_flops(settings, padding, size):
    network = nn.ConvTranspose2d(**settings, padding=padding)
    shape = (2, settings["in_channels"], size, size)
    (spec,) = describe(network, shape)
    assert 2 * macs(spec) == counted_flops(network, shape)


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
def test_other_layers(network, shape):
    (spec,) = describe(network, shape)
    assert 2 * macs(spec) == counted_flops(network, shape)


def test_an_image_without_a_batch_dimension():
    (spec,) = describe(nn.Conv2d(3, 4, 3), (3, 5, 5))
    assert macs(spec) == 4 * 3 * 3 * 3 * 9


def test_cifar_cnn():
    specs = describe(CifarCNN(), (32, 3, 32, 32))
    assert sum(macs(spec) for spec in specs) == 330_342_400
    assert {spec.kind for spec in specs if macs(spec)} == {"conv2d", "linear"}


def test_unknown_is_none_and_not_0():
    attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    (spec,) = describe(nn.Sequential(attention), (2, 3, 8))
    assert macs(spec) is None
    (norm,) = describe(nn.BatchNorm1d(3), (2, 3))
    assert macs(norm) == 0


def test_the_formulas_take_symbols():
    N, C_out, H_out, W_out, C_in, k_h, k_w = sympy.symbols(
        "N C_out H_out W_out C_in k_h k_w", integer=True, positive=True
    )
    formula = conv_macs(N, C_out, (H_out, W_out), C_in, (k_h, k_w))
    assert formula == N * C_out * H_out * W_out * C_in * k_h * k_w
    values = {N: 32, C_out: 32, H_out: 32, W_out: 32, C_in: 3, k_h: 3, k_w: 3}
    assert formula.subs(values) == conv_macs(32, 32, (32, 32), 3, (3, 3)) == 28_311_552
    assert conv_transpose_macs(N, C_in, (H_out,), C_out, (k_h,)) == N * C_in * H_out * C_out * k_h
    assert linear_macs(N, C_in, C_out) == N * C_in * C_out
