import pytest
import torch
from captures import Network, assert_explained, captured
from torch import nn

from layerscope.explain.families import refusal
from layerscope.networks.layer_calls import network_calls


class Two(nn.Module):
    """A function of two tensors that are made of the image, each repeated from another size."""

    def __init__(self, operation, first, second):
        super().__init__()
        self.operation, self.first, self.second = operation, first, second

    def forward(self, image):
        x, z = image[: self.first.numel()], image[-self.second.numel() :]
        return self.operation(x.view_as(self.first), z.view_as(self.second))


def of_two(operation, first, second):
    module = Two(operation, torch.zeros(first), torch.zeros(second))
    return captured(module, (max(module.first.numel(), module.second.numel()) + 3,))


@pytest.mark.parametrize("operation", [torch.add, torch.sub, torch.mul, torch.rsub])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((2, 3), (2, 3)),
        ((2, 1, 4), (2, 3, 1)),
        ((4,), (2, 3, 4)),
        ((2, 3, 4), ()),
        ((2, 1), (1, 1)),
    ],
)
def test_sums_of_branches(operation, first, second):
    if operation is torch.rsub:
        operation = lambda x, z: torch.add(x, z, alpha=-0.5)  # noqa: E731
    assert_explained(of_two(operation, first, second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((2, 3), (3, 4)),
        ((5, 2, 3), (5, 3, 4)),
        ((5, 1, 2, 3), (6, 3, 4)),
        ((1, 2, 3), (5, 3, 4)),
        ((2, 3), (5, 3, 1)),
        ((3,), (3, 4)),
        ((2, 3), (3,)),
        ((3,), (3,)),
        ((5, 2, 3), (3,)),
    ],
)
def test_products_of_matrices(first, second):
    assert_explained(of_two(torch.matmul, first, second))


@pytest.mark.parametrize("operation", [torch.bmm, lambda x, z: x @ z])
def test_batches_of_matrices(operation):
    assert_explained(of_two(operation, (2, 3, 4), (2, 4, 5)))
    assert_explained(of_two(torch.mm, (3, 4), (4, 5)))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + 1.5,
        lambda x: x - 2,
        lambda x: x * -3.0,
        lambda x: torch.add(x, 1.5, alpha=2),
        lambda x: torch.add(x, x.relu(), alpha=2),
    ],
)
def test_numbers_and_scaled_sums(function):
    assert_explained(captured(function, (2, 3, 5)))


@pytest.mark.parametrize(
    "operation", [lambda x: x + x, lambda x: torch.cat([x, x]), lambda x: x @ x]
)
def test_a_tensor_with_itself_is_refused(operation):
    spec = network_calls(Network(operation), (3, 3)).layers[0]
    assert "itself" in refusal(spec)


def test_channels_put_together():
    call = of_two(lambda x, z: torch.cat([x, z], 1), (2, 3, 2), (2, 2, 2))
    assert_explained(call, count=10)


def test_an_unknown_type_is_refused_by_its_name():
    spec = network_calls(Network(lambda x: torch.cumsum(x, 1)), (2, 3)).layers[0]
    assert "cumsum" in refusal(spec)


def test_a_layer_of_several_functions_is_refused_by_its_type():
    layer = nn.TransformerEncoderLayer(4, 2, 8)
    spec = network_calls(nn.Sequential(layer), (2, 3, 4)).layers[0]
    assert "TransformerEncoderLayer" in refusal(spec)
