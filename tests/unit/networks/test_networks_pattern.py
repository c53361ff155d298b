import pickle

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from layerscope.base.errors import MarkedError, UserError
from layerscope.config.compose import compose, without_places
from layerscope.config.problems import parse
from layerscope.config.schema import TrainConfig
from layerscope.networks import build_network, check_network
from layerscope.networks.derivation import derivation
from layerscope.networks.layer_calls import network_calls
from layerscope.networks.pattern import PatternCNN

EXAMPLE = "Input → (Conv → ReLU → Pool) × 2 → FC → ReLU → FC"


def leaves(network):
    return {name: module for name, module in network.named_modules() if not [*module.children()]}


def kinds(pattern, **keys):
    return [
        type(module).__name__ for module in leaves(PatternCNN(pattern=pattern, **keys)).values()
    ]


def num_parameters(network):
    return sum(parameter.numel() for parameter in network.parameters())


# Patterns of the specification: keys of the layers, and the features into the first FC layer.
SEED = {
    "Input → FC": ("flatten fc1", 3072),
    "Input → Conv → ReLU → FC": ("block1.conv1 block1.relu1 flatten fc1", 16 * 32 * 32),
    EXAMPLE: (
        "block1.conv1 block1.relu1 block1.pool block2.conv1 block2.relu1 block2.pool "
        "flatten fc1 relu1 fc2",
        2048,
    ),
    "Input → (Conv → ReLU → Conv → ReLU → Pool) × 3 → (FC → ReLU) × 2 → FC": (
        " ".join(
            f"block{number}.{name}"
            for number in (1, 2, 3)
            for name in ("conv1", "relu1", "conv2", "relu2", "pool")
        )
        + " flatten fc1 relu1 fc2 relu2 fc3",
        64 * 4 * 4,
    ),
}


@pytest.mark.parametrize("pattern", SEED)
def test_the_patterns_of_the_note(pattern):
    keys, features = SEED[pattern]
    network = PatternCNN(pattern=pattern)
    assert " ".join(leaves(network)) == keys
    assert network.fc1.in_features == features
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_worked_example_step_by_step():
    network = PatternCNN(pattern=EXAMPLE)
    steps = {step.layer: step for step in derivation(network_calls(network, (5, 3, 32, 32)))}
    shapes = {name: step.shape for name, step in steps.items()}
    assert shapes["block1.conv1"] == (5, 16, 32, 32)
    assert shapes["block1.pool"] == (5, 16, 16, 16)
    assert shapes["block2.conv1"] == (5, 32, 16, 16)
    assert shapes["block2.pool"] == (5, 32, 8, 8)
    assert shapes["flatten"] == (5, 2048)
    assert list(steps)[-1] == "fc1"
    same = "H_out = W_out = ⌊(32 + 2·1 − (3 − 1) − 1) / 1⌋ + 1 = 32"
    assert steps["block1.conv1"].formula == same
    assert steps["block1.pool"].formula == (
        "H_out = W_out = ⌊(32 + 2·0 − (2 − 1) − 1) / 2⌋ + 1 = 16"
    )
    assert steps["block1.relu1"].formula == "same size"
    assert steps["flatten"].formula == "C·H·W = 32·8·8 = 2,048"
    assert steps["fc1"].formula == "in_features = 2,048, out_features = 128"


def test_a_derivation_where_height_and_width_differ():
    layers = nn.Sequential(
        nn.Conv2d(1, 2, (3, 1), stride=(2, 1), dilation=(2, 1)),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.Conv2d(2, 2, 3, padding="same"),
        nn.AdaptiveAvgPool2d(2),
    )
    formulas = [step.formula for step in derivation(network_calls(layers, (1, 1, 20, 12)))]
    assert formulas == [
        "H_out = ⌊(20 + 2·0 − 2·(3 − 1) − 1) / 2⌋ + 1 = 8, "
        "W_out = ⌊(12 + 2·0 − (1 − 1) − 1) / 1⌋ + 1 = 12",
        "H_out = ⌊(8 + 2·0 − (3 − 1) − 1 + 2 − 1) / 2⌋ + 1 = 4, "
        "W_out = ⌊(12 + 2·0 − (3 − 1) − 1 + 2 − 1) / 2⌋ + 1 = 6",
        "4×6 → 4×6",
        "mean of 4×6 → 2×2",
    ]


@pytest.mark.parametrize(
    "written",
    [
        "input -> (CONV -> relu -> MaxPool) * 2 -> fc -> ReLU -> Linear",
        "[Conv2d → ReLU → pool]x2→FC→ReLU→FC",
        "Input → ((Conv → ReLU) × 1 → Pool) X 2 → Flatten → FC → ReLU → FC(10)",
        "Conv → ReLU → Pool() → Conv(32, 3, s=1, p=1) → ReLU → Pool(k=2) → FC(128) → ReLU → FC",
    ],
)
def test_other_ways_to_write_the_same(written):
    assert str(PatternCNN(pattern=written)) == str(PatternCNN(pattern=EXAMPLE))


def test_the_template_is_a_pattern():
    assert str(PatternCNN()) == str(PatternCNN(pattern=EXAMPLE))
    assert str(PatternCNN(M=3, N=2, K=2)) == str(PatternCNN(pattern=list(SEED)[3]))
    assert str(PatternCNN(M=0, K=0)) == str(PatternCNN(pattern="Input → FC"))
    unpooled = PatternCNN(M=2, N=2, K=0, pool=False, stride=2)
    assert [name for name, layer in leaves(unpooled).items() if isinstance(layer, nn.Conv2d)] == [
        f"block{block}.conv{conv}" for block in (1, 2) for conv in (1, 2)
    ]
    assert unpooled.fc1.in_features == 32 * 2 * 2


def test_channels_units_and_width():
    def channels(**keys):
        layers = leaves(PatternCNN(M=2, N=2, K=2, **keys)).values()
        return [layer.out_channels for layer in layers if isinstance(layer, nn.Conv2d)]

    assert channels() == [16, 16, 32, 32]
    assert channels(channels=(8, 9)) == [8, 8, 9, 9]
    assert channels(channels=(5, 6, 7, 8)) == [5, 6, 7, 8]
    assert channels(width=0.5) == [8, 8, 16, 16]
    network = PatternCNN(K=2, hidden_units=(20, 30))
    assert (network.fc1.out_features, network.fc2.out_features) == (20, 30)
    assert PatternCNN(pattern="Conv(7) → Conv → FC", channels=(3, 4)).block1.conv2.out_channels == 4
    with pytest.raises(UserError, match=r"model\.channels=\[1, 2, 3\]: .* 2 blocks.* 4 conv"):
        channels(channels=(1, 2, 3))
    with pytest.raises(UserError, match=r"model\.hidden_units=\[1, 2\]: .* the 1 hidden"):
        PatternCNN(hidden_units=(1, 2))


def test_norms_activations_and_the_rest():
    pattern = "Conv → BN → Tanh → AvgPool(3, s=2, p=1) → Dropout(0.25) → GAP → FC → BN → GELU → FC"
    network = PatternCNN(pattern=pattern)
    assert " ".join(leaves(network)) == (
        "block1.conv1 block1.bn1 block1.tanh1 block1.pool dropout1 gap flatten fc1 bn1 gelu1 fc2"
    )
    assert isinstance(network.bn1, nn.BatchNorm1d)
    assert network.dropout1.p == 0.25
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    normed = kinds("(Conv → ReLU) × 2 → Conv → BN → FC", batch_norm=True)
    assert normed[:7] == ["Conv2d", "BatchNorm2d", "ReLU"] * 2 + ["Conv2d"]
    assert normed[7:] == ["BatchNorm2d", "Flatten", "Linear"]


def test_blocks_where_nothing_pools():
    network = PatternCNN(pattern="Conv → ReLU → (Conv(s=2) → ReLU) × 2 → Dropout → FC")
    assert " ".join(leaves(network)) == (
        "block1.conv1 block1.relu1 block2.conv1 block2.relu1 block3.conv1 block3.relu1 "
        "block3.dropout1 flatten fc1"
    )
    assert network.block3.conv1.out_channels == 64


ALEXNET = (
    "Input → Conv(64, k=11, s=4, p=2) → ReLU → Pool(3, s=2) → Conv(192, k=5) → ReLU → Pool(3, s=2)"
    " → Conv(384) → ReLU → (Conv(256) → ReLU) × 2 → Pool(3, s=2) → (Dropout → FC → ReLU) × 2 → FC"
)
VGG16 = (
    "Input → ((Conv → ReLU) × 2 → Pool) × 2 → ((Conv → ReLU) × 3 → Pool) × 3"
    " → (FC → ReLU → Dropout) × 2 → FC"
)


@pytest.mark.parametrize(
    ("pattern", "channels", "other"),
    [(ALEXNET, None, "alexnet"), (VGG16, (64, 128, 256, 512, 512), "vgg16")],
)
def test_the_full_size_ones_are_torchvisions(pattern, channels, other):
    with torch.device("meta"):
        network = PatternCNN((3, 224, 224), 1000, pattern, channels=channels, hidden_units=4096)
        theirs = torchvision.models.get_model(other)
    assert num_parameters(network) == num_parameters(theirs)
    shapes = [tuple(parameter.shape) for parameter in network.parameters()]
    assert shapes == [tuple(parameter.shape) for parameter in theirs.parameters()]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("lenet", 61_706), ("alexnet_style", None), ("vgg_style", None), ("pattern", 268_650)],
)
def test_configured_ones(configs, name, parameters):
    config = parse(TrainConfig, without_places(compose(configs, "train", [f"model={name}"])))
    network = build_network(config.model)
    assert check_network(network, config.model) == 1
    if parameters is not None:
        assert num_parameters(network) == parameters
    as_in_a_checkpoint = parse(TrainConfig, config.model_dump(mode="json", by_alias=True))
    assert str(build_network(as_in_a_checkpoint.model)) == str(network)


# Pattern: first caret, end of the carets, part of the message.
MISTAKES = {
    "Input → (Covn → ReLU) → FC": (9, 13, "Covn is no layer: did you mean Conv?"),
    "Input → Wurst → FC": (8, 13, "Wurst is no layer: choose from Input, Conv"),
    "Input → Conv → Softmax": (15, 22, "leave it out"),
    "(Conv → ReLU → FC": (0, 1, "( is never closed"),
    "Conv(64 → FC": (4, 5, "( is never closed"),
    "Conv) → FC": (4, 5, ") closes nothing"),
    "(Conv] → FC": (5, 6, "] cannot close ("),
    "Conv ReLU → FC": (5, 9, "an arrow is missing before ReLU"),
    "Conv (ReLU → FC)": (5, 6, "an arrow is missing before ("),
    "Conv → → FC": (7, 8, "a layer is missing before this arrow"),
    "Conv → ": (7, 8, "a layer is missing at the end"),
    "() × 2 → FC": (1, 2, "a layer is missing before )"),
    "2 × Conv → FC": (0, 1, "the number follows the layers"),
    "Conv - FC": (5, 6, "- is no arrow: write → or ->"),
    "Conv → FC!": (9, 10, "'!' means nothing here"),
    "(Conv → Pool) × 0 → FC": (16, 17, "0 times"),
    "Conv × 1.5 → FC": (7, 10, "1.5 times: give a whole number"),
    "Conv × → FC": (5, 6, "how often?"),
    "Conv × 2 × 3 → FC": (9, 10, "an arrow is missing before ×"),
    "FC × 12345678901": (5, 16, "is too large"),
    "FC → Conv → FC": (5, 9, "Conv behind FC"),
    "GAP → Pool → FC": (6, 10, "Pool behind GAP"),
    "Flatten → Flatten → FC": (10, 17, "flat already"),
    "Conv → Input → FC": (7, 12, "Input stands at the beginning only"),
    "Conv → ReLU": (7, 11, "no FC at the end"),
    "Input": (5, 6, "no FC at the end"),
    "": (0, 1, "a layer is missing at the end"),
    "FC → ReLU": (5, 9, "ReLU behind the last FC"),
    "FC → FC(9)": (8, 9, "model.num_classes=10 scores: leave out 9"),
    "Conv(q=1) → FC": (5, 8, "q is no argument of Conv, which takes channels, k, s, p"),
    "ReLU(1) → FC": (5, 6, "1 is no argument of ReLU, which takes no arguments"),
    "Conv(4, channels=5) → FC": (8, 18, "channels is given twice"),
    "Conv(0) → FC": (5, 6, "channels=0: give at least 1"),
    "Conv(1.5) → FC": (5, 8, "channels=1.5: give a whole number"),
    "Dropout(1) → FC": (8, 9, "drops everything"),
    "Conv(k) → FC": (4, 5, "an arrow is missing before ("),
    "Conv(5, k) → FC": (9, 10, ") is no argument of Conv"),
    "Conv(k=4) → FC": (5, 8, "no padding keeps the size with k=4"),
    "Pool(3, p=2) → FC": (8, 11, "p=2 is more than half of k=3"),
    "Conv(k=33, p=0) → FC": (0, 15, "33×33 window of Conv does not fit into 32×32"),
    "(Conv → Pool) × 6 → FC": (8, 12, "Pool at repetition 6 of 6 does not fit into 1×1"),
    "Conv(999999999) → FC": (0, 15, "has 27,999,999,972 parameters"),
    "Conv(p=99999) → GAP → FC": (0, 13, "numbers for one image"),
    "((((Conv)×99)×99)×99) → FC": (2, 16, "these are 9,801 layers, at most 1,000 are built"),
    "Conv × 999999999 → FC": (0, 16, "these are 999,999,999 layers"),
    "(" * 17 + "Conv" + ")" * 17 + " → FC": (16, 17, "more than 16 nested brackets"),
    "Conv\t→\nCnov → FC": (7, 11, "Cnov is no layer"),
}


@pytest.mark.parametrize("pattern", MISTAKES)
def test_a_mistake_is_shown_where_it_is(pattern):
    start, end, hint = MISTAKES[pattern]
    with pytest.raises(MarkedError) as caught:
        PatternCNN(pattern=pattern)
    message, shown, carets = str(caught.value).split("\n")
    assert message.startswith("model.pattern: ")
    assert hint in message
    assert shown == "  " + pattern.replace("\t", " ").replace("\n", " ")
    assert carets == "  " + " " * start + "^" * (end - start)


def test_of_a_long_pattern_the_surroundings_are_shown():
    pattern = "Conv → ReLU → " * 60 + "Cnov → FC"
    with pytest.raises(MarkedError) as caught:
        PatternCNN(pattern=pattern)
    _, shown, carets = str(caught.value).split("\n")
    assert len(shown) < 170
    assert shown[carets.index("^") : carets.rindex("^") + 1] == "Cnov"
    with pytest.raises(UserError, match="at most 2,000 are read"):
        PatternCNN(pattern="Conv → " * 1000 + "FC")


def test_carets_stand_under_wide_characters():
    with pytest.raises(MarkedError) as caught:
        PatternCNN(pattern="日 → FC")
    assert str(caught.value).endswith("\n  ^^")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_template_and_pattern_exclude_each_other():
    with pytest.raises(UserError, match=r"model\.M=3 beside model\.pattern"):
        PatternCNN(pattern=EXAMPLE, M=3)
    with pytest.raises(UserError, match=r"model\.pool=false beside model\.pattern"):
        PatternCNN(pattern=EXAMPLE, pool=False)


@given(st.text(alphabet="Conv RLUFP→->()[]×*x0123,=.", max_size=40))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_whatever_is_written_is_built_or_refused(pattern):
    try:
        with torch.device("meta"):
            network = PatternCNN(pattern=pattern)
    except UserError:
        return
    assert list(network.children())[-1].out_features == 10
