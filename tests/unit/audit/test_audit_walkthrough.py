import re
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from torch import nn

from layerscope.audit import audit_network, verdict_counts, walkthrough, walkthrough_audit
from layerscope.audit.audit import judged
from layerscope.audit.claims import ClaimSection, PrintedFigure
from layerscope.audit.expressions import ExpressionError
from layerscope.networks.cifar_cnn import CifarCNN
from profile_example import account_of, costs_of

STATISTICS = "Total Network Statistics, "
INSIGHTS = "Analysis and Insights / "

WRONG = [
    ("Block 1 Summary / Block Total / FLOPs", "63.8 M", "64.0 M"),
    ("Block 1 Backward Summary / Conv1 / FLOPs", "113.0 M", "113.2 M"),
    ("Block 1 Backward Summary / Block Total / FLOPs", "120.2 M", "120.6 M"),
    ("Forward Pass Summary / TOTAL / Memory", "22.2 MB", "23.1 MB"),
    ("Forward Pass Summary / TOTAL / FLOPs", "673.4 M", "673.6 M"),
    ("Backward Pass Summary / Conv1 / FLOPs", "113.0 M", "113.2 M"),
    ("Backward Pass Summary / TOTAL / FLOPs", "1,334.0 M", "1,334.3 M"),
    (STATISTICS + "Parameters / Convolutional layers / Count", "93,184", "93,248"),
    (STATISTICS + "Parameters / Convolutional layers / Memory (Bytes)", "372,736", "372,992"),
    (STATISTICS + "Memory Requirements / Activations / Forward", "22.2 MB", "23.1 MB"),
    (STATISTICS + "Memory Requirements / Activations / Total", "45.3 MB", "46.3 MB"),
    (STATISTICS + "Memory Requirements / Total / Forward", "22.6 MB", "23.5 MB"),
    (STATISTICS + "Memory Requirements / Total / Total", "46.4 MB", "47.4 MB"),
    (STATISTICS + "Computational Cost / Forward / FLOPs", "673.4 MFLOPs", "673.6 MFLOPs"),
    (STATISTICS + "Computational Cost / Backward / FLOPs", "1,334.0 MFLOPs", "1,334.3 MFLOPs"),
    (
        STATISTICS + "Computational Cost / Total per iteration / FLOPs",
        "2,007.4 MFLOPs",
        "2,007.9 MFLOPs",
    ),
    (
        STATISTICS + "Computational Breakdown by Layer Type / Pooling / Forward FLOPs",
        "1.8 M",
        "1.9 M",
    ),
    (INSIGHTS + "2. Memory Requirements, forward pass", "22.6 MB", "23.5 MB"),
    (INSIGHTS + "2. Memory Requirements, Adam", "~3×", "1.02×"),
    (INSIGHTS + "4. Design Trade-offs, global average pooling", "millions", "19,200"),
    (INSIGHTS + "5. Optimization Opportunities, depthwise separable", "8-9×", "7.07×"),
    (INSIGHTS + "6. Scaling, one more block, parameters", "+~74K", "296K"),
]

ROUNDING = [
    ("Block 2 Summary / Block Total / FLOPs", "305.6 M", "305.7 M"),
    ("Block 3 Summary / Block Total / FLOPs", "303.9 M", "303.8 M"),
    ("Block 3 Backward Summary / Block Total / FLOPs", "605.9 M", "605.8 M"),
    (STATISTICS + "Memory Requirements / Total / Backward", "23.8 MB", "23.9 MB"),
    (
        STATISTICS + "Computational Breakdown by Layer Type / Batch Normalization / Forward FLOPs",
        "9.1 M",
        "9.2 M",
    ),
    (INSIGHTS + "2. Memory Requirements, backward pass", "23.8 MB", "23.9 MB"),
]


@pytest.fixture(scope="module")
def known():
    return account_of(CifarCNN(), (32, 3, 32, 32))


@pytest.fixture(scope="module")
def audit():
    return audit_network(CifarCNN(), walkthrough())


def with_layers(known, **changes):
    """The same network, but that each layer's costs are changed by a function of them."""
    layers = tuple(
        replace(cost, **{name: change(cost) for name, change in changes.items()})
        for cost in known.costs.layers
    )
    return replace(known, costs=replace(known.costs, layers=layers))


def with_verdict(audit, verdict):
    return [(c.where, c.printed, c.right) for c in audit.cells if c.verdict == verdict]


def test_what_is_wrong(audit):
    assert with_verdict(audit, "wrong") == WRONG


def test_what_is_rounding(audit):
    assert with_verdict(audit, "rounding") == ROUNDING


def test_counts(audit):
    counts = {(c.place, c.verdict): c.num_cells for c in verdict_counts(audit.cells)}
    assert counts == {
        ("table", "agrees"): 274,
        ("table", "rounding"): 5,
        ("table", "wrong"): 17,  # of 296, every cell beside the rows' names, shapes and dashes too
        ("text", "agrees"): 426,
        ("text", "rounding"): 0,
        ("text", "wrong"): 0,
        ("claim", "agrees"): 16,
        ("claim", "rounding"): 1,
        ("claim", "wrong"): 5,
    }


@pytest.mark.parametrize(
    ("where", "exact"),
    [
        ("Forward Pass Summary / TOTAL / Memory", 23_872_768 + 393_216),
        ("Backward Pass Summary / TOTAL / FLOPs", 1_334_280_192),
        (STATISTICS + "Parameters / Total Parameters / Count", 94_986),
        (INSIGHTS + "1. Parameter Efficiency, single FC layer", 393_344),
        (INSIGHTS + "6. Scaling, one more block, parameters", 295_168 + 512),
        (INSIGHTS + "6. Scaling, channels, parameters", 374_282 / 94_986),
        ("Forward Pass Summary / TOTAL / Output Shape", None),
    ],
)
def test_exact_value(audit, where, exact):
    (cell,) = [cell for cell in audit.cells if cell.where == where]
    assert cell.exact == exact


def test_doubled_channels_are_those_of_the_wide_network(audit):
    (cell,) = [c for c in audit.cells if c.where == INSIGHTS + "6. Scaling, channels, FLOPs"]
    total = costs_of(CifarCNN(width=2.0), (32, 3, 32, 32)).total()
    assert total.num_parameters == 374_282
    narrow = costs_of(CifarCNN(), (32, 3, 32, 32)).total()
    growth = Fraction(
        total.forward_flops + total.backward_flops, narrow.forward_flops + narrow.backward_flops
    )
    assert cell.exact == float(growth)


def test_doubled_resolution_is_that_of_the_larger_image(audit):
    (cell,) = [c for c in audit.cells if c.where == INSIGHTS + "6. Scaling, resolution, memory"]

    def memory_bytes(size):
        table = costs_of(CifarCNN(), (32, 3, size, size))
        total = table.total()
        activations = table.input_bytes + total.output_bytes + total.gradient_bytes
        return activations + 3 * total.parameter_bytes

    assert cell.exact == float(Fraction(memory_bytes(64), memory_bytes(32)))


def test_a_fourth_block_is_that_of_the_deeper_network(audit):
    by_where = {cell.where: cell.exact for cell in audit.cells}
    deep = CifarCNN(channels=(32, 64, 128, 256))
    table = costs_of(deep, (32, 3, 32, 32))
    (block,) = [total for total, _ in table.blocks() if total.name == "block4"]
    assert by_where[INSIGHTS + "6. Scaling, one more block, FLOPs"] == block.forward_flops
    assert by_where[INSIGHTS + "6. Scaling, one more block, parameters"] == block.num_parameters


def test_every_figure_is_named_once():
    places = [f"{section.section} / {figure.at}" for section, figure in walkthrough().figures]
    assert len(set(places)) == len(places)


def test_every_figure_says_what_it_claims():
    assert all(len(figure.says) > 4 and figure.formula for _, figure in walkthrough().figures)


def test_no_right_value_is_stored_as_a_number():
    claims = walkthrough()
    formulas = [*claims.definitions.values(), *(figure.formula for _, figure in claims.figures)]
    for sentence in claims.sentences:
        formulas += [formula for formula, _ in sentence.numbers.values()]
    for formula in formulas:
        numbers = {int(number) for number in re.findall(r"(?<![\w.])\d+", formula)}
        assert numbers <= {1, 2, 3, 4, 8, PRINTED_NUM_CONV_PARAMETERS}, formula


# What the sum of the convolutions is compared with.
PRINTED_NUM_CONV_PARAMETERS = 93_184


def test_no_right_value_is_stored_in_a_sentence():
    names = r"\{\w+\}|(?:block|conv)\d|int64|fp32"
    printed = {"45.3", "22.6", "46.4", "113", "113.0"}
    for sentence in walkthrough().sentences:
        text = re.sub(names, "", f"{sentence.right} {sentence.why}")
        assert set(re.findall(r"\d+(?:\.\d+)?", text)) <= printed, text


def test_a_table_that_differs_changes_the_verdicts(known):
    more = with_layers(
        known, forward_flops=lambda cost: cost.forward_flops + 2 * (cost.layer == "block2.conv")
    )
    changed = {
        cell.where for cell in judged(walkthrough(), more).cells if cell.verdict == "wrong"
    } - {where for where, _, _ in WRONG}
    assert changed == {
        "Block 2 / Conv2 / FLOPs, product, per element as a product",
        "Block 2 / Conv2 / FLOPs, product",
        "Block 2 / Conv2 / FLOPs, exact",
    }


@pytest.mark.parametrize("formula", ["block1.conv.volume", "block9.conv.macs", "total", "x +"])
def test_a_wrong_name_is_an_error_that_says_where(known, formula):
    figure = PrintedFigure(at="somewhere", printed="5", formula=formula)
    claims = walkthrough().model_copy(
        update={"sections": (ClaimSection(section="a slide", figures=(figure,)),)}
    )
    with pytest.raises(ExpressionError, match="a slide / somewhere: "):
        judged(claims, known)


def test_what_theory_does_not_know_is_an_error(known):
    with pytest.raises(ExpressionError, match="does not know"):
        judged(walkthrough(), with_layers(known, forward_flops=lambda cost: None))


class Leaky(CifarCNN):
    """As many FLOPs, and another network."""

    def __init__(self):
        super().__init__()
        self.block1.relu = nn.LeakyReLU()


@pytest.mark.parametrize(
    "network",
    [
        CifarCNN(width=2.0),
        CifarCNN(channels=(32, 64)),
        CifarCNN(num_classes=100),
        CifarCNN(kernel_size=5),
        Leaky(),
        nn.Linear(3, 2),
    ],
    ids=["wide", "shallow", "classes", "kernel", "leaky", "linear"],
)
def test_of_another_network_nothing_is_said(network):
    assert walkthrough_audit(network) is None


def test_of_its_own_network_all_is_said_in_whatever_state_it_is(audit):
    network = CifarCNN().eval().requires_grad_(False).bfloat16()
    assert walkthrough_audit(network) == audit
    assert not network.training
    assert network.fc.weight.dtype is torch.bfloat16
    assert not network.fc.weight.requires_grad


@pytest.mark.parametrize("change", [{"input_shape": (2, 3, 32, 32)}, {"element_size": 2}])
def test_a_document_about_another_batch_or_dtype_has_none(known, change):
    assert walkthrough_audit(CifarCNN(), known.costs) is not None
    assert walkthrough_audit(CifarCNN(), replace(known.costs, **change)) is None


def test_findings_are_sentences_with_their_numbers(audit):
    assert len(audit.findings) == 24
    for finding in audit.findings:
        for text in (finding.claim, finding.right, finding.why):
            assert text.endswith(".")
            assert not set("{}") & set(text)


@pytest.mark.parametrize(
    ("claim", "right"),
    [
        ("Conv1's backward pass takes", ("56.6 MFLOPs", "1,277.7 MFLOPs", "393,216 bytes")),
        ("A training step needs", ("20.5 MB", "47.4 MB")),
        ("The convolutional layers have", ("93,248", "372,992", "93,024 weights")),
        ("Depthwise separable", ("7.07×", "7.02×", "7.89×", "8.41×", "8.03×")),
        ("Half precision", ("1.94×", "1.64×", "19,941,120", "12,191,680")),
        ("One more block", ("302.9 MFLOPs", "295,680", "295,168", "512")),
        ("Doubling the channels", ("3.94×", "3.80×")),
        ("Global average pooling saves", ("19,200", "20,490", "1,290")),
        ("The linear layer's backward", ("163,840", "1,048,576", "524,288", "262,144")),
        ("The parameters' 0.36 MB", ("1,816 bytes", "448")),
    ],
)
def test_finding(audit, claim, right):
    (finding,) = [finding for finding in audit.findings if finding.claim.startswith(claim)]
    assert all(number in finding.right for number in right), finding.right


def test_the_peak_is_that_of_the_dry_run(audit):
    (ours,) = [f for f in audit.findings if f.claim.startswith("A training step needs")]
    assert "20.5 MB" in ours.right
