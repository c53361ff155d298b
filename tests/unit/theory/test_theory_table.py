"""The textbook's tables: totals, blocks, types, layers called twice, unknown costs."""

import pytest
import torch
from torch import nn

from layerscope.dry_run import dry_run
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.reconcile.account import account


def table_of(network, shape, element_size=4):
    return account(dry_run(network, (torch.empty(shape),)), element_size).costs


def test_cifar_cnn_in_total():
    table = table_of(CifarCNN(), (32, 3, 32, 32))
    total = table.total()
    assert total.macs == 330_342_400
    assert total.forward_flops == 673_595_392
    assert total.backward_flops == 1_334_280_192
    assert total.output_bytes == 23_872_768
    assert total.gradient_bytes == 24_264_704
    assert total.parameter_gradient_bytes == total.parameter_bytes == 379_944
    assert total.buffer_bytes == 1_816
    bias = {cost.layer: cost.bias_gradient_flops for cost in table.layers}
    assert {layer: flops for layer, flops in bias.items() if flops} == {
        "block1.conv": 1_048_576,
        "block2.conv": 524_288,
        "block3.conv": 262_144,
        "fc": 320,
    }
    assert table.input_bytes == 393_216
    assert not total.lower_bound


@pytest.mark.parametrize("network", [CifarCNN().eval(), CifarCNN().requires_grad_(False)])
def test_theory_does_not_depend_on_the_mode_or_on_what_is_frozen(network):
    plain, other = (table_of(n, (4, 3, 32, 32)).total() for n in (CifarCNN(), network))
    assert plain == other


def test_blocks_and_types_add_up_to_the_total():
    table = table_of(CifarCNN(), (32, 3, 32, 32))
    blocks = {total.name: total for total, _ in table.blocks()}
    assert list(blocks) == ["block1", "block2", "block3"]
    assert blocks["block1"].output_bytes == 13 * 2**20
    assert [blocks[name].num_parameters for name in blocks] == [960, 18_624, 74_112]
    types = {total.name: total for total in table.by_type()}
    assert types["Conv2d"].num_parameters == 93_248
    for field in ("forward_flops", "output_bytes", "num_parameters", "num_layers"):
        assert sum(getattr(kind, field) for kind in types.values()) == getattr(table.total(), field)


def test_half_the_element_size_is_half_the_bytes():
    whole, half = (table_of(CifarCNN(), (8, 3, 32, 32), size).total() for size in (4, 2))
    assert half.output_bytes * 2 == whole.output_bytes


def test_a_module_called_twice_is_one_row():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 3)

        def forward(self, x):
            return self.fc(self.fc(x))

    (cost,) = table_of(Twice(), (2, 3)).layers
    assert (cost.num_calls, cost.num_parameters, cost.macs) == (2, 12, 36)


def test_a_layer_is_the_sum_of_its_functions():
    """Attention's parts: three projections in one, scores and values, the output projection."""
    (cost,) = table_of(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)).layers
    rows, width, hidden = 10, 8, 16
    projections = rows * width * (3 * width) + rows * width * width
    attention = 2 * 2 * 5 * 5 * (4 + 4)
    feed_forward = 2 * rows * width * hidden
    assert cost.macs == projections + attention + feed_forward
    assert cost.num_parameters == 600


def test_unknown_is_none_and_not_0_and_makes_totals_lower_bounds():
    class Singular(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(8, 8)

        def forward(self, x):
            return torch.linalg.svdvals(self.fc(x))

    table = table_of(Singular(), (2, 8))
    linear, unknown = table.layers
    assert (unknown.macs, unknown.forward_flops, unknown.backward_flops) == (None, None, None)
    total = table.total()
    assert total.unknown == ("linalg_svdvals",)
    assert total.lower_bound
    assert total.forward_flops == linear.forward_flops == 2 * 2 * 8 * 8
