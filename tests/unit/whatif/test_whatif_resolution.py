"""What is said of twice the resolution, held against sizes and FLOPs written out by hand."""

import re

import pytest
import torch
from torch import nn

from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.pattern import PatternCNN
from layerscope.whatif import analyse

TITLE = "Twice the resolution"


def said(network: nn.Module, shape: tuple[int, ...]) -> str:
    return next(finding.text for finding in analyse(network, shape) if finding.title == TITLE)


def parts(text: str, what: str) -> tuple[int, int, int, list[int]]:
    """The whole, what four times would be of, the difference, and its parts."""
    found = re.search(
        rf"{what} (?:are|is) ([\d,]+)(?: B)?, 4 times ([\d,]+)(?: B)? and ([+-][\d,]+)(?: B)?: "
        r"(.*?)\.(?: |$)",
        text,
    )
    assert found is not None
    whole, before, excess, listed = found.groups()
    amounts = [number(amount) for amount in re.findall(r"(?:^|; )([+-][\d,]+)", listed)]
    return number(whole or "0"), number(before), number(excess), amounts


def number(text: str) -> int:
    return int(text.replace(",", ""))


def lenet() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.Tanh(), nn.AvgPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 10)),
    )


def lenet_step(sizes: tuple[int, int], features: int) -> dict[str, int]:
    """FLOPs of a step by layer: 2 per product and two gradients; else one per element."""
    first, second = (size * size for size in sizes)
    return {
        "0": 3 * 2 * first * 25 * 6,
        "1": 2 * first * 6,
        "2": 2 * first * 6,
        "3": 3 * 2 * second * 25 * 6 * 16,
        "4": 2 * second * 16,
        "5": 2 * second * 16,
        "7": 3 * 2 * features * 120,
        "8": 2 * 120,
        "9": 3 * 2 * 120 * 10,
    }


def test_without_padding_each_layer_has_a_factor_of_its_own():
    own = lenet_step((28, 10), 400)
    its = lenet_step((60, 26), 16 * 13 * 13)
    text = said(lenet(), (1, 1, 32, 32))
    whole, before, excess, amounts = parts(text, "The step's FLOPs")
    assert (whole, before) == (sum(its.values()), sum(own.values()))
    assert excess == whole - 4 * before == sum(amounts)
    over = {layer: its[layer] - 4 * own[layer] for layer in own}
    sizes = sum(over[layer] for layer in "012345")
    assert amounts == [sizes, over["7"], over["8"] + over["9"]]
    for layer, growth in zip("012345", ["4.59"] * 3 + ["6.76"] * 3, strict=True):
        assert f"`{layer}` ({growth}×)" in text
    assert "in `7` (6.76×), which reads 2,704 features instead of 400" in text
    assert "in `8` and `9`, whose work is the same at both resolutions" in text
    assert "first in `0`, 32×32 → 28×28 but 64×64 → 60×60 (2 · padding is not" in text
    assert "rounded" not in text


def test_rounding_is_named_where_it_is():
    network = nn.Sequential(nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    text = said(network, (1, 3, 7, 7))
    assert "first in `0`, 7×7 → 3×3 but 14×14 → 7×7 (the division by the stride is rounded)" in text
    assert "`1` puts out 1×1 for both" in text
    whole, before, excess, amounts = parts(text, "The step's FLOPs")
    # max pool: 4 an output, 1 an input backward; average: its input, twice; linear: three times
    own = [4 * (3 * 9) + 3 * 49, 2 * 3 * 9, 3 * 12]
    its = [4 * (3 * 49) + 3 * 196, 2 * 3 * 49, 3 * 12]
    assert excess == sum(amounts) == whole - 4 * before
    assert amounts == [sum(its[:2]) - 4 * sum(own[:2]), its[2] - 4 * own[2]]


def test_proportional_sizes_blame_no_size():
    pattern = "Input → (Conv → ReLU) × 2 → Conv → Pool → FC → ReLU → FC"
    text = said(pattern_network(pattern, stride=2), (1, 3, 32, 32))
    _, _, excess, amounts = parts(text, "The step's FLOPs")
    # the ReLU of 128 elements, and 128 · 10 products: forward and backward, three times over
    assert amounts == [excess] == [-3 * (2 * 128 + 3 * 2 * 128 * 10)]
    assert "in proportion" not in text
    assert "leave the proportion" not in text


def pattern_network(pattern: str, stride: int) -> nn.Module:
    nothing = dict.fromkeys(("M", "N", "K", "pool", "channels", "padding"))
    sizes = {"kernel_size": 3, "stride": stride, "hidden_units": 128, "width": 1.0}
    settings = {"pattern": pattern, "batch_norm": False, **nothing, **sizes}
    return PatternCNN(input_shape=(3, 32, 32), num_classes=10, **settings)


def test_what_is_kept_of_the_cifar_network_is_split_too():
    text = said(CifarCNN(), (32, 3, 32, 32))
    _, before, excess, amounts = parts(text, "What autograd saves")
    assert before == 19_941_120
    # of each norm's channels mean and inverse deviation; what the linear layer reads
    constant = 4 * (2 * (32 + 64 + 128) + 32 * 128)
    assert amounts == [excess] == [-3 * constant]
    assert "`block1.bn`, `block2.bn`, `block3.bn` and `gap`, which take as much" in text


def test_where_everything_grows_as_the_image_that_is_said():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    text = said(network, (1, 1, 8, 8))
    assert "The step's FLOPs are exactly 4× as much in every layer" in text


class Exponential(nn.Module):
    """The textbook has no formula for a matrix exponential."""

    def forward(self, x):
        return torch.matrix_exp(x)


@pytest.mark.parametrize("size", [8, 9])
def test_layers_without_a_formula_are_left_out_by_name(size):
    network = nn.Sequential(
        *(nn.Conv2d(1, 2, 3, padding=1), Exponential()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2)),
    )
    text = said(network, (1, 1, size, size))
    assert "an unknown" not in text
    known = "The step's FLOPs, but for those that are not known since `matrix_exp` has no formula,"
    _, before, _, amounts = parts(text, known)
    assert before == 3 * 2 * size * size * 9 * 2 + 2 * size * size * 2 + 3 * 2 * 4
    assert amounts == [-3 * 3 * 2 * 4]
