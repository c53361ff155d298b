import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from layerscope.base.errors import UserError
from layerscope.measure import FvcoreFailed, Step, fvcore_counts, profile_step
from layerscope.networks.cifar_cnn import CifarCNN

SHAPE = (32, 3, 32, 32)


def counted(network, shape, train=None):
    return fvcore_counts(Step(network, (torch.rand(shape),)), train)


@pytest.mark.parametrize(("train", "total"), [(True, 339_582_976), (False, 334_077_952)])
def test_cifar_cnn(train, total):
    counts = counted(CifarCNN(), SHAPE, train=train)
    assert counts.total == total == sum(counts.layers.values())
    assert counts.mode == ("train" if train else "eval")
    elements = 32 * 32 * 32 * 32
    assert counts.layers["block1.conv"] == elements * 3 * 9
    assert counts.layers["block1.bn"] == elements * (5 if train else 2)
    assert counts.layers["block1.relu"] == counts.layers["block1.pool"] == 0
    assert counts.layers["gap"] == 32 * 128 * 4 * 4
    assert counts.unsupported_ops["aten::max_pool2d"] == 3


def test_the_present_mode_is_the_default():
    network = CifarCNN().eval()
    assert counted(network, SHAPE).total == 334_077_952


def test_an_operation_has_its_own_count():
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 3, 1, 1))
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            x = F.conv2d(x, self.weight)
            x = F.conv2d(x, self.weight[:, :1].expand(4, 4, 1, 1))
            return {"logits": self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1)), "x": [x]}

    counts = counted(Functional(), (2, 3, 5, 5))
    assert list(counts.layers.items()) == [
        *[("conv2d", 2 * 4 * 3 * 25), ("getitem", 0), ("expand", 0), ("conv2d_1", 2 * 4 * 4 * 25)],
        *[("adaptive_avg_pool2d", 2 * 4 * 25), ("flatten", 0), ("fc", 2 * 4 * 2)],
    ]
    assert counts.total == sum(counts.layers.values())


def test_a_module_called_twice_is_counted_twice():
    layer = nn.Linear(3, 3)
    assert counted(nn.Sequential(layer, layer), (2, 3)).layers == {"0": 2 * 2 * 9}


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_as_it_was(fails):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.bn = nn.BatchNorm1d(3)
            self.dropout = nn.Dropout()

        def forward(self, x):
            self.last = self.dropout(self.bn(x))
            return self.last.view(7) if fails else self.last

    network = Net()
    network.dropout.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    attributes = [sorted(vars(module)) for module in network.modules()]
    step = Step(network, (torch.rand(4, 3),))
    generator = torch.get_rng_state()
    try:
        fvcore_counts(step, train=True)
    except FvcoreFailed:
        assert fails
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert attributes == [sorted(vars(module)) for module in network.modules()]
    assert [module.training for module in network.modules()] == [True, True, False]
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert torch.equal(generator, torch.get_rng_state())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch._C._get_tracing_state() is None


def test_what_cannot_be_counted_is_an_error_and_not_0():
    with pytest.raises(FvcoreFailed, match=r"fvcore cannot count CifarCNN: [^\n]*channels"):
        counted(CifarCNN(), (2, 1, 32, 32))


def test_a_compiled_network_is_refused():
    network = CifarCNN()
    network._compiled_call_impl = network._call_impl
    with pytest.raises(UserError, match="compiled"):
        counted(network, SHAPE)


def test_counting_prints_and_warns_nothing(capsys, caplog):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        counted(CifarCNN(), (2, 3, 32, 32))
    assert capsys.readouterr() == ("", "")
    assert caplog.records == []


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("context", [torch.enable_grad, torch.no_grad])
def test_a_transformer_in_eval_mode_is_counted_as_the_step_runs_it(context, frozen):
    """Without gradients, attention is one fused operation that fvcore does not know."""
    tokens, width = 5, 8
    layer = nn.TransformerEncoderLayer(width, 2, 16, batch_first=True).eval()
    step = Step(nn.Sequential(layer.requires_grad_(not frozen)), (torch.randn(2, tokens, width),))
    projections = 2 * tokens * width * 4 * width
    feed_forward = 2 * 2 * tokens * width * 16
    norms = 2 * 2 * tokens * width * 5
    with context():
        counts = fvcore_counts(step)
        operations = {event.operation for event in profile_step(step).memory_events}
    is_fused = "aten::_native_multi_head_attention" in operations
    assert is_fused == (frozen or context is torch.no_grad)
    assert ("aten::_native_multi_head_attention" in counts.unsupported_ops) == is_fused
    assert counts.total == feed_forward + norms + (0 if is_fused else projections)


def test_a_network_without_tensors_in_its_output():
    class Sizes(nn.Module):
        def forward(self, x):
            return {"size": len(x)}

    with pytest.raises(
        FvcoreFailed, match=r"^fvcore cannot count Sizes: .*: it returns no tensors$"
    ):
        counted(Sizes(), (2, 3))
