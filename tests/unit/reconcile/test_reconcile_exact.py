"""Nothing unexplained, on our networks in every setting, and on some of torchvision's."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

from layerscope.dry_run import saved
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.simple_cnn import SimpleCNN
from layerscope.networks.tiny_cnn import TinyCNN
from layerscope.reconcile import (
    EXACT_INSTRUMENTS,
    EXACT_QUANTITIES,
    ProfileSettings,
    profile_network,
)
from layerscope.reconcile.account import account
from layerscope.reconcile.comparisons import COMPARISONS, rows_of
from layerscope.reconcile.measurements import measure
from layerscope.reconcile.settings import dry_run_of, prepared

OWN = {
    "cifar_cnn": (CifarCNN, (32, 3, 32, 32), ("block1", "block2", "block3")),
    "tiny_cnn": (TinyCNN, (32, 1, 8, 8), ("conv1", "conv2")),
    "simple_cnn": (SimpleCNN, (32, 1, 4, 4), ("conv",)),
}
SETTINGS = {
    "float32": {},
    "bf16_autocast": {"dtype": "bf16_autocast"},
    "bfloat16": {"dtype": "bfloat16"},
    "channels_last": {"channels_last": True},
    "frozen": {"freeze": True},
    "input_requires_grad": {"input_requires_grad": True},
    "eval": {"train": False},
    "frozen bf16_autocast": {"freeze": True, "dtype": "bf16_autocast"},
    "channels_last bf16_autocast, input requires grad": {
        "channels_last": True,
        "dtype": "bf16_autocast",
        "input_requires_grad": True,
    },
}


def unexplained(profile):
    return [
        (row.layer, row.quantity, row.instrument, row.unexplained)
        for row in (*profile.rows, *profile.totals)
        if row.is_exact and row.counted and row.unexplained != 0
    ]


def totals(profile):
    return {(row.quantity, row.instrument): row for row in profile.totals}


def rows(profile):
    return {(row.layer, row.quantity, row.instrument): row for row in profile.rows}


def amounts(row):
    return {reason.code: reason.amount for reason in row.reasons}


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", OWN)
def test_our_networks(name, setting):
    network, shape, backbone = OWN[name]
    options = dict(SETTINGS[setting])
    if options.get("freeze"):
        options["freeze"] = backbone
    profile = profile_network(network(), ProfileSettings(name, shape, **options))
    assert unexplained(profile) == []
    assert {row.quantity for row in (*profile.rows, *profile.totals)} == set(EXACT_QUANTITIES)
    if "dtype" not in options:
        assert profile.peak.predicted_live_bytes == profile.peak.measured_live_bytes
    assert sum(profile.peak.parts.values()) == profile.peak.predicted_live_bytes
    counts = profile.comparisons
    assert (counts.num_unexplained, counts.num_unknown) == (0, 0)
    assert counts.num_compared > 10


FIELD = {
    "convnext_tiny": 64,
    "mobilenet_v3_small": 64,
    "shufflenet_v2_x0_5": 64,
    **{
        name: pytest.param(name, size, marks=pytest.mark.slow)
        for name, size in {
            "alexnet": 96,
            "densenet121": 64,
            "efficientnet_b0": 64,
            "mnasnet0_5": 64,
            "mobilenet_v2": 64,
            "regnet_y_400mf": 64,
            "resnet18": 64,
            "resnext50_32x4d": 64,
            "squeezenet1_1": 64,
            "vgg11_bn": 64,
            "swin_t": 64,
            "maxvit_t": 224,
            "googlenet": 64,
            "vit_b_32": 224,
        }.items()
    },
}


@pytest.mark.parametrize(
    ("name", "size"),
    [value if not isinstance(value, int) else (name, value) for name, value in FIELD.items()],
)
def test_the_field(name, size):
    options = {"init_weights": False} if name == "googlenet" else {}
    network = torchvision.models.get_model(name, weights=None, **options)
    profile = profile_network(network, ProfileSettings(name, (2, 3, size, size)))
    assert unexplained(profile) == []
    assert not any(row.lower_bound for row in profile.totals)
    assert profile.peak.predicted_live_bytes == profile.peak.measured_live_bytes


class TestTheReasonsAreTheTrueOnes:
    def test_float32(self):
        profile = profile_network(CifarCNN(), ProfileSettings("cifar_cnn", (32, 3, 32, 32)))
        total = totals(profile)
        saved = {row.layer: amounts(row) for row in profile.rows if row.instrument == "saved"}
        norms = [f"block{n}.bn" for n in (1, 2, 3)]
        assert sum(saved[norm]["output_not_saved"] for norm in norms) == -7_340_032
        assert sum(saved[norm]["statistics"] for norm in norms) == 1_792
        assert amounts(total["saved_bytes", "saved"])["indices"] == 3_670_016
        assert saved["block3.pool"]["output_not_saved"] == -262_144
        assert saved["fc"] == {"output_not_saved": -1_280}
        assert total["output_bytes", "outputs"].measured == 23_872_768
        assert total["saved_bytes", "saved"].measured == 19_941_120
        assert total["saved_bytes", "dry_run"].measured == 19_941_120
        assert amounts(total["forward_flops", "fvcore"]) == {"mac_as_one": -330_342_400}
        assert amounts(total["macs", "fvcore"]) == {"also_counted": 339_582_976 - 330_342_400}
        forward = total["forward_flops", "flop_counter"]
        assert (forward.theory, forward.measured, amounts(forward)) == (660_684_800,) * 2 + ({},)
        assert forward.theory + forward.theory_not_counted == 673_595_392
        backward = total["backward_flops", "flop_counter"]
        assert backward.measured == 1_264_746_496
        assert backward.theory + backward.theory_not_counted == 1_334_280_192
        assert amounts(backward) == {"no_input_gradient": -56_623_104}
        assert total["forward_flops", "profiler"].measured == 660_602_880 + 81_920
        assert total["backward_flops", "profiler"].measured == 163_840
        assert profile.peak.predicted_live_bytes == 21_502_768

    def test_autocast(self):
        settings = ProfileSettings("cifar_cnn", (32, 3, 32, 32), dtype="bf16_autocast")
        total = totals(profile_network(CifarCNN(), settings))
        saved = total["saved_bytes", "saved"]
        assert saved.measured == 12_191_680
        assert amounts(saved)["autocast_copy"] == 188_608 + 196_608
        assert amounts(saved)["low_precision"] == -23_872_768 // 2
        assert amounts(total["forward_flops", "profiler"]) == {"counted_twice": 660_602_880}

    def test_eval_mode(self):
        settings = ProfileSettings("cifar_cnn", (32, 3, 32, 32), train=False)
        total = totals(profile_network(CifarCNN(), settings))
        assert total["saved_bytes", "saved"].measured == 19_939_328
        assert total["macs", "fvcore"].measured == 334_077_952
        elements = 1_048_576 + 524_288 + 262_144
        assert amounts(total["forward_flops", "fvcore"])["formula"] == -3 * elements

    def test_frozen_backbone(self):
        settings = ProfileSettings(
            "cifar_cnn", (32, 3, 32, 32), freeze=("block1", "block2", "block3")
        )
        profile = profile_network(CifarCNN(), settings)
        total = totals(profile)
        assert total["saved_bytes", "saved"].measured == 32 * 128 * 4
        assert total["backward_flops", "flop_counter"].measured == 81_920
        conv = rows(profile)["block2.conv", "backward_flops", "flop_counter"]
        assert amounts(conv) == {"no_gradient": -603_979_776}

    def test_the_input_requires_a_gradient(self):
        settings = ProfileSettings("cifar_cnn", (32, 3, 32, 32), input_requires_grad=True)
        backward = totals(profile_network(CifarCNN(), settings))["backward_flops", "flop_counter"]
        assert backward.measured == 1_264_746_496 + 56_623_104
        assert amounts(backward) == {}

    def test_in_place(self):
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Hardswish(inplace=True), nn.ReLU(inplace=True)
        )
        found = rows(profile_network(network, ProfileSettings("x", (2, 3, 8, 8))))
        size = 2 * 4 * 6 * 6 * 4
        assert amounts(found["1", "output_bytes", "outputs"]) == {"in_place": -size}
        saved = amounts(found["1", "saved_bytes", "saved"])
        assert saved == {"in_place": -size, "input_copy": size}
        assert amounts(found["2", "saved_bytes", "saved"]) == {"in_place": -size}

    def test_a_grouped_weight_gradient(self):
        network = nn.Sequential(nn.Conv2d(4, 8, 3, groups=4))
        profile = profile_network(network, ProfileSettings("x", (2, 4, 8, 8)))
        row = totals(profile)["backward_flops", "flop_counter"]
        macs = 2 * 8 * 36 * 9
        assert amounts(row) == {"no_input_gradient": -2 * macs, "grouped_weight_gradient": 6 * macs}


class TestLiars:
    """An instrument that is wrong by one in one layer shows: no reason absorbs the difference."""

    @pytest.fixture
    def honest(self):
        settings = ProfileSettings("tiny_cnn", (4, 1, 8, 8))
        with prepared(TinyCNN(), settings) as step:
            theory = account(dry_run_of(step, settings), settings.element_size)
            return theory, measure(step, settings, EXACT_INSTRUMENTS)

    def leftovers(self, honest, **lies):
        theory, measured = honest
        measured = replace(measured, **lies)
        return {
            (row.layer, row.quantity, row.instrument): row.unexplained
            for comparison in COMPARISONS
            for row in rows_of(comparison, theory, measured)
            if row.unexplained
        }

    def test_an_honest_one_leaves_nothing(self, honest):
        assert self.leftovers(honest) == {}

    @pytest.mark.parametrize(
        "quantity",
        [
            *("output_elements", "num_parameters", "parameter_bytes", "buffer_bytes"),
            *("output_bytes", "saved_bytes"),
        ],
    )
    def test_activations(self, honest, quantity):
        record = honest[1].activations
        layers = [
            replace(layer, **{quantity: getattr(layer, quantity) + 1})
            if layer.layer == "conv2"
            else layer
            for layer in record.layers
        ]
        lying = replace(record, layers=tuple(layers))
        instrument = "saved" if quantity == "saved_bytes" else "outputs"
        assert self.leftovers(honest, activations=lying) == {("conv2", quantity, instrument): 1}

    @pytest.mark.parametrize("layer", ["conv1", "relu1"])
    def test_fvcore(self, honest, layer):
        """fvcore counts nothing of relu1; a count there shows too."""
        counts = honest[1].fvcore
        lying = replace(counts, layers={**counts.layers, layer: counts.layers[layer] + 1})
        assert self.leftovers(honest, fvcore=lying) == {
            (layer, "macs", "fvcore"): 1,
            (layer, "forward_flops", "fvcore"): 1,
        }

    @pytest.mark.parametrize("layer", ["conv1", "relu1"])
    @pytest.mark.parametrize("instrument", ["flop_counter", "profiler"])
    @pytest.mark.parametrize("phase", ["forward", "backward"])
    def test_counters(self, honest, instrument, phase, layer):
        counts = getattr(honest[1], instrument)
        values = getattr(counts, phase)
        lying = replace(counts, **{phase: {**values, layer: values[layer] + 1}})
        assert self.leftovers(honest, **{instrument: lying}) == {
            (layer, f"{phase}_flops", instrument): 1
        }


def test_what_is_unknown_is_none_and_makes_totals_lower_bounds():
    class Singular(nn.Module):
        def forward(self, x):
            return torch.linalg.svdvals(x) + (x @ x)

    profile = profile_network(Singular(), ProfileSettings("x", (4, 4), input_requires_grad=True))
    costs = {cost.type: cost for cost in profile.costs.layers}
    assert costs["linalg_svdvals"].forward_flops is None
    total = profile.costs.total()
    assert total.lower_bound
    assert total.forward_flops == costs["matmul"].forward_flops + costs["add"].forward_flops
    assert any("no formula for linalg_svdvals" in note for note in profile.notes)


def test_what_no_instrument_counts_is_no_comparison():
    profile = profile_network(nn.ReLU(), ProfileSettings("relu", (2, 3), input_requires_grad=True))
    row = totals(profile)["forward_flops", "flop_counter"]
    assert (row.counted, row.measured, row.theory, row.theory_not_counted) == (False, None, 0, 6)
    assert not row.is_compared
    assert not any(reason.code == "not_counted" for row in profile.rows for reason in row.reasons)


def test_the_profiler_is_held_against_both_products_of_a_factors_gradient():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), Scaled())
    found = rows(profile_network(network, ProfileSettings("scaled", (2, 3, 4, 4))))
    row = found["1.mul", "backward_flops", "profiler"]
    assert (row.theory, row.measured) == (2 * 128, 128)
    assert amounts(row) == {"no_input_gradient": -128}


class Scaled(nn.Module):
    def forward(self, x):
        return x * torch.ones(4, 4)


def test_a_torch_without_a_table_is_predicted_and_not_explained(monkeypatch):
    monkeypatch.setattr(saved, "specification", lambda: None)
    profile = profile_network(CifarCNN(), ProfileSettings("cifar_cnn", (2, 3, 32, 32)))
    assert unexplained(profile) == []
    found = [row for row in profile.rows if row.quantity == "saved_bytes"]
    codes = {(reason.code, reason.source) for row in found for reason in row.reasons}
    assert codes == {("dry_run", "dry_run")}
    assert any(torch.__version__ in note for note in profile.notes)


@pytest.mark.parametrize(
    "surroundings",
    [
        torch.no_grad,
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
    ],
)
def test_what_is_switched_on_or_off_around_it_does_not_matter(surroundings):
    network, settings = TinyCNN(), ProfileSettings("tiny_cnn", (4, 1, 8, 8))
    plain = profile_network(network, settings)
    with surroundings():
        inside = profile_network(network, settings)
    assert inside.rows == plain.rows


def test_a_network_without_layers_has_nothing_to_compare():
    profile = profile_network(nn.Sequential(), ProfileSettings("empty", (2, 3)))
    assert profile.comparisons.num_unexplained == 0
    assert {row.layer for row in profile.rows} <= {"input"}
