import time

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from layerscope.errors import UserError
from layerscope.layers import calls_by_layer, describe
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.simple_cnn import SimpleCNN
from layerscope.networks.tiny_cnn import TinyCNN


def shapes_by_hook(network, image):
    """What forward hooks on the leaf modules see, in order."""
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
    specs = describe(network, shape).layers
    expected = shapes_by_hook(network, torch.randn(shape))
    assert [(spec.key, spec.output_shape) for spec in specs] == expected


def test_cifar_cnn_in_numbers():
    specs = describe(CifarCNN(), (32, 3, 32, 32)).layers
    assert sum(spec.num_parameters for spec in specs) == 94_986
    assert sum(spec.buffer_bytes for spec in specs) == 1_816
    assert sum(spec.output_elements for spec in specs if not spec.is_view) * 4 == 23_872_768
    assert [spec.kind for spec in specs[:4]] == ["conv2d", "batch_norm", "relu", "max_pool"]
    assert [spec.key for spec in specs if spec.is_view] == ["flatten"]


def test_parameters_add_up_to_the_networks():
    network = torchvision.models.mobilenet_v3_small()
    specs = describe(network, (2, 3, 64, 64)).layers
    assert sum(spec.num_parameters for spec in specs) == sum(
        p.numel() for p in network.parameters()
    )


def test_a_parameter_used_by_an_operation_is_the_operations():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3, 1, 1))

        def forward(self, x):
            return x * self.scale

    (spec,) = describe(Scaled(), (2, 3, 4, 4)).layers
    assert (spec.key, spec.num_parameters, spec.input_shapes) == ("mul", 3, ((2, 3, 4, 4),))


def test_shared_parameters_are_the_first_layers():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    specs = describe(nn.Sequential(first, second), (1, 3)).layers
    assert [spec.num_parameters for spec in specs] == [12, 3]


def test_in_place_stays_in_place():
    specs = describe(torchvision.models.resnet18(), (2, 3, 64, 64)).layers
    block = {spec.key: spec for spec in specs if spec.key.startswith("layer1.0")}
    assert block["layer1.0.add"].in_place
    assert block["layer1.0.relu"].in_place
    assert not block["layer1.0.bn1"].in_place
    assert len(calls_by_layer(specs)["layer1.0.relu"]) == 2


def test_several_outputs():
    network = torchvision.models.googlenet(init_weights=False)
    specs = calls_by_layer(describe(network, (2, 3, 96, 96)).layers)
    assert specs["aux1.fc2"][0].output_shape == (2, 1000)
    assert specs["fc"][0].output_shape == (2, 1000)


@pytest.mark.parametrize("training", [True, False])
def test_the_present_mode_counts(training):
    dropout = describe(nn.Sequential(nn.Dropout()).train(training), (2, 3)).layers[0]
    assert dropout.geometry["training"] is training
    assert dropout.is_view is not training


def test_a_batch_of_4096_takes_no_memory():
    network = torchvision.models.resnet18()  # its real forward would take 100 GB
    begin = time.perf_counter()
    specs = describe(network, (4096, 3, 224, 224)).layers
    assert time.perf_counter() - begin < 20
    assert specs[0].output_shape == (4096, 64, 112, 112)


def test_the_network_is_as_it_was():
    network = CifarCNN()
    network.block1.bn.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    identities = [id(tensor) for tensor in [*network.parameters(), *network.buffers()]]
    generator = torch.get_rng_state()
    describe(network, (2, 3, 32, 32))
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
        describe(CifarCNN(), shape)
    assert "\n" not in str(refusal.value)
    assert str(shape) in str(refusal.value)


def test_flow_that_depends_on_data_is_refused():
    class Choosy(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match="Choosy cannot run"):
        describe(Choosy(), (2, 3))


def test_geometry_of_a_functional_layer_is_that_of_the_module():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 2, 3, 3))

        def forward(self, x):
            return F.conv2d(x, self.weight, None, 2, groups=2, padding=1)

    functional = describe(Functional(), (2, 4, 9, 9)).layers[0]
    module = describe(nn.Conv2d(4, 8, 3, 2, 1, groups=2, bias=False), (2, 4, 9, 9)).layers[0]
    assert functional.output_shape == module.output_shape == (2, 8, 5, 5)
    assert dict(functional.geometry) == {
        name: value for name, value in module.geometry.items() if name != "padding_mode"
    }


def storage_of(specs, key):
    (spec,) = [spec for spec in specs.layers if spec.key == key]
    return specs.storages[spec.outputs[0].storage]


class TestStorages:
    def test_a_view_and_an_in_place_result_share_their_inputs(self):
        network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten())
        specs = describe(network, (2, 3, 8, 8))
        conv, relu, flatten = specs.layers
        assert conv.outputs[0].storage == relu.outputs[0].storage == flatten.outputs[0].storage
        assert len({spec.outputs[0].value for spec in specs.layers}) == 3
        storage = specs.storages[conv.outputs[0].storage]
        assert (storage.origin, storage.call) == ("layer", 0)
        assert storage.num_bytes == 2 * 4 * 6 * 6 * 4

    def test_when_the_forward_lets_go(self):
        specs = describe(CifarCNN(), (2, 3, 32, 32))
        order = [spec.key for spec in specs.layers]
        # nn.Sequential forgets a result when the next one is there
        for key in ("block1.conv", "block1.bn", "block1.relu"):
            assert storage_of(specs, key).released == order.index(key) + 2
        assert storage_of(specs, "fc").released is None

    def test_a_residual_branch_lives_until_it_is_added(self):
        specs = describe(torchvision.models.resnet18(), (2, 3, 64, 64))
        order = [spec.key for spec in specs.layers]
        assert storage_of(specs, "maxpool").released > order.index("layer1.0.add")

    def test_where_tensors_come_from(self):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.ones(3))
                self.register_buffer("shift", torch.ones(3))
                self.factor = torch.ones(3)

            def forward(self, x):
                return (x * self.scale + self.shift) * self.factor

        specs = describe(Scaled(), (2, 3))
        origins = [
            [specs.storages[tensor.storage].origin for tensor in spec.arguments]
            for spec in specs.layers
        ]
        assert origins == [["input", "parameter"], ["layer", "buffer"], ["layer", "constant"]]


class TestGradients:
    def flags(self, network, **options):
        specs = describe(network, (2, 3, 32, 32), **options)
        return {spec.key: spec.records_gradient for spec in specs.layers}

    def test_follow_what_requires_them(self):
        network = CifarCNN()
        network.requires_grad_(False)
        assert not any(self.flags(network).values())
        assert all(self.flags(network, input_requires_grad=True).values())
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

        assert self.flags(Cut(), input_requires_grad=True) == {"detach": False, "mul": False}


def test_a_forward_without_a_tensor_is_refused():
    class Silent(nn.Module):
        def forward(self, x):
            return [int(size) for size in x.shape]

    with pytest.raises(UserError, match="no tensor"):
        describe(Silent(), (2, 3))


def test_parameters_that_no_layer_uses():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(3, 3), nn.Linear(3, 5)

        def forward(self, x):
            return self.used(x)

    specs = describe(Idle(), (2, 3))
    assert (specs.unused_parameters, specs.unused_parameter_bytes) == (20, 80)
