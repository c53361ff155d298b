"""Every value of whole networks: what was worked out is what the network really made."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import layerscope
from layerscope.base.errors import UserError
from layerscope.config.schema import CrossEntropyConfig, MSEConfig
from layerscope.explain.engine import explain_network
from layerscope.explain.explanation import ExplainSettings
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.simple_cnn import SimpleCNN
from layerscope.networks.tiny_cnn import TinyCNN


class Branches(nn.Module):
    """Strides, groups, a residual sum, a shared activation, batch norm, a kind of its own."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1, groups=1)
        self.norm = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.deep = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2, bias=False)
        self.odd = nn.Softsign()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)))
        x = x + self.relu(self.deep(x))
        return self.fc(self.pool(self.odd(x)).flatten(1))


def explained(network, shape, **keys):
    torch.manual_seed(0)
    image = torch.randn(shape)
    settings = ExplainSettings(network="net", input_shape=shape, **keys)
    return explain_network(network, settings, image, analysis=False)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(
    "loss",
    [CrossEntropyConfig(name="cross_entropy", label_smoothing=0.1), MSEConfig(name="mse")],
    ids=["cross_entropy", "mse"],
)
@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (TinyCNN(), (2, 1, 8, 8)),
        (SimpleCNN(), (3, 1, 4, 4)),
        (CifarCNN(channels=(3, 4), input_shape=(3, 8, 8)), (4, 3, 8, 8)),
        (Branches(), (2, 3, 9, 9)),
    ],
    ids=["tiny", "simple", "cifar", "branches"],
)
def test_every_value_is_the_networks_own(network, shape, loss, train):
    explanation = explained(network, shape, dtype="float64", train=train, loss=loss, target=1)
    updates = [value for update in explanation.updates for value in update.values]
    shown = [v for v in (*explanation.values, *updates) if v.actual is not None]
    assert len(shown) > 20
    for value in shown:
        difference = abs(value.computed - value.actual)
        assert difference <= 1e-12 * max(value.magnitude, 1e-300), value.name
    for layer in explanation.layers:
        if layer.refused is None:
            names = {value.name.partition("[")[0] for value in layer.values}
            has = {"dL/dw", "dL/db"} if "bias" in layer.spec.parameters else set()
            assert names >= {"y", "dL/dx"} | has
            assert all(value.layer == layer.key for value in layer.values)


def test_a_type_without_explanation_is_named_and_the_rest_is_explained():
    explanation = explained(Branches(), (2, 3, 9, 9))
    assert explanation.refused_types == ("Softsign",)
    odd = explanation.layer("odd")
    assert "Softsign" in odd.refused
    assert odd.values == odd.formulas == ()
    assert explanation.layer("fc").output_values
    shared = explanation.layer("relu")
    assert shared.num_calls == 2
    assert "first call" in shared.note


def test_one_layer_at_a_chosen_place():
    where = {"position": (1, 1, 0, 2), "input_position": (1, 0, 5, 5)}
    where |= {"weight_position": (1, 0, 2, 2)}
    explanation = explained(TinyCNN(), (2, 1, 8, 8), layer="conv1", **where)
    conv1 = explanation.layer("conv1")
    assert [value.name for value in conv1.values] == [
        "y[1,1,0,2]",
        "dL/dx[1,0,5,5]",
        "dL/dw[1,0,2,2]",
        "dL/db[1]",
    ]
    assert {update.layer for update in explanation.updates} == {"conv1"}
    others = [layer for layer in explanation.layers if layer.key != "conv1"]
    assert all(layer.values == () and not layer.is_chosen for layer in others)
    assert all(layer.formulas for layer in others)
    assert explanation.loss.values


def test_repeated_steps_on_the_way_are_in_the_values_once():
    explanation = explained(CifarCNN(channels=(3,), input_shape=(3, 4, 4)), (4, 3, 4, 4))
    names = [value.name for value in explanation.layer("block1.bn").values]
    assert len(names) == len(set(names))
    assert {"mean[0]", "y[0,0,1,1]", "dL/dx[0,0,1,1]", "dL/dw[0]", "dL/db[0]"} <= set(names)


@pytest.mark.parametrize(("dtype", "ulps"), [("float32", 64), ("bfloat16", 64)])
def test_actual_numbers_are_the_dtypes_own(dtype, ulps):
    explanation = explained(SimpleCNN(), (1, 1, 4, 4), dtype=dtype)
    wanted = getattr(torch, dtype)
    for value in explanation.layer("conv").values:
        assert value.dtype == wanted
        assert float(torch.tensor(value.actual, dtype=wanted)) == value.actual
        assert value.ulps < ulps


def test_the_library_explains_a_users_own_module_and_leaves_it():
    model = Branches().eval()
    model.conv.weight.requires_grad_(False)
    image = torch.randn(2, 3, 9, 9)
    report = layerscope.explain(model, image=image, layer="conv", position=[1, 2, 3, 3])
    value = report.value("conv", "y[1,2,3,3]")
    expected = F.conv2d(image, model.conv.weight, model.conv.bias, stride=2, padding=1)
    assert value.actual == expected[1, 2, 3, 3].item()
    assert value.computed == pytest.approx(value.actual, abs=1e-5)
    assert not model.training
    assert not image.requires_grad
    assert not model.conv.weight.requires_grad
    assert model.fc.weight.grad is None
    assert "y[1,2,3,3]" in str(report)
    assert max(map(len, str(report).splitlines())) <= 100
    again = layerscope.explain(model, (2, 3, 9, 9), layer="conv", seed=3)
    assert again.values[0].computed != value.computed
    with pytest.raises(KeyError):
        report.value("conv", "y[9]")


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({}, "give input_shape"),
        ({"input_shape": 3}, "give all sizes"),
        ({"input_shape": (1, 1, 6, 6)}, "SimpleCNN cannot run on this input"),
        ({"input_shape": (1, 1, 4, 4), "dtype": "int8"}, "dtype=int8"),
        ({"input_shape": (1, 1, 4, 4), "loss": "hinge"}, "loss=hinge"),
        ({"input_shape": (1, 1, 4, 4), "label_smoothing": 2.0}, "label_smoothing=2"),
        ({"input_shape": (1, 1, 4, 4), "target": 2}, "target=2"),
        ({"input_shape": (1, 1, 4, 4), "layer": "cnv"}, "did you mean conv"),
        ({"input_shape": (1, 1, 4, 4), "image": np.zeros(3)}, "not a tensor"),
    ],
)
def test_what_the_library_refuses(keys, says):
    with pytest.raises(UserError) as refused:
        layerscope.explain(SimpleCNN(), **keys)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("number", "where"), [(float("nan"), "0 reads nan"), (3e38, "0 returns nan")]
)
def test_numbers_that_are_not_finite_are_refused(number, where):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    nn.init.constant_(network[0].weight, 10.0)
    image = torch.full((1, 1, 4, 4), number)
    with pytest.raises(UserError, match=where):
        layerscope.explain(network, image=image)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.fc = nn.Linear(32, 2)

    def forward(self, x):
        return self.fc(self.conv(self.conv(x).relu()).flatten(1))


def test_a_parameter_gets_a_part_from_each_call():
    torch.manual_seed(0)
    network, image = Twice().double(), torch.randn(2, 2, 4, 4).double()
    report = layerscope.explain(network, image=image, loss="mse")
    loss = torch.nn.functional.mse_loss(network(image), torch.tensor([[1.0, 0.0]] * 2).double())
    loss.backward()
    for name, gradient in (
        ("dL/dw[0,0,0,0]", network.conv.weight.grad[0, 0, 0, 0]),
        ("dL/db[0]", network.conv.bias.grad[0]),
    ):
        first, second, total = (
            report.value("conv", name + call) for call in ("", ", call 2", ", all calls")
        )
        assert total.actual == gradient.item()
        assert total.computed == pytest.approx(total.actual, rel=1e-12)
        assert [*total.products] == [first.computed, second.computed]
        assert second.computed == pytest.approx(second.actual, rel=1e-12)


@pytest.mark.parametrize(
    "wrong",
    [
        {"layer": 5},
        {"layer": "0", "position": 5},
        {"layer": "0", "position": [0, 0.5]},
        {"target": 1.5},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
    ],
)
def test_what_cannot_be_chosen_is_refused_by_its_name(wrong):
    with pytest.raises(UserError, match=list(wrong)[-1]):
        layerscope.explain(nn.Sequential(nn.Linear(2, 2)), (2, 2), **wrong)
