"""The step on a GPU that is missing: CUDA's operations, dtypes and copies, forward only."""

import pytest
import torch
import torchvision.models as zoo

from layerscope.dry_run import DryRun, dry_run
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.reconcile import DTYPES, ProfileSettings, profile_network
from layerscope.reconcile.account import account
from layerscope.reconcile.comparisons import COMPARISONS, rows_of
from layerscope.reconcile.measurements import Measurements

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")

CUDA = torch.device("cuda")
NETWORKS = {
    "resnet18": 64,
    "resnet50": 64,
    "googlenet": 64,
    "mobilenet_v3_small": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "alexnet": 64,
    "vgg11_bn": 64,
    "convnext_tiny": 64,
    "vit_b_16": 224,
}
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def forecast(name: str, dtype: str, memory_format: str, batch: int = 2, size: int = 0) -> DryRun:
    number_type, autocast = DTYPES[dtype]
    options = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        network = zoo.get_model(name, weights=None, **options).train()
    network.to(dtype=number_type, memory_format=FORMATS[memory_format])  # type: ignore[call-overload]
    size = size or NETWORKS[name]
    image = torch.empty(batch, 3, size, size, dtype=number_type, device="meta")
    image = image.to(memory_format=FORMATS[memory_format])
    return dry_run(network, (image,), device=CUDA, autocast=autocast)


QUICK = {
    ("float32", "contiguous"),
    ("bfloat16", "contiguous"),
    ("bf16_autocast", "channels_last"),
}


@pytest.mark.parametrize(
    ("dtype", "memory_format"),
    [
        pytest.param(dtype, form, marks=[] if (dtype, form) in QUICK else pytest.mark.slow)
        for dtype in ("float32", "bfloat16", "bf16_autocast")
        for form in FORMATS
    ],
)
@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_saved_is_what_the_specification_says(name, dtype, memory_format):
    run = forecast(name, dtype, memory_format)
    assert {storage.num_bytes for storage in run.storages} != {0}
    assert all(tensor.layout.device.type == "cuda" for tensor in run.outputs)
    theory = account(run, DTYPES[dtype][0].itemsize)
    (saved,) = [row for row in COMPARISONS if row.instrument == "dry_run"]
    rows = rows_of(saved, theory, Measurements())
    assert [(r.layer, r.predicted, r.measured) for r in rows if r.unexplained != 0] == []
    assert sum(row.measured for row in rows) == run.saved_bytes > 0


def test_layer_norm_under_autocast_saves_a_float32_copy():
    assert (
        forecast("convnext_tiny", "bf16_autocast", "contiguous", 4, 224).saved_bytes == 299_484_240
    )


def made_by(run: DryRun, name: str) -> list[tuple[torch.dtype, ...]]:
    return [
        tuple(tensor.dtype for tensor in operation.outputs if tensor.num_elements)
        for operation in run.operations
        if operation.base_name == name
    ]


def test_dropout_is_one_operation_with_a_mask():
    run = forecast("alexnet", "float32", "contiguous")
    assert made_by(run, "aten::native_dropout") == [(torch.float32, torch.bool)] * 2


@pytest.mark.parametrize("dtype", ["bfloat16", "bf16_autocast"])
def test_statistics_of_norms_are_float32(dtype):
    low, full = torch.bfloat16, torch.float32
    run = forecast("resnet18", dtype, "contiguous")
    norms = [*made_by(run, "aten::cudnn_batch_norm"), *made_by(run, "aten::native_batch_norm")]
    assert len(norms) == 20
    assert all(dtypes[:3] == (low, full, full) for dtypes in norms)
    run = forecast("convnext_tiny", dtype, "contiguous")
    first = low if dtype == "bfloat16" else full
    assert set(made_by(run, "aten::native_layer_norm")) == {(first, full, full)}


def test_a_profile_has_the_textbook_and_what_is_saved_and_no_measurement():
    network = CifarCNN()
    profile = profile_network(network, ProfileSettings("cifar_cnn", (32, 3, 32, 32), device="cuda"))
    assert profile.settings.is_forecast
    assert profile.costs.total().forward_flops == 673_595_392
    assert {row.instrument for row in profile.rows} == {"dry_run"}
    assert profile.comparisons.num_unexplained == 0
    assert profile.peak.predicted_live_bytes is None
    assert profile.peak.measured_bytes is None
    assert profile.peak.largest_batch is None
    assert (profile.times, profile.step, profile.machine) == (None, None, None)
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}
    assert any("cuda" in note for note in profile.notes)


def test_the_textbook_is_the_cpus():
    runs = [dry_run(CifarCNN(), (torch.empty(4, 3, 32, 32),), device=d) for d in (None, CUDA)]
    cpu, cuda = (account(run, 4).costs for run in runs)
    assert cpu.layers == cuda.layers
