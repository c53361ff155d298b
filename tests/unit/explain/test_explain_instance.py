"""instance=seed: every number that the worked example of TinyCNN printed.

The example printed receptive fields with their axes swapped (a row of its tables is a column of the
field, its columns are channels); here they stand as [channel][row][column].
"""

import numpy as np
import pytest
import torch

from layerscope.explain.engine import explain_network
from layerscope.explain.explanation import ExplainSettings
from layerscope.explain.families import explainer_of, operation_in
from layerscope.explain.instance import random_image, worked_image, worked_network
from layerscope.explain.operation import Captured
from layerscope.networks.layer_calls import network_calls
from layerscope.networks.tiny_cnn import TinyCNN

# Layer, position, what it returned there, and how far the last printed digits let it be away.
RESULTS = {
    ("conv1", (0, 0, 1, 1)): (0.580000, 5e-7),
    ("pool1", (0, 0, 1, 1)): (1.864286, 5e-7),
    ("conv2", (0, 0, 1, 1)): (0.820055, 1e-4),
    ("pool2", (0, 0, 1, 1)): (0.547938, 3e-4),
    ("conv3", (0, 0, 1, 1)): (-0.526049, 3e-4),
    ("conv_out", (0, 0, 0, 0)): (-0.044280, 2.5e-4),
}
FIELDS = {
    "conv1": [[[0.2000, -0.0286, 0.3429], [-0.0286, 0.3429, 0.1143], [0.3429, 0.1143, 0.4857]]],
    "pool1": [[[1.2314, 1.4557], [1.7514, 1.8643]]],
    "conv2": [
        [[0.5800, 1.3000, 1.3686], [1.4657, 1.8643, 2.2229], [1.2486, 2.0186, 1.9471]],
        [[0.3629, 0.9214, 0.9700], [0.9514, 1.2243, 1.3929], [0.9400, 1.4814, 1.3814]],
    ],
    "pool2": [[[0.7004, 1.2385], [0.1651, 0.0877]]],
    "conv3": [[[0.5479]], [[0.1062]], [[0.4359]], [[0.3585]]],
    "conv_out": [[[0.0, 0.0], [0.0, 0.0]], [[0.4418, 0.6091], [0.6356, 0.6736]]],
}
# As printed: the input of conv1 and its filter are exact, everything up to pool1 follows from them.
FIELD_TOLERANCE = {"conv1": 5e-5, "pool1": 5e-5, "conv2": 5e-5, "pool2": 3e-4, "conv3": 3e-4}
FILTERS = {
    "conv1": ([[[0.3, -0.5, 0.2], [0.7, 0.4, -0.1], [-0.3, 0.8, 0.5]]], 0.1),
    "conv2": (
        [
            [[-0.0564, 0.2138, -0.0643], [-0.1281, 0.0525, 0.1127], [0.0742, 0.2271, -0.2033]],
            [[-0.1295, -0.2122, 0.0403], [0.0277, 0.1636, -0.0793], [0.1491, 0.2250, -0.1543]],
        ],
        0.1739,
    ),
    "conv3": ([[[0.3082]], [[-0.3845]], [[-0.1656]], [[-0.2766]]], -0.4827),
    "conv_out": (
        [[[0.2235, -0.3527], [0.1200, -0.2583]], [[0.0408, -0.2911], [0.3003, -0.0986]]],
        -0.0094,
    ),
}
# From the printed operands alone, each off by up to 5e-5.
FROM_PRINTED = {
    "conv1": 3e-4,
    "pool1": 5e-5,
    "conv2": 1.35e-3,
    "pool2": 5e-5,
    "conv3": 2.5e-4,
    "conv_out": 2.5e-4,
}


@pytest.fixture(scope="module")
def explanation():
    settings = ExplainSettings(network="tiny_cnn", input_shape=(1, 1, 8, 8))
    return explain_network(worked_network(0), settings, worked_image(), analysis=False)


def read_by(value, symbol, channels, rows, columns):
    """What the terms say that was read, as [channel][row][column]."""
    numbers = [f.values for g in value.groups for f in g.factors if f.symbol == symbol]
    return np.concatenate(numbers).reshape(channels, rows, columns)


@pytest.mark.parametrize(("key", "position"), RESULTS)
def test_a_run_reproduces_what_was_printed(explanation, key, position):
    layer = explanation.layer(key)
    assert layer.position == position
    printed, tolerance = RESULTS[key, position]
    value = layer.output_values[-1]
    assert value.computed == pytest.approx(printed, abs=tolerance)
    assert value.actual == pytest.approx(printed, abs=tolerance)
    field = np.array(FIELDS[key])
    found = read_by(value, "x", *field.shape)
    np.testing.assert_allclose(found, field, rtol=0, atol=FIELD_TOLERANCE.get(key, 5e-5))
    if key in FILTERS:
        weight, bias = FILTERS[key]
        np.testing.assert_allclose(read_by(value, "w", *field.shape), weight, atol=1e-7)
        np.testing.assert_allclose(value.groups[-1].factors[0].values, bias, atol=1e-7)


def test_what_conv3_made_becomes_0_before_conv_out_reads_it(explanation):
    made = explanation.layer("conv3").output_values[-1]
    relu = explanation.layer("relu3").output_values[-1]
    assert made.actual == pytest.approx(-0.526049, abs=3e-4)
    assert relu.groups[0].factors[0].values[0] == made.actual
    assert (relu.computed, relu.actual) == (0, 0)
    read = read_by(explanation.layer("conv_out").output_values[-1], "x", 2, 2, 2)
    assert read[0, 1, 1] == 0


@pytest.mark.parametrize("key", FIELDS)
def test_the_printed_operands_give_the_printed_result(key):
    """The explainer, fed with the printed field and filter instead of a run's."""
    field = np.array(FIELDS[key])
    spec = next(s for s in network_calls(TinyCNN(), (1, 1, 8, 8)).layers if s.key == key)
    (_, position), (printed, _) = next(item for item in RESULTS.items() if item[0][0] == key)
    operation = operation_in(spec)
    assert operation is not None
    operands = {symbol: np.zeros(shape) for symbol, shape in operation.shapes.items()}
    image = operands["x"]
    if operation.get("padding") in (0, (0, 0)):  # then the window at (0, 0) begins there
        position = (0, 0, 0, 0)
    image[0, : len(field), : field.shape[1], : field.shape[2]] = field
    if key in FILTERS:
        operands["w"][0], operands["b"][0] = FILTERS[key]
    output = np.zeros(spec.output_shape)
    captured = Captured(operation, torch.float32, operands, output, None, {}, {})
    explainer = explainer_of(operation)
    assert explainer is not None
    (value,) = explainer.output(captured, position)
    assert value.computed == pytest.approx(printed, abs=FROM_PRINTED[key])


@pytest.mark.parametrize("seed", [1, 7, 99])
def test_whatever_the_open_weights_are_the_printed_numbers_hold(seed):
    network, seen = worked_network(seed), {}
    with torch.no_grad():
        x = worked_image()
        for name, module in network.named_children():
            x = seen[name] = module(x)
    for (key, position), (printed, tolerance) in RESULTS.items():
        assert seen[key][position].item() == pytest.approx(printed, abs=tolerance)
    assert (seen["relu3"][0, 0] == 0).all()
    other = worked_network(seed + 1).conv2.weight
    assert torch.equal(other[0], network.conv2.weight[0])
    assert not torch.equal(other[1], network.conv2.weight[1])


def test_random_images_are_the_seeds_and_leave_the_generator_alone():
    state = torch.get_rng_state()
    first, again, other = (random_image((2, 3), seed) for seed in (1, 1, 2))
    worked_network(3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
