import pytest
import torch
from captures import Network, assert_explained, explainer

from layerscope.explain.captured import Captured
from layerscope.explain.kinds import refusal
from layerscope.networks.layer_calls import network_calls


def sum_of_two(operation, first, second):
    """x with z, of these shapes."""
    generator = torch.Generator().manual_seed(0)
    x, z = (torch.randn(shape, generator=generator).double() for shape in (first, second))
    spec = network_calls(Network(lambda image: operation(image + x, image + z)), ()).layers[-1]
    y = operation(x.requires_grad_(), z)
    dl_dy = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    (dx,) = torch.autograd.grad(y, x, dl_dy)
    arrays = [tensor.detach().numpy() for tensor in (x, z, y, dl_dy, dx)]
    return Captured(
        spec, torch.float64, tuple(arrays[:2]), arrays[2], arrays[3], (arrays[4],), {}, {}, {}, {}
    )


@pytest.mark.parametrize("operation", [torch.add, torch.sub, torch.mul])
@pytest.mark.parametrize(
    ("first", "second"),
    [((2, 3), (2, 3)), ((2, 1, 4), (2, 3, 1)), ((4,), (2, 3, 4)), ((2, 3, 4), ())],
)
def test_sums_of_branches(operation, first, second):
    call = sum_of_two(operation, first, second)
    assert explainer(call).refuses(call.spec) is None
    assert_explained(call)


def test_a_sum_with_a_number_is_refused():
    spec = network_calls(Network(lambda x: x + 1), (2, 3)).layers[0]
    assert "number" in refusal(spec)


@pytest.mark.parametrize("operation", [lambda x: x + x, lambda x: torch.cat([x, x])])
def test_a_tensor_with_itself_is_refused(operation):
    spec = network_calls(Network(operation), (2, 3)).layers[0]
    assert "itself" in refusal(spec) or "recorded" in refusal(spec)


def test_a_scaled_sum_is_refused():
    spec = network_calls(Network(lambda x: torch.add(x, x.relu(), alpha=2)), (2, 3)).layers[-1]
    assert "alpha=2" in refusal(spec)


def test_channels_put_together():
    call = sum_of_two(lambda x, z: torch.cat([x, z], 1), (2, 3, 2), (2, 2, 2))
    assert_explained(call, count=10)


def test_an_unknown_type_is_refused_by_its_name():
    spec = network_calls(Network(lambda x: torch.cumsum(x, 1)), (2, 3)).layers[0]
    assert "cumsum" in refusal(spec)
