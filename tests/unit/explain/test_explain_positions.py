import pytest
from torch import nn

from layerscope.base.errors import UserError
from layerscope.explain.explainer import Explainer
from layerscope.explain.explanation import ExplainSettings
from layerscope.explain.families import operation_in
from layerscope.explain.positions import check_choice, chosen_places, default_position
from layerscope.networks.layer_calls import network_calls


def operations_of(network, shape=(5, 1, 4, 4)):
    return {spec.key: operation_in(spec) for spec in network_calls(network, shape).layers}


@pytest.fixture(scope="module")
def network():
    layers = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    return operations_of(layers)


def chosen(**keys):
    return ExplainSettings(network="a", input_shape=(5, 1, 4, 4), **keys)


def test_defaults():
    assert default_position((4, 2, 8, 8)) == (0, 0, 1, 1)
    assert default_position((4, 2, 1, 5)) == (0, 0, 0, 1)
    assert default_position((4, 10)) == (0, 0)
    assert default_position((3,)) == (0,)
    assert default_position(()) == ()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"layer": "4"}, "layer=4 is not there: choose one of 0, 1, 2, 3"),
        ({"position": (0, 0, 1, 1)}, "say of which layer, layer="),
        ({"layer": "0", "position": (0, 0)}, "has 2 of 4 indices: 0 returns 5×2×2×2"),
        ({"layer": "3", "position": (0, 0, 1, 1)}, "has 4 of 2 indices: 3 returns 5×3"),
        ({"layer": "0", "position": (0, 0, 1, 2)}, "2 is outside 0 to 1"),
        ({"layer": "0", "position": (0, 0, 1, -1)}, "-1 is outside 0 to 1"),
        ({"layer": "0", "input_position": (0, 1, 0, 0)}, "1 is outside 0 to 0, 0 reads 5×1×4×4"),
        ({"layer": "0", "weight_position": (0, 0, 0)}, "has 3 of 4 indices: 0 has a weight of"),
        ({"layer": "1", "weight_position": (0, 0, 0, 0)}, "1 has no weight, leave it out"),
    ],
)
def test_what_is_not_there_is_refused_in_a_line(network, keys, says):
    with pytest.raises(UserError) as refused:
        check_choice(network, chosen(**keys))
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_near_miss_is_suggested():
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(1, 2, 3))
    with pytest.raises(UserError, match="did you mean conv1"):
        check_choice(operations_of(network, (1, 1, 4, 4)), chosen(layer="conf1"))


def test_what_is_there_passes(network):
    check_choice(network, chosen())
    check_choice(network, chosen(layer="0", position=(4, 1, 1, 1), weight_position=(1, 0, 2, 2)))


def test_chosen_places_win_and_the_others_follow_the_outputs(network):
    explainer = Explainer(
        formulas=lambda operation: (),
        output=lambda captured, position: (),
        gradient=lambda captured, symbol, position: (),
        first=lambda operation, symbol, position: (symbol, position),
    )
    conv, relu, *_ = network.values()
    found = chosen_places(conv, explainer, chosen(layer="0", position=(1, 0, 0, 0)))
    assert found.operands["w"] == ("w", (1, 0, 0, 0))
    assert found.operands["b"] == ("b", (1, 0, 0, 0))
    found = chosen_places(conv, explainer, chosen(layer="0", weight_position=(1, 0, 2, 2)))
    assert (found.output, found.operands["w"]) == ((0, 0, 1, 1), (1, 0, 2, 2))
    assert found.operands["x"] == ("x", (0, 0, 1, 1))
    assert chosen_places(relu, explainer, chosen()).operands.keys() == {"x"}
