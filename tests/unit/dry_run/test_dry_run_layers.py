"""The layers of a dry run: keys, shapes, parameters and memory equal those of a real forward."""

import time

import pytest
import torch
import torchvision
from torch import nn

from layerscope.base.errors import UserError
from layerscope.dry_run import dry_run
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.simple_cnn import SimpleCNN
from layerscope.networks.tiny_cnn import TinyCNN


def forward(network, shape, requires_grad=False):
    image = torch.zeros(shape, requires_grad=requires_grad)
    return dry_run(network, (image,), backward=False)


def shapes_by_hook(network, image):
    """Return the shapes that forward hooks on the leaf modules see, in order."""
    seen = []
    for name, module in network.named_modules():
        if not list(module.children()):
            module.register_forward_hook(
                lambda _module, _args, output, name=name: seen.append((name, tuple(output.shape)))
            )
    network(image)
    return seen


@pytest.mark.parametrize(
    ("network", "shape"),
    [(CifarCNN(), (4, 3, 32, 32)), (TinyCNN(), (4, 1, 8, 8)), (SimpleCNN(), (4, 1, 4, 4))],
    ids=["cifar_cnn", "tiny_cnn", "simple_cnn"],
)
def test_keys_order_and_shapes_are_those_of_a_real_forward(network, shape):
    layers = forward(network, shape).layers
    expected = shapes_by_hook(network, torch.randn(shape))
    assert [(call.key, call.output_shape) for call in layers] == expected


def test_cifar_cnn_in_numbers():
    layers = forward(CifarCNN(), (32, 3, 32, 32)).layers
    assert sum(call.num_parameters for call in layers) == 94_986
    assert sum(call.buffer_bytes for call in layers) == 1_816
    assert sum(call.output_elements for call in layers if not call.returns_input) * 4 == 23_872_768
    assert [call.type for call in layers[:4]] == ["Conv2d", "BatchNorm2d", "ReLU", "MaxPool2d"]
    assert [call.key for call in layers if call.returns_input] == ["flatten"]


def test_parameters_add_up_to_the_networks():
    network = torchvision.models.mobilenet_v3_small()
    layers = forward(network, (2, 3, 64, 64)).layers
    assert sum(call.num_parameters for call in layers) == sum(
        p.numel() for p in network.parameters()
    )


def test_a_parameter_used_by_a_function_is_the_functions():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 1, 1))

        def forward(self, x):
            return x * self.scale

    (call,) = forward(Scaled(), (2, 3, 4, 4)).layers
    assert (call.key, call.num_parameters, call.input_shapes) == ("mul", 3, ((2, 3, 4, 4),))


def test_shared_parameters_are_the_first_layers():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    layers = forward(nn.Sequential(first, second), (1, 3)).layers
    assert [call.num_parameters for call in layers] == [12, 3]


def test_in_place_stays_in_place():
    layers = forward(torchvision.models.resnet18(), (2, 3, 64, 64)).layers
    block = {call.key: call for call in layers if call.key.startswith("layer1.0")}
    assert block["layer1.0.add"].in_place
    assert block["layer1.0.relu"].in_place
    assert not block["layer1.0.bn1"].in_place
    assert [call.key for call in layers].count("layer1.0.relu") == 2


def test_several_outputs():
    network = torchvision.models.googlenet(init_weights=False)
    run = forward(network, (2, 3, 96, 96))
    shapes = {call.key: call.output_shape for call in run.layers}
    assert shapes["aux1.fc2"] == shapes["fc"] == (2, 1000)
    assert [tensor.shape for tensor in run.outputs] == [(2, 1000)] * 3


def test_a_batch_of_4096_takes_no_memory():
    network = torchvision.models.resnet18()  # its real forward would take 100 GB
    begin = time.perf_counter()
    layers = forward(network, (4096, 3, 224, 224)).layers
    assert time.perf_counter() - begin < 20
    assert layers[0].output_shape == (4096, 64, 112, 112)


@pytest.mark.parametrize("backward", [False, True])
def test_the_network_is_as_it_was(backward):
    network = CifarCNN()
    network.block1.bn.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    identities = [id(tensor) for tensor in [*network.parameters(), *network.buffers()]]
    generator = torch.get_rng_state()
    dry_run(network, (torch.zeros(2, 3, 32, 32),), backward=backward)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert identities == [id(tensor) for tensor in [*network.parameters(), *network.buffers()]]
    assert torch.equal(generator, torch.get_rng_state())
    assert not network.block1.bn.training
    assert network.block2.bn.training
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((2, 1, 32, 32), "channels"), ((2, 3, 4, 4), "too small")],
)
def test_a_shape_that_the_network_refuses_is_one_line(shape, reason):
    with pytest.raises(UserError, match=reason) as refusal:
        forward(CifarCNN(), shape)
    assert "\n" not in str(refusal.value)


def test_a_flow_that_depends_on_data_runs_on_real_tensors():
    class Choosy(nn.Module):
        def forward(self, x):
            return x.relu() if x.sum() > 0 else -x

    run = dry_run(Choosy(), (torch.ones(2, 3),))
    assert run.is_real
    assert [call.key for call in run.layers] == ["sum", "gt", "relu"]


class TestStorages:
    def test_a_view_and_an_in_place_result_share_their_inputs(self):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten())
        run = forward(network, (2, 3, 8, 8))
        conv, relu, flatten = run.layers
        assert conv.outputs[0].storage == relu.outputs[0].storage == flatten.outputs[0].storage
        storage = run.storages[conv.outputs[0].storage]
        assert run.allocating_layer(conv.outputs[0].storage) == "0"
        assert (storage.origin, storage.num_bytes) == ("operation", 2 * 4 * 6 * 6 * 4)

    def test_parts_of_one_tensor_are_told_apart(self):
        class Halves(nn.Module):
            def forward(self, x):
                first, second = (x * 2).chunk(2, 1)
                return first + second, first + first

        *_, different, equal = forward(Halves(), (2, 4)).layers
        one, other = different.inputs
        assert one.storage == other.storage
        assert not one.is_same_memory(other)
        assert equal.inputs[0].is_same_memory(equal.inputs[1])

    def test_where_tensors_come_from(self):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.ones(3))
                self.register_buffer("shift", torch.ones(3))
                self.factor = torch.ones(3)

            def forward(self, x):
                return (x * self.scale + self.shift) * self.factor

        run = forward(Scaled(), (2, 3))
        origins = [
            [run.storages[tensor.storage].origin for tensor in call.arguments]
            for call in run.layers
        ]
        assert origins == [
            ["input", "parameter"],
            ["operation", "buffer"],
            ["operation", "constant"],
        ]


class TestGradients:
    def flags(self, network, requires_grad=False):
        layers = forward(network, (2, 3, 32, 32), requires_grad).layers
        return {call.key: any(t.requires_grad for t in call.outputs) for call in layers}

    def test_follow_what_requires_them(self):
        network = CifarCNN()
        network.requires_grad_(False)
        assert not any(self.flags(network).values())
        assert all(self.flags(network, requires_grad=True).values())
        network.fc.requires_grad_(True)
        assert [key for key, flag in self.flags(network).items() if flag] == ["fc"]

    def test_a_part_under_no_grad_records_none(self):
        class Frozen(nn.Module):
            def __init__(self):
                super().__init__()
                self.body, self.head = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

            def forward(self, x):
                with torch.no_grad():
                    x = self.body(x)
                return self.head(x)

        assert self.flags(Frozen()) == {"body": False, "head": True}

    def test_detach_cuts(self):
        class Cut(nn.Module):
            def forward(self, x):
                return x.detach() * 2

        assert self.flags(Cut(), requires_grad=True) == {"detach": False, "mul": False}


def test_parameters_that_no_layer_uses():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(3, 3), nn.Linear(3, 5)

        def forward(self, x):
            return self.used(x)

    run = forward(Idle(), (2, 3))
    assert (run.unused_parameters, run.unused_parameter_bytes) == (20, 80)
