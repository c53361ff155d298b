import time
from dataclasses import replace
from fractions import Fraction
from functools import partial

import pytest
import torch
from torch import nn

from layerscope.base.errors import UserError
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.simple_cnn import SimpleCNN
from layerscope.networks.tiny_cnn import TinyCNN
from layerscope.whatif import VARIANTS, Finding, Run, analyse, run_variant
from layerscope.whatif.runs import skeleton
from layerscope.whatif.surgery import widened
from layerscope.whatif.words import code, code_list, percent_of, times

CIFAR_SHAPE = (32, 3, 32, 32)


@pytest.fixture(scope="module")
def cifar():
    begin = time.perf_counter()
    findings = {finding.title: finding for finding in analyse(CifarCNN(), CIFAR_SHAPE)}
    return findings, time.perf_counter() - begin


def by_name(finding: Finding) -> dict:
    return {figure.name: (figure.predicted, figure.measured) for figure in finding.figures}


def test_every_figure_of_the_cifar_network_is_measured_as_predicted(cifar):
    findings, _ = cifar
    differing = [
        (finding.title, figure)
        for finding in findings.values()
        for figure in finding.figures
        if None not in (figure.predicted, figure.measured)
        and figure.measured != pytest.approx(figure.predicted, rel=1e-12)
    ]
    assert differing == []
    measured = [f for finding in findings.values() for f in finding.figures if f.measured]
    assert len(measured) > 100
    assert not any("unexplained" in finding.text for finding in findings.values())


# Predicted of each variant, in the order of QUANTITIES: parameters, their bytes, FLOPs of a step,
# forward and backward products, output bytes, saved bytes, peak. A dash: not held here.
CIFAR = """
This network | 94986 379944 2007875584 660684800 1264746496 23872768 19941120 21502768
Global pooling against a flatten head | 114186 - - 661913600 - - 20186880 21579568
Depthwise separable convolutions | 13189 - - 82329600 - - 21907200 -
Half precision | 94986 189972 2007875584 660684800 1264746496 11936384 11805568 12455320
Checkpointing | 94986 379944 2007875584 660684800 1925349376 23872768 1589248 17153584
Twice the resolution | 94986 379944 8030765056 2642493440 - - 79709952 85990192
Twice the channels | 374282 - 7639629824 2529329152 - - 39882240 43005488
One more block | 391946 - 2915860480 962756608 - - 21532416 22690608
"""


@pytest.mark.parametrize("row", CIFAR.strip().split("\n"))
def test_what_is_predicted_of_each_variant(cifar, row):
    title, _, values = row.partition(" | ")
    figures = [f for f in cifar[0][title].figures if f.unit not in ("×", "%")]
    for figure, value in zip(figures, values.split(), strict=True):
        assert value == "-" or figure.predicted == int(value), figure.name


@pytest.mark.parametrize(
    ("title", "said"),
    [
        ("This network", ("673,595,392", "1,334,280,192", "19,941,120 B", "48,517,416 B")),
        (
            "Where the FLOPs, the memory and the parameters are",
            (
                "98.1 %",
                "`block2.conv` and `block3.conv`, 44.8 % each",
                "changes 4×",
                "the FLOPs 1×",
            ),
        ),
        (
            "Backward against forward",
            ("1.98×", "`block1.conv`", "56,623,104", "393,216 B (384 KiB)"),
        ),
        (
            "Parameters against a fully connected layer",
            ("3,072 · 128 + 128 = 393,344 parameters", "4.14×", "94,304 weights", "109.47×"),
        ),
        ("Global pooling against a flatten head", ("128×4×4 = 2,048", "saves 19,200,")),
        (
            "Depthwise separable convolutions",
            ("7.02× in `block1.conv`", "7.89×", "8.41×", "8.03×", "7.07× fewer"),
        ),
        ("What the optimizer adds", ("759,944 B (742 KiB)", "1.03×", "3.3 % of it", "takes 12 B")),
        ("Half precision", ("1.69×", "3,670,016 B", "would shrink 2.00×")),
        (
            "Checkpointing",
            ("1,589,248 B", "660,602,880 FLOPs", "99.99 %", "running statistics twice"),
        ),
        ("Twice the resolution", ("-737,280 in `fc`,", "94,986", "-54,528 B in `block1.bn`")),
        ("Twice the channels", ("374,282, 3.94×", "`block1.conv` and `fc` double")),
        ("One more block", ("295,680 parameters", "302,907,392", "+1,280", "391,946")),
    ],
)
def test_what_is_said_of_the_cifar_network(cifar, title, said):
    text = cifar[0][title].text
    for words in said:
        assert words in text


def test_where_the_update_is_the_peak():
    findings = {finding.title: finding for finding in analyse(CifarCNN(), (1, 3, 32, 32))}
    figures = by_name(findings["What the optimizer adds"])
    name = "Adam: the whole step's peak, with parameters, buffers, input and state"
    # parameters, gradients, two moments and 14 counters of steps, two copies of the largest
    # parameter and the bias before it, a number twice; buffers, image
    update = 2 * 294_912 + 256 + 12
    whole = 4 * 379_944 + 4 * 14 + update + 1_816 + 3 * 32 * 32 * 4
    assert figures[name] == (whole, whole)
    assert figures["Adam: in passing, beside gradients and state"] == (update, update)


def test_it_is_done_in_seconds(cifar):
    assert cifar[1] < 20  # 2 to 3 on two free cores


def test_what_a_checkpoint_saves_and_costs(cifar):
    figures = by_name(cifar[0]["Checkpointing"])
    # what goes into block2, block3 and the linear layer
    boundaries = 4 * 32 * (32 * 16 * 16 + 64 * 8 * 8 + 128)
    assert figures["bytes saved for backward"] == (boundaries, boundaries)
    backward = 1_264_746_496 + 660_602_880
    name = "backward FLOPs of convolutions and matrix products"
    assert figures[name] == (backward, backward)
    predicted, peak = figures["peak of a step above parameters, buffers and input"]
    assert predicted == peak
    assert boundaries < peak < 21_502_768


@pytest.mark.parametrize(
    ("network", "shape"), [(TinyCNN(), (2, 1, 8, 8)), (SimpleCNN(), (3, 1, 4, 4))]
)
def test_flat_networks(network, shape):
    findings = {finding.title: finding for finding in analyse(network, shape)}
    assert not any("unexplained" in finding.text for finding in findings.values())
    figures = by_name(findings["Checkpointing"])
    kept, measured = figures["bytes saved for backward"]
    assert kept == measured
    assert "no block of it is repeated" in findings["One more block"].text
    assert findings["One more block"].figures == ()
    assert "no layer without weights" in findings["Global pooling against a flatten head"].text


def test_a_variant_with_other_outputs_is_refused():
    findings = {finding.title: finding for finding in analyse(TinyCNN(), (2, 1, 8, 8))}
    refused = findings["Twice the resolution"]
    assert "it would return (2, 18) instead of (2, 2)" in refused.text
    assert "`" not in refused.text
    assert refused.figures == ()


def test_linear_layers_that_read_more_are_named():
    findings = {finding.title: finding for finding in analyse(SimpleCNN(), (3, 1, 4, 4))}
    assert "86, 2.26×: `fc` reads more features" in findings["Twice the resolution"].text


def test_residual_networks_and_depthwise_convolutions():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.blocks = nn.Sequential(*(Block() for _ in range(2)))
            self.pool = nn.AdaptiveAvgPool2d(1)
            self.fc = nn.Linear(8, 5)

        def forward(self, x):
            return self.fc(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
            self.conv = nn.Conv2d(8, 8, 1, bias=False)
            self.bn = nn.BatchNorm2d(8)

        def forward(self, x):
            return torch.relu(self.bn(self.conv(self.depthwise(x)))) + x

    findings = {finding.title: finding for finding in analyse(Residual(), (2, 3, 8, 8))}
    assert not any("unexplained" in finding.text for finding in findings.values())
    for title, finding in findings.items():
        assert finding.figures, title
    channels = findings["Twice the channels"].text
    assert "`stem` and `fc` double on one side alone" in channels
    assert "`blocks.0.depthwise` and `blocks.1.depthwise` sees one channel" in channels
    assert "too often" in findings["Backward against forward"].text
    # 7 depthwise + bias, 64 pointwise, 16 of the norm
    assert "has 160 parameters" in findings["One more block"].text


def test_the_network_is_left_as_it_was():
    network = CifarCNN(channels=(4, 4)).eval()
    network.fc.weight.grad = torch.ones_like(network.fc.weight)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.get_rng_state()
    analyse(network, (2, 3, 8, 8))
    assert torch.equal(torch.get_rng_state(), state)
    assert list(network.state_dict()) == list(before)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert torch.equal(network.fc.weight.grad, torch.ones(10, 4))
    assert not network.training
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_bfloat16_is_half_precision_already():
    findings = {f.title: f for f in analyse(SimpleCNN(), (1, 1, 4, 4), torch.bfloat16)}
    assert "it is in bfloat16 already" in findings["Half precision"].text
    assert by_name(findings["This network"])["bytes that layers put out"] == (148, 148)


def test_a_network_that_does_not_run_is_an_error():
    with pytest.raises(UserError, match="CifarCNN cannot run on this input"):
        analyse(CifarCNN(), (1, 4, 32, 32))


def test_what_is_too_large_is_counted_and_not_run():
    run = Run(skeleton(CifarCNN()), (2048, 3, 64, 64), torch.device("cpu"))
    assert run.too_large is not None
    assert run.measurements is None
    figure = run.figures["saved_bytes"]
    statistics, pooled = 4 * 2 * (32 + 64 + 128), 4 * 32 * 128  # which no resolution changes
    maps = 19_941_120 - statistics - pooled
    assert figure.predicted == 64 * (4 * maps + pooled) + statistics
    assert figure.measured is None


def test_a_network_that_is_too_large_is_told_in_every_variant():
    findings = {finding.title: finding for finding in analyse(CifarCNN(), (2048, 3, 64, 64))}
    for title in ("This network", *(variant.title for variant in VARIANTS)):
        assert findings[title].text.count("It was not run") == 1
        counts = [f for f in findings[title].figures if f.unit != "×"]
        assert {figure.measured for figure in counts} == {None}
        assert None not in {figure.predicted for figure in counts}


def test_each_study_has_its_variant():
    assert [variant.name for variant in VARIANTS] == [
        *("head", "depthwise", "precision", "checkpointing", "resolution", "width", "depth")
    ]


@pytest.mark.parametrize("factor", [Fraction(1, 4), Fraction(1, 2), Fraction(4)])
def test_a_study_takes_other_factors(factor):
    base = Run(skeleton(CifarCNN()), CIFAR_SHAPE, torch.device("cpu"))
    (width,) = [variant for variant in VARIANTS if variant.name == "width"]
    _, run = run_variant(replace(width, change=partial(widened, factor=factor)), base)
    built = CifarCNN(width=float(factor))
    assert run.figures["num_parameters"].predicted == sum(p.numel() for p in built.parameters())


def test_names_from_outside_stay_code():
    assert code("a`b|<c>") == "`` a`b|<c> ``"
    assert code_list(["a"]) == "`a`"
    assert code_list(["a", "b", "c"]) == "`a`, `b` and `c`"
    assert code_list("abcdefgh") == "`a`, `b`, `c` … `h` (8 of them)"


def test_a_ratio_is_told_from_a_whole_number():
    assert times(2, 1) == "2.00×"
    assert times(3.9996, 1) == "3.9996×"
    assert times(1, 3) == "0.33×"
    assert times(3.99999, 1) == "3.99999×"
    assert (percent_of(2, 2), percent_of(9999, 10000), percent_of(1, 8)) == (
        "100.0 %",
        "99.99 %",
        "12.5 %",
    )
