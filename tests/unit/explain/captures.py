"""Layers run by torch in one step, as the engine captures them."""

import numpy as np
import torch

from layerscope.config.schema import MSEConfig
from layerscope.explain.capture import capture_step
from layerscope.explain.explainer import Explainer
from layerscope.explain.families import explainer_of, operation_in
from layerscope.explain.operation import Captured
from layerscope.measure import Step
from layerscope.networks.layer_calls import calls_by_layer, network_calls


class Network(torch.nn.Module):
    """One call of a layer, or of a function of tensors."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, *tensors):
        return self.layer(*tensors)


class Rows(Network):
    """The same, its output as rows of numbers."""

    def forward(self, *tensors):
        made = super().forward(*tensors)
        return made.reshape(len(made) if made.dim() > 1 else 1, -1)


def captured(layer, shape, seed=0, *, image=None, dtype=torch.float64, which=-1):
    """The last call of a layer that makes the output, with random numbers and autograd's gradients.

    Args:
        which: another one of the layers, counted without the reshaping of the output.
    """
    generator = torch.Generator().manual_seed(seed)
    network = Rows(layer).to(dtype)
    if image is None:
        image = torch.randn(shape, generator=generator, dtype=torch.float64)
    step = Step(network, (image.to(dtype),))
    calls = calls_by_layer(network_calls(network, step.args[0]).layers)
    operations = {key: tuple(map(operation_in, found)) for key, found in calls.items()}
    found = capture_step(step, MSEConfig(name="mse"), 0, operations)
    key = [key for key in operations if key != "reshape"][which]
    assert operations[key][0] is not None, key
    return found.calls[key].arrays(operations[key][0])


def explainer(call: Captured) -> Explainer:
    found = explainer_of(call.operation)
    assert found is not None, call.operation.name
    return found


def positions(shape, seed=0, count=6):
    """The corners and some in between."""
    numbers = np.random.default_rng(seed)
    some = [tuple(int(numbers.integers(size)) for size in shape) for _ in range(count)]
    return [(0,) * len(shape), tuple(size - 1 for size in shape), *some]


def assert_agrees(value, what="", within=1e-12):
    """The terms add up to what torch has, within rounding."""
    assert value.actual is not None, (what, value.name)
    allowed = within * max(value.magnitude, abs(value.actual), 1e-300)
    assert abs(value.computed - value.actual) <= allowed, (what, value.name, value.computed)


def assert_explained(call, seed=0, count=6, within=1e-12):
    """Every quantity of the layer at several positions."""
    kind, operation = explainer(call), call.operation
    assert kind.refuses(operation) is None
    assert {kind.input, *kind.others, "w", "b"} & call.operands.keys() <= call.gradients.keys()
    for position in positions(call.output.shape, seed, count):
        *_, value = kind.output(call, position)
        assert_agrees(value, operation, within)
        for symbol in {kind.input, *kind.others, "w", "b"} & call.operands.keys():
            first = kind.first(operation, symbol, position)
            shape = call.operands[symbol].shape
            assert all(0 <= i < n for i, n in zip(first, shape, strict=True)), (symbol, first)
    for symbol, array in call.operands.items():
        if symbol in (kind.input, *kind.others, "w", "b"):
            for position in positions(array.shape, seed, count):
                *_, value = kind.gradient(call, symbol, position)
                assert_agrees(value, operation, within)
