"""A layer run by torch in float64, as the engine would capture it."""

from types import MappingProxyType

import numpy as np
import torch

from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explainer
from layerscope.explain.kinds import EXPLAINERS
from layerscope.networks.layer_calls import network_calls


class Network(torch.nn.Module):
    """One call of a layer, or of a function of tensors."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *tensors):
        return self.layer(*tensors)


def captured(layer, shape, seed=0, *, image=None, statistics=()):
    """One call with random numbers, its gradients those of a random dL/dy."""
    generator = torch.Generator().manual_seed(seed)
    network = Network(layer).double()
    spec = network_calls(network, shape, torch.float64).layers[-1]
    x = torch.randn(shape, generator=generator, dtype=torch.float64) if image is None else image
    x.requires_grad_()
    parameters = dict(layer.named_parameters()) if isinstance(layer, torch.nn.Module) else {}
    buffers = dict(layer.named_buffers()) if isinstance(layer, torch.nn.Module) else {}
    buffers = {name: array.numpy().copy() for name, array in buffers.items()}
    y = network(x)
    dl_dy = torch.randn(y.shape, generator=generator, dtype=torch.float64)
    dx, *dp = torch.autograd.grad(y, [x, *parameters.values()], dl_dy)
    return Captured(
        spec=spec,
        dtype=torch.float64,
        inputs=(x.detach().numpy(),),
        output=y.detach().numpy(),
        output_gradient=dl_dy.numpy(),
        input_gradients=(dx.numpy(),),
        parameters={name: p.detach().numpy() for name, p in parameters.items()},
        parameter_gradients=dict(zip(parameters, (g.numpy() for g in dp), strict=True)),
        buffers=buffers,
        statistics=MappingProxyType(dict(statistics)),
    )


def explainer(call: Captured) -> Explainer:
    return EXPLAINERS[call.spec.kind]


def positions(shape, seed=0, count=6):
    """The corners and some in between."""
    numbers = np.random.default_rng(seed)
    some = [tuple(int(numbers.integers(size)) for size in shape) for _ in range(count)]
    return [(0,) * len(shape), tuple(size - 1 for size in shape), *some]


def assert_agrees(value, what=""):
    """The terms add up to what torch has, within rounding."""
    assert value.actual is not None, what
    allowed = 1e-12 * max(value.magnitude, abs(value.actual), 1e-300)
    assert abs(value.computed - value.actual) <= allowed, (what, value.name, value.computed)


def assert_explained(call, seed=0, count=6):
    """Every quantity of the layer at several positions."""
    kind = explainer(call)
    for position in positions(call.output.shape, seed, count):
        *_, value = kind.output(call, position)
        assert_agrees(value, call.spec.geometry)
        first = kind.first_input(call.spec, position)
        assert all(0 <= i < n for i, n in zip(first, call.inputs[0].shape, strict=True))
    for position in positions(call.inputs[0].shape, seed, count):
        *_, value = kind.input_gradient(call, position)
        assert_agrees(value, call.spec.geometry)
    for name, explain in (("weight", kind.weight_gradient), ("bias", kind.bias_gradient)):
        if name not in call.parameters:
            continue
        assert explain is not None
        for position in positions(call.parameters[name].shape, seed, count):
            *_, value = explain(call, position)
            assert_agrees(value, call.spec.geometry)
