"""python tests/frozen/freeze.py [NAME ...]

Write figures.json.gz, the theory of many networks as the code of one commit gives it, so that
later code can be compared with it. The file in the repository was made with src as of commit
f8158164b5d9845e77f3ef9a293164dbabad3d41, Python 3.11.7, torch 2.15.0, torchvision 0.29.2,
fvcore 0.1.5.post20221221 and NumPy 2.4.6, on a CPU (AMD EPYC) with one thread.

Run it at the commit that added it: it imports modules that later commits replace. With names, only
these networks are computed and compared with the file, which stays as it is.

Each network is described in train mode, float32 and the plain memory format, torchvision's
classifiers at batch 2 and the crop size of their default weights, ours at batch 32. Instruments
run on some networks, and every exact figure that they measure must equal the predicted one.
"""

import argparse
import gc
import gzip
import io
import json
import platform
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torchvision.models as zoo
from figures import FILE
from torch import nn

from layerscope.layers.spec import NetworkSpec
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.simple_cnn import SimpleCNN
from layerscope.networks.tiny_cnn import TinyCNN
from layerscope.profiling.field import BATCH_SIZE, build, crop_size
from layerscope.reconcile import Row, Settings, profile_network
from layerscope.reconcile.account import Account, account
from layerscope.reconcile.memory import output_bytes_reasons, saved_bytes_reasons
from layerscope.reconcile.settings import described, prepared
from layerscope.theory.step import step_memory

OURS = {
    "cifar_cnn": (CifarCNN, (32, 3, 32, 32)),
    "tiny_cnn": (TinyCNN, (32, 1, 8, 8)),
    "simple_cnn": (SimpleCNN, (32, 1, 4, 4)),
}
# Without weights it is built for this size; its default weights are for another one.
SIZES = {"vit_h_14": 224}
CIFAR_CNN = Settings("cifar_cnn", (32, 3, 32, 32), train=True)
VARIANTS = {
    "cifar_cnn/bf16_autocast": replace(CIFAR_CNN, dtype="bf16_autocast"),
    "cifar_cnn/bfloat16": replace(CIFAR_CNN, dtype="bfloat16"),
    "cifar_cnn/channels_last": replace(CIFAR_CNN, channels_last=True),
    "cifar_cnn/eval": replace(CIFAR_CNN, train=False),
    "cifar_cnn/frozen_block1": replace(CIFAR_CNN, freeze=("block1",)),
    "cifar_cnn/batch_1": replace(CIFAR_CNN, input_shape=(1, 3, 32, 32)),
}
MEASURED = (
    *("alexnet", "vgg11_bn", "resnet18", "googlenet", "inception_v3", "densenet121"),
    *("mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x1_0", "squeezenet1_1"),
    *("efficientnet_b0", "convnext_tiny", *OURS, *VARIANTS),
)
COST_COLUMNS = (
    *("kind", "num_calls", "num_parameters", "buffer_bytes", "output_elements", "output_bytes"),
    *("macs", "forward_flops", "input_gradient_flops", "weight_gradient_flops"),
    *("bias_gradient_flops", "gradient_bytes"),
)
COUNTS = {
    "fvcore": ("fvcore", "macs"),
    "counter_forward": ("flop_counter", "forward_flops"),
    "counter_backward": ("flop_counter", "backward_flops"),
    "profiler_forward": ("profiler", "forward_flops"),
    "profiler_backward": ("profiler", "backward_flops"),
}
PACKAGES = ("torch", "torchvision", "fvcore", "numpy")
ROOT = Path(__file__).parents[2]


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all, and write the file")
    given = parser.parse_args(argv).names
    torch.set_num_threads(1)
    networks = {}
    for name in given or all_names():
        sys.stderr.write(f"{name}\n")
        networks[name] = figures_of(name)
        gc.collect()  # a network is full of cycles, and the next one needs the memory
    if given:
        return _compare(networks)
    FILE.write_bytes(packed({"made_with": _made_with(), "networks": networks}))
    return 0


def all_names() -> tuple[str, ...]:
    """Return the names of torchvision's classifiers, our networks and the variants."""
    return (*zoo.list_models(module=zoo), *OURS, *VARIANTS)


def figures_of(name: str) -> dict[str, Any]:
    """Return everything that is frozen of one network, as JSON holds it."""
    settings = settings_of(name)
    network = build_network(settings.network)
    with prepared(network, settings) as step:
        theory = account(described(step, settings), settings.element_size)
    memory = step_memory(theory.network, theory.saved, num_threads=1)
    outputs, saved = _output_rows(theory), _saved_rows(theory)
    counts = measured_live_bytes = None
    if name in MEASURED:
        counts, measured_live_bytes = _measured(network, settings, theory)
    columns = {
        "key": [cost.layer for cost in theory.costs.layers],
        **{key: [getattr(cost, key) for cost in theory.costs.layers] for key in COST_COLUMNS},
        "predicted_output_bytes": [row.predicted for row in outputs],
        "predicted_saved_bytes": [row.predicted for row in saved],
    }
    return {
        "settings": {
            key: value
            for key, value in asdict(settings).items()
            if key in ("network", "input_shape", "dtype", "channels_last", "train", "freeze")
        },
        "layers": columns,
        "counts": counts,
        "total": {
            **{key: getattr(theory.costs.total(), key) for key in COST_COLUMNS[2:]},
            "predicted_output_bytes": sum(row.predicted or 0 for row in outputs),
            "predicted_saved_bytes": sum(row.predicted or 0 for row in saved),
            "counts": counts and {key: sum(column) for key, column in counts.items()},
            "unknown_flops": theory.costs.total().unknown,
            "unknown_saved": _unknown_saved(theory),
        },
        "peak": {
            "live_bytes": memory.live_peak_bytes,
            "peak_bytes": memory.peak.peak_bytes,
            "layer": memory.peak.layer,
            "phase": memory.peak.phase,
            "measured_live_bytes": measured_live_bytes,
        },
        "unused_parameters": theory.network.unused_parameters,
        "num_unseen": theory.network.num_unseen,
    }


def settings_of(name: str) -> Settings:
    """Return how a network is described."""
    if name in VARIANTS:
        return VARIANTS[name]
    if name in OURS:
        return Settings(name, OURS[name][1], train=True)
    size = SIZES.get(name) or crop_size(name)
    return Settings(name, (BATCH_SIZE, 3, size, size), train=True)


def build_network(name: str) -> nn.Module:
    """Return a network with random weights."""
    return OURS[name][0]() if name in OURS else build(name)


def _output_rows(theory: Account) -> tuple[Row, ...]:
    return theory.rows(
        "output_bytes",
        "outputs",
        {},
        lambda call: output_bytes_reasons(theory.network, call, theory.element_size),
    )


def _saved_rows(theory: Account) -> tuple[Row, ...]:
    return theory.rows(
        "saved_bytes",
        "saved",
        {},
        lambda call: saved_bytes_reasons(theory.network, theory.saved, call, theory.element_size),
    )


def _measured(
    network: nn.Module, settings: Settings, theory: Account
) -> tuple[dict[str, list[int]], int | None]:
    """Run the instruments; return their counts by layer, and the measured peak."""
    profile = profile_network(network, settings)
    for row in (*profile.rows, *profile.totals):
        if row.is_exact and (row.predicted is None or row.measured != row.predicted):
            raise SystemExit(f"{settings.network}: {row} is measured otherwise than predicted")
    assert _keys(profile.network) == _keys(theory.network)
    counts = {
        key: [r.predicted for r in profile.rows if (r.instrument, r.quantity) == source]
        for key, source in COUNTS.items()
    }
    assert all(len(column) == len(theory.costs.layers) for column in counts.values())
    return counts, profile.peak.measured_live_bytes


def _keys(network: NetworkSpec) -> list[str]:
    return [spec.key for spec in network.layers]


def _unknown_saved(theory: Account) -> list[str]:
    kinds = (theory.network.layers[call].kind for call in theory.saved.unknown)
    return sorted(set(kinds))


def source_commit() -> str:
    """Return the last commit that changed the code."""
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%H", "--", "src"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _made_with() -> dict[str, str]:
    versions = {name: version(name) for name in PACKAGES}
    return {"commit": source_commit(), "python": platform.python_version(), **versions}


def packed(document: dict[str, Any]) -> bytes:
    """Return the same bytes for the same figures and the same zlib."""
    file = io.BytesIO()
    with gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(_text(document).encode())
    return file.getvalue()


def _text(values: object) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"))


def _compare(networks: dict[str, Any]) -> int:
    then = json.loads(gzip.decompress(FILE.read_bytes()))["networks"]
    changed = [name for name in networks if _text(then[name]) != _text(networks[name])]
    sys.stderr.write(f"changed: {', '.join(changed) or 'none'}\n")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
