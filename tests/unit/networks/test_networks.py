import sys

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from layerscope.base.errors import UserError
from layerscope.config.schema import CustomConfig, TorchvisionConfig
from layerscope.networks import build_network, check_network, first_output
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.simple_cnn import SimpleCNN
from layerscope.networks.tiny_cnn import TinyCNN

LAYERS = {
    TinyCNN: "conv1 relu1 pool1 conv2 relu2 pool2 conv3 relu3 conv_out flatten",
    SimpleCNN: "conv relu pool flatten fc",
    CifarCNN: " ".join(
        [f"block{number}.{part}" for number in (1, 2, 3) for part in ("conv", "bn", "relu", "pool")]
        + ["gap", "flatten", "fc"]
    ),
}


def leaves(network):
    return " ".join(name for name, module in network.named_modules() if not [*module.children()])


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_have_the_names_that_others_rely_on(kind):
    assert leaves(kind()) == LAYERS[kind]


@pytest.mark.parametrize(
    ("network", "shape", "parameters", "buffer_bytes"),
    [
        (TinyCNN(), (1, 8, 8), 124, 0),
        (CifarCNN(), (3, 32, 32), 94_986, 1_816),
        (SimpleCNN(), (1, 4, 4), 38, 0),
    ],
)
def test_sizes(network, shape, parameters, buffer_bytes):
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert sum(buffer.nbytes for buffer in network.buffers()) == buffer_bytes
    classes = 10 if isinstance(network, CifarCNN) else 2
    assert network(torch.zeros(3, *shape)).shape == (3, classes)


def test_tiny_cnn_is_the_documented_one():
    network = TinyCNN()
    assert isinstance(network.pool1, nn.MaxPool2d)
    assert isinstance(network.pool2, nn.AvgPool2d)
    assert network.conv3.kernel_size == (1, 1)
    assert network.conv_out.kernel_size == (2, 2)


def test_keys_define_the_networks():
    network = CifarCNN((1, 16, 16), 4, channels=(8, 16), kernel_size=5, width=1.5)
    assert network.block1.conv.weight.shape == (12, 1, 5, 5)
    assert network.fc.weight.shape == (4, 24)
    assert CifarCNN(width=0.01).block3.conv.out_channels == 1


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: CifarCNN((3, 4, 4)), "model.input_shape"),
        (lambda: TinyCNN((3, 32, 32)), "model.input_shape"),
        (lambda: TinyCNN((1, 2, 2)), "model.input_shape"),
        (lambda: SimpleCNN((1, 1, 1)), "model.input_shape"),
        (lambda: build_network(torchvision("resnet18x")), "model.name=resnet18x"),
        (lambda: build_network(custom("nowhere.Net")), "model._target_"),
        (lambda: build_network(custom("nowhere.Net"), "nowhere.Net"), "model._target_=nowhere.Net"),
        (lambda: build_network(custom("x"), "torch.nn.Linear"), "torch.nn.Linear"),
        (lambda: build_network(custom("x", a=1), "builtins.dict"), "builtins.dict"),
    ],
)
def test_what_cannot_be_built_names_the_key(make, named):
    with pytest.raises(UserError, match=named.replace(".", r"\.")):
        make()


def test_a_target_that_a_file_brings_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="never taken from a file"):
        build_network(custom("evil.Net"))
    assert "evil" not in sys.modules


def test_a_users_own_network_gets_its_keys(tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, num_classes, hidden):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(192, hidden),\n"
        "                         nn.Linear(hidden, num_classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = custom("own_net.Net", hidden=7, input_shape=(3, 8, 8), num_classes=5)
    network = build_network(config, "own_net.Net")
    assert [layer.out_features for layer in (network[1], network[2])] == [7, 5]
    assert check_network(network, config) == 1


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "googlenet"])
def test_checking_a_network_leaves_it_as_it_was(name):
    config = torchvision(name, input_shape=(3, 64, 64))
    network = build_network(config).eval()
    network.layer1 = network.layer1.train() if name == "resnet18" else None
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    random_state = torch.get_rng_state()
    assert check_network(network, config) == (3 if name == "googlenet" else 1)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_checking_a_network_runs_no_kernel():
    network, seen = CifarCNN(), []
    network.register_forward_hook(lambda module, args, output: seen.append(type(output)))
    check_network(network, custom("x", num_classes=10))
    assert seen == [FakeTensor, FakeTensor]


def test_a_network_without_tensors_is_refused():
    class Counts(nn.Linear):
        def forward(self, images):
            return len(super().forward(images))

    with pytest.raises(UserError, match="returns no tensor"):
        check_network(Counts(32, 10), custom("x", num_classes=10))


def test_a_refused_input_is_one_line(capfd):
    config = torchvision("alexnet", input_shape=(3, 32, 32))
    with pytest.raises(UserError, match=r"model\.input_shape=\[3, 32, 32\]") as caught:
        check_network(build_network(config), config)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_wrong_classes_are_refused():
    config = custom("x", num_classes=3)
    with pytest.raises(UserError, match=r"model\.num_classes"):
        check_network(CifarCNN(), config)


def test_first_output_of_what_networks_return():
    first, second = torch.zeros(1), torch.ones(1)
    assert first_output(first) is first
    assert first_output((first, second)) is first
    assert first_output({"out": first, "aux": second}) is first
    with pytest.raises(UserError, match="int"):
        first_output(3)


def torchvision(name, input_shape=(3, 32, 32)):
    return TorchvisionConfig(
        family="torchvision", name=name, weights=None, input_shape=input_shape, num_classes=10
    )


def custom(target, input_shape=(3, 32, 32), num_classes=10, **arguments):
    return CustomConfig(
        family="custom",
        target=target,
        input_shape=input_shape,
        num_classes=num_classes,
        **arguments,
    )


@pytest.mark.parametrize("seed", range(10))
def test_no_seed_starts_tiny_cnn_with_a_dead_relu(seed):
    torch.manual_seed(seed)
    network = TinyCNN()
    features = torch.randn(64, 1, 8, 8)
    for layer in list(network.children())[:8]:
        features = layer(features)
    assert (features > 0).any(dim=(0, 2, 3)).all()
