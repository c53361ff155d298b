import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from layerscope.base.errors import UserError
from layerscope.layers import CallObserver, track_calls


def keys_of(network, *inputs):
    with track_calls(network) as tracker:
        network(*inputs)
    return [call.key for call in tracker.calls]


class Block(nn.Module):
    """Two additions, one in place, and a module called twice."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.relu(self.conv(x))
        out += x
        return self.relu(out + x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Block()

    def forward(self, x):
        height = x.shape[2] // 2 * x.size(3)
        x = self.block(self.block(x))
        first, _ = torch.chunk(x, 2, dim=0)
        return torch.flatten(first, 1)[:, :height]


BLOCK = ["block.conv", "block.relu", "block.add", "block.add_1", "block.relu"]


def test_operations_are_layers_of_the_module_that_calls_them():
    keys = keys_of(Net(), torch.randn(2, 3, 4, 4))
    assert keys == [*BLOCK, *BLOCK, "chunk", "flatten", "getitem"]


def test_resnet18_has_the_keys_of_its_reference():
    network = torchvision.models.resnet18().eval()
    keys = keys_of(network, torch.randn(1, 3, 32, 32))
    assert keys[4:11] == [
        *("layer1.0.conv1", "layer1.0.bn1", "layer1.0.relu", "layer1.0.conv2"),
        *("layer1.0.bn2", "layer1.0.add", "layer1.0.relu"),
    ]
    assert keys[-3:] == ["avgpool", "flatten", "fc"]


def test_the_outermost_leaf_is_the_layer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    assert keys_of(nn.Sequential(layer), torch.randn(2, 3, 8)) == ["0"]


def test_a_module_with_the_name_of_an_operation_keeps_it():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            return F.relu(self.relu(x)) + F.relu(x)

    assert keys_of(Both(), torch.randn(2)) == ["relu", "relu_1", "relu_2", "add"]


def test_a_users_own_module_without_children_is_no_layer():
    class Scale(nn.Module):
        def forward(self, x):
            return x * 2

    assert keys_of(nn.Sequential(Scale()), torch.randn(2)) == ["0.mul"]


def test_stochastic_depth_is_one_operation():
    network = nn.Sequential(torchvision.ops.StochasticDepth(0.5, "row"))
    assert keys_of(network, torch.randn(2, 3)) == ["0.stochastic_depth"]
    assert keys_of(network.eval(), torch.randn(2, 3)) == ["0.stochastic_depth"]


def test_a_module_under_two_paths_goes_by_the_first():
    shared = nn.Linear(2, 2)
    assert keys_of(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(1, 2)) == ["0", "1", "0"]


def test_a_bare_layer_is_named_by_its_class():
    assert keys_of(nn.Linear(2, 2), torch.randn(1, 2)) == ["Linear"]


def test_only_the_networks_own_forward_counts():
    network = Net()
    with track_calls(network) as tracker:
        F.relu(network.block(torch.randn(2, 3, 4, 4)))
    assert tracker.calls == []


def test_a_transposed_view_is_a_layer_and_a_shape_is_not():
    class Transposed(nn.Module):
        def forward(self, x):
            assert x.shape == (2, 3)
            return x.T

    assert keys_of(Transposed(), torch.randn(2, 3)) == ["T"]


def test_operations_of_a_users_hook_belong_to_the_layer():
    network = nn.Sequential(nn.Linear(2, 2))
    network[0].register_forward_hook(lambda module, args, output: output * 2)
    assert keys_of(network, torch.randn(1, 2)) == ["0"]


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)

    def forward(self, x):
        return torch.relu(self.fc(x)).view(7)


def hooks_of(network):
    return [
        (list(m._forward_hooks), list(m._forward_pre_hooks), list(m._forward_hooks_always_called))
        for m in network.modules()
    ]


def test_nothing_stays_after_an_exception():
    network = Failing()
    network.register_forward_hook(lambda module, args, output: None)
    before = hooks_of(network)
    with pytest.raises(RuntimeError, match="shape"), track_calls(network):
        network(torch.randn(1, 2))
    assert hooks_of(network) == before
    assert torch._C._len_torch_function_stack() == 0


def test_a_forward_that_fails_and_is_caught_leaves_the_next_one_right():
    network = Failing()
    with track_calls(network) as tracker:
        with pytest.raises(RuntimeError):
            network(torch.randn(1, 2))
        assert tracker.current_key is None
        assert torch._C._len_torch_function_stack() == 0
        network.forward = lambda x: network.fc(x)
        network(torch.randn(1, 2))
    assert [call.key for call in tracker.calls] == ["fc", "relu", "fc"]


def test_observer_sees_what_runs_and_when():
    class Events(CallObserver):
        def __init__(self):
            self.seen = []

        def forward_began(self, args, kwargs):
            self.seen.append(f"forward {tuple(args[0].shape)}")

        def layer_began(self, call, args, kwargs):
            self.seen.append(f"+{call.key}")

        def layer_ended(self, call, args, kwargs, output):
            self.seen.append(f"-{call.key}")

        def forward_ended(self):
            self.seen.append("end")

    events = Events()
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    with track_calls(network, events):
        network(torch.randn(1, 2))
    assert events.seen == ["forward (1, 2)", "+0", "-0", "+1", "-1", "end"]


def test_a_wrapper_is_looked_through():
    network = nn.Sequential(nn.Linear(2, 2))
    wrapped = nn.DataParallel(network)
    with track_calls(wrapped) as tracker:
        network(torch.randn(1, 2))
    assert [call.key for call in tracker.calls] == ["0"]


def test_a_compiled_network_is_refused():
    network = nn.Sequential(nn.Linear(2, 2))
    network._compiled_call_impl = network._call_impl  # compile() sets it, but takes seconds.
    with pytest.raises(UserError, match="compiled"):
        track_calls(network)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated:FutureWarning")
def test_a_scripted_network_is_refused():
    network = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(UserError, match="scripted"):
        track_calls(network)


class Doubling(TorchFunctionMode):
    """A mode of the user's own."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        return output + output if func is F.relu else output


class LeafInsideMode(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, x):
        with Doubling():
            x = self.relu(x)
        return self.relu(x).neg()


def test_a_mode_that_the_user_enters_stays_on_inside_a_leaf():
    network = LeafInsideMode()
    with track_calls(network) as tracker:
        assert network(torch.ones(1)).item() == -2
    assert [call.key for call in tracker.calls] == ["relu", "relu", "neg"]
