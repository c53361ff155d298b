"""Functions as the unit: what is explained does not depend on where a tensor comes from."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from captures import assert_explained, captured, explainer
from torch import nn
from torch.nn import functional as F

import layerscope
from layerscope.explain.families import EXPLAINERS
from layerscope.report.explain.content import explanation_document
from layerscope.report.markdown import to_markdown

REFERENCE = Path(__file__).parents[3] / "docs" / "reference.md"


def test_the_reference_lists_the_functions_that_are_explained():
    (line,) = re.findall(r"^Functions that are explained: (.*)\.$", REFERENCE.read_text(), re.M)
    assert line == ", ".join(f"`{name}`" for name in sorted(EXPLAINERS))


class Attention(nn.Module):
    """Queries, keys and values that are parts of the image."""

    def __init__(self, shape, keys=None, **settings):
        super().__init__()
        self.shape, self.keys, self.settings = shape, keys or shape[-2], settings

    def forward(self, x):
        *front, queries, size = self.shape
        made = [
            x[number].view(*front, -1, size)[..., :rows, :]
            for number, rows in enumerate((queries, self.keys, self.keys))
        ]
        return F.scaled_dot_product_attention(*made, **self.settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": torch.tensor([[True, False, True]] * 3)},
        {"attn_mask": torch.tensor([[0.5, -1.0, -np.inf]] * 3, dtype=torch.float64)},
    ],
    ids=lambda settings: "-".join(settings) or "plain",
)
def test_attention(settings):
    assert_explained(captured(Attention((2, 2, 3, 4), **settings), (3, 2 * 2 * 3 * 4)))


def test_attention_to_more_keys_than_queries():
    assert_explained(captured(Attention((2, 4, 3), keys=5), (3, 2 * 5 * 3)))


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"scale_factor": 2}, (2, 3, 4, 5)),
        ({"size": (5, 3)}, (2, 3, 4, 5)),
        ({"size": 7, "mode": "nearest-exact"}, (2, 3, 4)),
        ({"scale_factor": 1.7}, (2, 3, 5, 4)),
        ({"scale_factor": 2, "mode": "bilinear"}, (2, 3, 4, 5)),
        ({"size": (3, 9), "mode": "bilinear"}, (2, 3, 4, 5)),
        ({"scale_factor": 1.3, "mode": "bilinear"}, (2, 3, 4, 5)),
        ({"size": (3, 9), "mode": "bilinear", "align_corners": True}, (2, 3, 4, 5)),
        ({"size": (1, 1), "mode": "bilinear", "align_corners": True}, (2, 3, 4, 5)),
        ({"scale_factor": 2, "mode": "linear"}, (2, 3, 5)),
        ({"scale_factor": 2, "mode": "trilinear"}, (1, 2, 2, 3, 4)),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_interpolation(settings, shape):
    # torch finds the shares of trilinear interpolation along one dimension after the other
    assert_explained(captured(nn.Upsample(**settings), shape))
    assert_explained(captured(lambda x: F.interpolate(x, **settings), shape))


class Standardized(nn.Conv2d):
    """A convolution of somebody's own, whose weight is standardised in its forward."""

    def forward(self, x):
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.w, self.scale = nn.Parameter(torch.randn(4, 2, 3, 3)), nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return F.conv2d(x, self.w * self.scale, padding=1)


class Borrowed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, x):
        return F.conv2d(x, self.inner.weight, self.inner.bias, padding=1)


MADE = {
    "weight_norm": lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(2, 4, 3, padding=1)),
    "circular": lambda: nn.utils.parametrizations.weight_norm(
        nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular")
    ),
    "spectral": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4)),
    "standardized": lambda: Standardized(2, 4, 3, padding=1),
    "scaled": Scaled,
}


@pytest.mark.parametrize("name", MADE)
def test_a_weight_that_is_made_of_others(name):
    torch.manual_seed(0)
    made = MADE[name]()
    call = captured(made, (2, 3, 5) if name == "spectral" else (2, 2, 5, 4))
    assert_explained(call)


def test_a_weight_that_needs_no_gradient_has_none_to_compare_with():
    call = captured(lambda x: F.conv2d(x, torch.ones(4, 2, 3, 3, dtype=x.dtype)), (2, 2, 5, 4))
    (value,) = explainer(call).gradient(call, "w", (0, 0, 0, 0))
    assert value.actual is None
    assert value.num_terms == 2 * 3 * 2


def report_of(layer):
    torch.manual_seed(0)
    network = nn.Sequential(layer, nn.Flatten(), nn.Linear(4 * 5 * 4, 2)).double()
    return layerscope.explain(network, image=torch.randn(3, 2, 5, 4).double()).explanation


@pytest.mark.parametrize("name", ["weight_norm", "standardized", "scaled"])
def test_it_is_told_and_no_optimizer_steps_it(name):
    explanation = report_of(MADE[name]())
    (layer,) = [layer for layer in explanation.layers if layer.weight_position == (0, 0, 0, 0)]
    *_, value = layer.weight_gradient_values
    assert value.computed == pytest.approx(value.actual, rel=1e-12)
    assert "weight $w$ is no parameter" in layer.note
    assert not [u for u in explanation.updates_of(layer.key) if u.parameter == "weight"]


def test_a_parameter_of_another_module_is_named_by_its_path():
    explanation = report_of(Borrowed())
    layer = explanation.layer("0.conv2d")
    assert "Its weight $w$ is the parameter 0.inner.weight." in layer.note
    assert "Its bias $b$ is the parameter 0.inner.bias." in layer.note
    assert {update.parameter for update in explanation.updates_of(layer.key)} == {"weight", "bias"}
    assert report_of(nn.Conv2d(2, 4, 3, padding=1)).layer("0").note == ""


def test_both_factors_of_a_product_are_explained():
    class Product(nn.Module):
        def forward(self, x):
            return (x.flatten(2) @ x.sigmoid().flatten(2).mT).flatten(1)

    layer = layerscope.explain(Product(), image=torch.randn(2, 3, 2, 2)).explanation.layer("matmul")
    assert [value.name for value in layer.input_gradient_values] == ["dL/dx[0,0,0]", "dL/dz[0,0,1]"]


def test_an_input_that_no_window_reads_has_no_terms_and_is_written():
    network = nn.Sequential(nn.AvgPool2d(2), nn.Flatten())
    where = {"layer": "0", "input_position": (0, 0, 4, 0)}
    explanation = layerscope.explain(network, image=torch.randn(1, 1, 5, 4), **where).explanation
    (value,) = explanation.layer("0").input_gradient_values
    assert (value.num_terms, value.computed, value.actual) == (0, 0.0, 0.0)
    assert "has no terms" in to_markdown(explanation_document(explanation))


def test_a_position_whose_first_index_is_no_images():
    class Sum(nn.Module):
        def forward(self, x):
            return x.permute(1, 0).sum(0, keepdim=True)

    network = nn.Sequential(nn.Flatten(), Sum())
    report = layerscope.explain(
        network, image=torch.randn(2, 3, 1), layer="1.permute", position=(2, 1)
    )
    assert report.value("1.permute", "y[2,1]").num_terms == 1


# Settings at random -------------------------------------------------------------------------------


def random_window(numbers, dims, *, dilated=True):
    kernel = tuple(int(k) for k in numbers.integers(1, 4, dims))
    return {
        "kernel_size": kernel,
        "stride": tuple(int(s) for s in numbers.integers(1, 4, dims)),
        "padding": tuple(int(numbers.integers(k // 2 + 1)) for k in kernel),
        **({"dilation": tuple(int(d) for d in numbers.integers(1, 3, dims))} if dilated else {}),
    }


def random_layer(kind, numbers):
    """A layer with settings at random, and the shape of an image for it."""
    dims = int(numbers.integers(1, 4))
    sizes = tuple(int(size) for size in numbers.integers(6, 9, dims))
    groups = int(numbers.choice([1, 2, 4]))
    channels, more = groups * int(numbers.integers(1, 3)), groups * int(numbers.integers(1, 3))
    bias = bool(numbers.integers(2))
    if kind == "conv":
        layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dims - 1]
        mode = str(numbers.choice(["zeros", "zeros", "circular", "reflect", "replicate"]))
        window = random_window(numbers, dims)
        layer = layer(channels, more, **window, groups=groups, bias=bias, padding_mode=mode)
    elif kind == "conv_transpose":
        layer = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[dims - 1]
        window = random_window(numbers, dims)
        spare = tuple(
            max(s, d) - 1 for s, d in zip(window["stride"], window["dilation"], strict=True)
        )
        layer = layer(channels, more, **window, output_padding=spare, groups=groups, bias=bias)
        sizes = tuple(size - 3 for size in sizes)
    elif kind == "avg_pool":
        layer = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[dims - 1]
        window = random_window(numbers, dims, dilated=False)
        ceil, counts = (bool(choice) for choice in numbers.integers(2, size=2))
        layer = layer(**window, ceil_mode=ceil, count_include_pad=counts)
    elif kind == "max_pool":
        layer = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)[dims - 1]
        layer = layer(**random_window(numbers, dims), ceil_mode=bool(numbers.integers(2)))
    elif kind == "adaptive_avg_pool":
        layer = (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)[dims - 1]
        layer = layer(tuple(int(size) for size in numbers.integers(1, 6, dims)))
    elif kind == "linear":
        layer = nn.Linear(sizes[-1], more, bias=bias)
    else:
        order = tuple(int(dim) for dim in numbers.permutation(dims + 2))
        reduced = tuple(int(dim) for dim in numbers.choice(dims + 2, 2, replace=False))
        layer = {
            "permute": lambda x: x.permute(order),
            "mean": lambda x: x.mean(reduced, keepdim=bias),
            "sum": lambda x: x.sum(reduced, keepdim=bias),
            "cat": lambda x: torch.cat([x, x.relu(), x.sigmoid()], reduced[0]),
        }[kind]
    return layer, (2, channels, *sizes)


KINDS = ("conv", "conv_transpose", "avg_pool", "max_pool", "adaptive_avg_pool", "linear")


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", [*KINDS, "permute", "mean", "sum", "cat"])
def test_settings_at_random(kind, seed):
    numbers = np.random.default_rng([seed, *kind.encode()])
    torch.manual_seed(seed)
    layer, shape = random_layer(kind, numbers)
    call = captured(layer, shape, seed)
    if explainer(call).refuses(call.operation) is None:
        assert_explained(call, seed, count=4)
