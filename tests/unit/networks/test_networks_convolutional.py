import copy

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import layerscope
from layerscope.base.errors import UserError
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.conv_matrix import conv_as_matrix
from layerscope.networks.convolutional import crops, to_convolutional, total_stride
from layerscope.networks.layer_calls import network_calls
from layerscope.networks.pattern import PatternCNN
from layerscope.networks.simple_cnn import SimpleCNN
from layerscope.networks.tiny_cnn import TinyCNN
from layerscope.theory import cost_table, textbook_units

UNPADDED = (
    "Input → Conv(4, k=5, p=0) → BN → ReLU → Pool → Conv(6, k=3, s=2, p=0) → ReLU → AvgPool(2, s=1)"
    " → FC(9) → BN → Tanh → Dropout → FC"
)


def lenet():
    pattern = (
        "Input → Conv(6, k=5, p=0) → Tanh → AvgPool → Conv(16, k=5, p=0) → Tanh → AvgPool"
        " → FC(120) → Tanh → FC(84) → Tanh → FC"
    )
    return PatternCNN((1, 32, 32), pattern=pattern)


NETWORKS = {
    "cifar_cnn": (CifarCNN, (3, 32, 32)),
    "simple_cnn": (SimpleCNN, (1, 4, 4)),
    "tiny_cnn": (TinyCNN, (1, 8, 8)),
    "lenet": (lenet, (1, 32, 32)),
    "unpadded": (lambda: PatternCNN((3, 23, 23), pattern=UNPADDED), (3, 23, 23)),
    "linear": (lambda: PatternCNN(pattern="FC → ReLU → FC"), (3, 32, 32)),
}


def trained(name):
    """Return a network in float64 and eval mode, with statistics unlike those of a new network."""
    make, shape = NETWORKS[name]
    torch.manual_seed(0)
    network = make().double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return network.eval(), shape


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_equal_on_the_original_size(name):
    network, shape = trained(name)
    before = copy.deepcopy(network.state_dict())
    converted = to_convolutional(network, shape)
    assert not any(isinstance(layer, nn.Linear | nn.Flatten) for layer in converted.modules())
    images = torch.randn(3, *shape, dtype=torch.float64)
    expected = network(images)
    torch.testing.assert_close(converted(images), expected[:, :, None, None], rtol=0, atol=1e-12)
    assert sum(p.numel() for p in converted.parameters()) == sum(
        p.numel() for p in network.parameters()
    )
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not converted.training
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter.zero_()
    assert torch.equal(network(images), expected)  # Weights are copies.


def test_layers_keep_their_keys():
    converted = to_convolutional(CifarCNN(), (1, 3, 32, 32))
    names = [name for name, layer in converted.named_modules() if not [*layer.children()]]
    assert names[:4] == ["block1.conv", "block1.bn", "block1.relu", "block1.pool"]
    assert names[-2:] == ["gap", "fc"]
    assert converted.gap.kernel_size == (4, 4)
    assert converted.gap.stride == (1, 1)
    assert converted.fc.weight.shape == (10, 128, 1, 1)
    assert converted.training


@pytest.mark.parametrize("name", ["lenet", "unpadded", "linear"])
def test_without_padding_the_grid_is_every_crop(name):
    network, (channels, height, width) = trained(name)
    converted = to_convolutional(network, (channels, height, width))
    stride = total_stride(converted)
    image = torch.randn(2, channels, height + 3 * stride[0], width + 2 * stride[1]).double()
    grid = converted(image)
    assert grid.shape == (2, 10, 4, 3)
    each = network(crops(image, (height, width), stride))
    expected = each.view(2, 4, 3, 10).permute(0, 3, 1, 2)
    torch.testing.assert_close(grid, expected, rtol=0, atol=1e-12)


def test_with_padding_the_grid_is_another_by_what_the_padding_hides():
    """A crop is padded with zeros; the large image has pixels there."""
    network, shape = trained("cifar_cnn")
    converted = to_convolutional(network, shape)
    assert total_stride(converted) == (8, 8)
    image = torch.randn(1, 3, 40, 40).double()
    grid = converted(image)
    each = network(crops(image, (32, 32), (8, 8))).view(1, 2, 2, 10).permute(0, 3, 1, 2)
    assert grid.shape == each.shape
    assert (grid - each).abs().max() > 1e-3


def test_the_note_of_seven_by_seven_by_512():
    with torch.device("meta"):
        head = nn.Sequential(nn.Flatten(), nn.Linear(7 * 7 * 512, 4096))
    converted = to_convolutional(head, (512, 7, 7))
    (layer,) = converted.children()
    assert layer.weight.shape == (4096, 512, 7, 7)
    assert (layer.stride, layer.padding) == ((1, 1), (0, 0))
    assert layer.weight.is_meta
    assert converted(torch.empty(1, 512, 7, 7, device="meta")).shape == (1, 4096, 1, 1)
    assert converted(torch.empty(1, 512, 9, 12, device="meta")).shape == (1, 4096, 3, 6)
    assert network_calls(converted, (1, 512, 7, 7)).layers[0].output_shape == (1, 4096, 1, 1)


@pytest.mark.parametrize("name", ["alexnet", "vgg11_bn"])
def test_torchvisions_with_a_functional_flatten(name):
    with torch.device("meta"):
        network = torchvision.models.get_model(name)
    converted = to_convolutional(network, (3, 224, 224))
    size = converted(torch.empty(1, 3, 224 + 64, 224 + 32, device="meta")).shape
    assert size == (1, 1000, 3, 2)
    assert converted.get_submodule("classifier.6" if name == "alexnet" else "classifier.0")


def test_one_pass_costs_less_than_every_crop():
    network, shape = trained("lenet")
    converted = to_convolutional(network, shape)
    one, every = (
        cost_table(run, textbook_units(run), 4).total()
        for run in (
            network_calls(converted, (1, 1, 64, 64)).run,
            network_calls(network, (81, *shape)).run,
        )
    )
    assert converted(torch.zeros(1, 1, 64, 64).double()).shape[2:] == (9, 9)
    # conv1 runs once on 60×60, not 81 times on 28×28, and so on. The last layer costs the same.
    macs = 60 * 60 * 6 * 25 + 26 * 26 * 16 * 150 + 81 * (120 * 400 + 84 * 120 + 10 * 84)
    assert one.macs == macs
    assert every.macs == 81 * (28 * 28 * 6 * 25 + 100 * 16 * 150 + 120 * 400 + 84 * 120 + 840)


class Odd(nn.Module):
    def __init__(self, forward):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(3 * 64, 3)
        self.own_forward = forward

    def forward(self, x):
        return self.own_forward(self, x)


def test_what_functions_do_is_converted_too():
    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(self.relu(self.conv(x)))), 2)
        return self.fc(self.relu(x).view(len(x), -1))

    network = Odd(forward)
    converted = to_convolutional(network, (3, 16, 16))
    names = list(converted._modules)
    assert names == ["conv", "relu", "conv_1", "relu_1", "max_pool2d", "relu_2", "fc"]
    image = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(converted(image).flatten(1), network(image))
    assert len(list(converted.parameters())) == 4  # conv is called twice and stays one layer.


REFUSED = {
    "a sum": (lambda self, x: self.fc((x + self.conv(x)).flatten(1)), "add (add)"),
    "transposed": (lambda self, x: self.fc(self.conv(x).transpose(2, 3).flatten(1)), "transpose"),
    "side by side": (lambda self, x: (self.conv(x), self.fc(x.flatten(1)))[1], "in a row"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_converted_is_named(case):
    forward, named = REFUSED[case]
    with pytest.raises(UserError) as caught:
        to_convolutional(Odd(forward), (3, 8, 8))
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ([nn.Conv2d(3, 4, 3), nn.Linear(6, 2)], "1 (Linear)"),
        ([nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(27, 2)], "0 (AdaptiveAvgPool2d)"),
        ([nn.Flatten(), nn.BatchNorm1d(192), nn.Linear(192, 2)], "1 (BatchNorm1d)"),
        ([nn.Flatten(), nn.LayerNorm(192), nn.Linear(192, 2)], "1 (LayerNorm)"),
        ([nn.Flatten(2), nn.Linear(64, 2)], "0 (Flatten)"),
        ([nn.Softmax(2)], "0 (Softmax)"),
        ([nn.GLU(2)], "0 (GLU)"),
    ],
)
def test_layers_that_cannot_be_converted_are_named(layers, named):
    with pytest.raises(UserError) as caught:
        to_convolutional(nn.Sequential(*layers), (3, 8, 8))
    assert str(caught.value).startswith(named)


def test_a_pooling_that_leaves_more_than_one_value():
    head = (nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5), nn.Softmax(-1))
    network = nn.Sequential(nn.LogSigmoid(), *head)
    converted = to_convolutional(network, (3, 8, 8))
    image = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(converted(image).flatten(1), network(image))
    assert converted(torch.zeros(1, 3, 16, 12)).shape == (1, 5, 3, 2)


# A convolution as a matrix.


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 2]))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    stride = (draw(st.integers(1, 3)), draw(st.integers(1, 2)))
    padding = draw(st.sampled_from([0, 1, (2, 1), "same", "valid"]))
    dilation = draw(st.integers(1, 2))
    conv = nn.Conv2d(
        2 * groups,
        3 * groups,
        kernel,
        stride=1 if padding == "same" else stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=draw(st.booleans()),
    )
    return conv.double(), (2 * groups, draw(st.integers(5, 7)), draw(st.integers(5, 8)))


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@given(convolutions())
@settings(deadline=None, max_examples=40, derandomize=True)
def test_the_matrix_gives_the_convolutions_outputs(drawn):
    conv, shape = drawn
    image = torch.randn(shape, dtype=torch.float64)
    expected = conv(image[None])[0]
    matrix, index = conv_as_matrix(conv, shape)
    assert matrix.is_sparse
    assert matrix.shape == (expected.numel(), image.numel())
    assert torch.equal(matrix.values(), conv.weight.flatten()[index])
    output = (matrix @ image.flatten()).view_as(expected)
    if conv.bias is not None:
        output = output + conv.bias[:, None, None]
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-13)
    places = matrix.indices()[0] * matrix.shape[1] + matrix.indices()[1]
    assert (places.diff() > 0).all()  # They are in order, each place once.


def test_shared_entries_are_marked():
    """Without padding each weight has one entry per output position."""
    conv = nn.Conv2d(2, 3, 2, stride=1)
    matrix, index = conv_as_matrix(conv, (2, 4, 5))
    assert index.bincount().tolist() == [3 * 4] * conv.weight.numel()
    assert len(index) == matrix.values().numel() == 3 * (3 * 4) * (2 * 2 * 2)
    image = torch.randn(2, 4, 5)
    matrix.matmul(image.flatten()).sum().backward()
    by_matrix = conv.weight.grad.clone()
    conv.weight.grad = None
    conv(image[None]).sum().backward()
    torch.testing.assert_close(by_matrix, conv.weight.grad)


@pytest.mark.parametrize(
    ("conv", "shape", "named"),
    [
        (nn.Conv1d(1, 1, 3), (1, 8, 8), "Conv1d is not supported: give an nn.Conv2d"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular"), (1, 8, 8), "padding_mode"),
        (nn.Conv2d(2, 1, 3), (1, 8, 8), "takes 2 channels, not 1"),
        (nn.Conv2d(1, 1, 9), (1, 8, 8), "does not fit"),
        (nn.Conv2d(64, 64, 3, padding=1), (64, 64, 64), "entries"),
    ],
)
def test_what_has_no_matrix_is_refused(conv, shape, named):
    with pytest.raises(UserError, match=named):
        conv_as_matrix(conv, shape)


@pytest.mark.parametrize("shape", [(9, 7), (4.0, 9, 7), (1, 2, 3, 4, 5)])
def test_a_shape_that_is_none_of_an_image_is_refused(shape):
    with pytest.raises(UserError, match="input_shape"):
        layerscope.conv_as_matrix(nn.Conv2d(4, 4, 3), shape)
    with pytest.raises(UserError, match="input_shape"):
        layerscope.to_convolutional(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), shape)


def test_what_is_no_network_is_refused():
    with pytest.raises(UserError, match="not an nn"):
        layerscope.to_convolutional("network", (3, 8, 8))
