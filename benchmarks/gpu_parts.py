"""The parts of benchmarks/gpu.py: what each checks and measures.

Only the public library and the commands are used, so that the parts survive a rebuilding.
"""

import csv
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gpu_pack

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "scripts"
NETWORKS = (
    *("resnet18", "resnet50", "googlenet", "mobilenet_v3_small", "densenet121"),
    *("efficientnet_b0", "alexnet", "vgg11_bn", "convnext_tiny", "vit_b_16"),
)
DTYPES = ("float32", "bf16_autocast", "bfloat16")
JUDGED_DTYPES = ("float32", "bf16_autocast")
# Test accuracy on a CPU with seed 0, and how far from it a GPU may be.
CPU_ACCURACY = {"cifar_cnn": 0.853, "tiny_cnn": 0.796}
TOLERANCE = 0.01
BATCH_SIZES = (128, 512, 2048)
TIMED_EPOCHS = 3


@dataclass(frozen=True)
class Finding:
    """One line of the results.

    Args:
        holds: None where nothing is judged.
    """

    part: str
    what: str
    value: Any
    unit: str = ""
    note: str = ""
    holds: bool | None = None
    details: Any = None

    def record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Part:
    """Args: run: yields findings; it gets a folder for files that are worth keeping."""

    name: str
    half: int
    limit_seconds: int
    run: Callable[[Path], Iterator[Finding]]


def environment() -> dict[str, str]:
    """Return the environment of a part's process: where CIFAR-10 is, and this source tree."""
    variables = dict(os.environ)
    directory = gpu_pack.data_directory()
    if directory is not None:
        variables["LAYERSCOPE_DATA_DIR"] = str(directory)
    variables.pop("PYTHONDONTWRITEBYTECODE", None)  # it makes every start slow
    return variables


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def device() -> str:
    return "cuda" if on_gpu() else "cpu"


def has_data() -> bool:
    return gpu_pack.data_directory() is not None


# Versions and tests -------------------------------------------------------------------------------


def versions(out: Path) -> Iterator[Finding]:
    import torch

    def found(what: str, value: Any, unit: str = "") -> Finding:
        return Finding("versions", what, value, unit)

    yield found("date", time.strftime("%Y-%m-%d"))
    yield found("python", platform.python_version())
    for name in ("layerscope", "torch", "torchvision", "lightning", "torchmetrics", "hydra-core"):
        yield found(name, version(name))
    yield found("processor cores", os.cpu_count())
    if not on_gpu():
        yield found("card", None, "no CUDA device: the parts run small on the CPU")
        return
    properties = torch.cuda.get_device_properties(0)
    yield found("card", properties.name)
    yield found("memory", properties.total_memory, "B")
    yield found("compute capability", f"{properties.major}.{properties.minor}")
    yield found("CUDA", torch.version.cuda)
    yield found("cuDNN", torch.backends.cudnn.version())
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    yield found("driver", subprocess.run(query, capture_output=True, text=True).stdout.strip())


def tests(out: Path) -> Iterator[Finding]:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-n", "0"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=ROOT, capture_output=True, text=True
    )
    (out / "pytest.txt").write_text(done.stdout + done.stderr)
    lines = done.stdout.strip().splitlines() or ["no output"]
    passed = re.search(r"(\d+) passed", lines[-1])
    # On a CPU all are skipped: then that they can be collected is what is judged.
    holds = done.returncode == 0 and (passed is not None or not on_gpu())
    yield Finding("tests", "tests marked gpu", lines[-1].strip("= "), holds=holds)
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            yield Finding("tests", line[:160], None, holds=False)


# Probes -------------------------------------------------------------------------------------------


def probes(out: Path) -> Iterator[Finding]:
    yield from _first_matmuls()  # first: what it asks is of a fresh process
    yield from _reserve_space()
    yield from _matmul_ceilings()


def _first_matmuls() -> Iterator[Finding]:
    """What the first product allocates beside its result, on the main and on autograd's thread."""
    import torch

    whats = (
        "first matmul, main thread: kept beside the result",
        "first matmul, autograd's thread: kept beside the gradient",
    )
    if not on_gpu():
        for what in whats:
            yield Finding("probes", what, None, "", "CUDA's alone")
        return

    def allocated() -> int:
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    left = torch.randn(256, 256, device="cuda", requires_grad=True)
    right = torch.randn(256, 256, device="cuda")
    before = allocated()
    product = left @ right
    yield Finding("probes", whats[0], allocated() - before - product.nbytes, "B")
    total = product.sum()
    before = allocated()
    total.backward()
    assert left.grad is not None
    yield Finding("probes", whats[1], allocated() - before - left.grad.nbytes, "B")


def _reserve_space() -> Iterator[Finding]:
    import torch

    what = "batch norm's reserve space, (32, 64, 56, 56)"
    if not on_gpu():
        yield Finding("probes", what, None, "", "cuDNN's alone")
        return
    for dtype in (torch.float32, torch.bfloat16):
        for memory_format in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(32, 64, 56, 56, device="cuda").to(dtype, memory_format=memory_format)
            weight, bias, mean, var = (torch.ones(64, device="cuda") for _ in range(4))
            arguments = (x, weight, bias, mean, var, True, 0.1, 1e-5)
            *_, reserve = torch.ops.aten.cudnn_batch_norm(*arguments)
            note = f"{dtype}, {memory_format}".replace("torch.", "")
            yield Finding("probes", what, reserve.nbytes, "B", note)


def _matmul_ceilings() -> Iterator[Finding]:
    """float32 with and without TF32, and bfloat16; of random numbers and of ones."""
    import torch

    rows = 8192 if on_gpu() else 512
    rates: dict[tuple[str, str], float] = {}
    for name, dtype, precision in (
        ("float32", torch.float32, "ieee"),
        ("TF32", torch.float32, "tf32"),
        ("bfloat16", torch.bfloat16, "ieee"),
    ):
        if name == "TF32" and not on_gpu():
            continue
        torch.backends.cuda.matmul.fp32_precision = precision
        for numbers, make in (("random", torch.randn), ("ones", torch.ones)):
            left, right = (make(rows, rows, device=device(), dtype=dtype) for _ in range(2))
            out = torch.empty_like(left)
            seconds = _median_seconds(lambda a=left, b=right, c=out: torch.mm(a, b, out=c))
            rates[name, numbers] = 2 * rows**3 / seconds / 1e12
            what = f"matmul {name}, {numbers}, {rows} rows"
            yield Finding("probes", what, rates[name, numbers], "TFLOP/s")
    ratio = rates["bfloat16", "ones"] / rates["bfloat16", "random"]
    yield Finding("probes", "matmul bfloat16, ones to random numbers", ratio)


def _median_seconds(work: Callable[[], object], repeats: int = 9) -> float:
    seconds: list[float] = []
    for number in range(repeats + 2):
        _wait()
        began = time.perf_counter()
        work()
        _wait()
        if number >= 2:
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _wait() -> None:
    import torch

    if on_gpu():
        torch.cuda.synchronize()


# Accounts -----------------------------------------------------------------------------------------


def accounts(out: Path) -> Iterator[Finding]:
    """Of every network, dtype and memory format: is everything explained, and what is the peak."""
    names = NETWORKS if on_gpu() else ("resnet18", "mobilenet_v3_small")
    for dtype in DTYPES:
        for channels_last in (False, True):
            for name in names:
                yield _account(name, dtype, channels_last)


def _account(name: str, dtype: str, channels_last: bool) -> Finding:
    import torch
    import torchvision

    import layerscope

    size = 224 if on_gpu() or name == "vit_b_16" else 64
    options: dict[str, Any] = {"init_weights": True} if name == "googlenet" else {}
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None, **options)
    layout = "channels_last" if channels_last else "contiguous"
    what = f"{name}, {dtype}, {layout}"
    shape = (8 if on_gpu() else 2, 3, size, size)
    try:
        report = layerscope.profile(
            network, shape, dtype=dtype, device=device(), channels_last=channels_last, train=True
        )
    except (layerscope.UserError, RuntimeError) as error:
        return Finding("accounts", what, None, "", f"{type(error).__name__}: {error}"[:300], False)
    counts, peak = report.comparisons, report.peak
    rows = [row for row in (*report.rows, *report.totals) if row.is_exact and row.unexplained]
    stages = {stage.name: stage.num_bytes for stage in peak.device_stages or ()}
    note = (
        f"of {counts.num_compared:,}; {counts.num_not_counted:,} not counted; live peak predicted "
        f"{peak.predicted_live_bytes:,} B, measured {peak.measured_live_bytes:,} B"
    )
    if stages:
        note += "; " + " + ".join(f"{key} {value:,}" for key, value in stages.items())
    details = {
        "unknown": counts.num_unknown,
        "unexplained": [
            (row.layer, row.quantity, row.instrument, row.predicted, row.measured)
            for row in rows[:20]
        ],
        "notes": report.profile.notes,
        "predicted_layer": peak.predicted_layer,
        "measured_layer": peak.measured_layer,
    }
    holds = counts.num_unexplained == 0 if dtype in JUDGED_DTYPES else None
    return Finding("accounts", what, counts.num_unexplained, "unexplained", note, holds, details)


# Training -----------------------------------------------------------------------------------------


def command(script: str, *keys: str) -> list[str]:
    return [sys.executable, str(SCRIPTS / script), *keys]


def trainer() -> str:
    return f"trainer={'gpu' if on_gpu() else 'cpu'}"


def small_data(*, num_train: int, batch_size: int) -> list[str]:
    keys = ["data=synthetic", f"data.num_train={num_train}", f"data.batch_size={batch_size}"]
    return [*keys, "data.num_val=64", "data.num_test=64"]


def training(out: Path) -> Iterator[Finding]:
    """Both networks, as README trains them."""
    for model, expected in CPU_ACCURACY.items():
        with tempfile.TemporaryDirectory() as folder:
            keys = [f"model={model}", trainer(), "seed=0", f"hydra.run.dir={folder}/run"]
            is_whole = on_gpu() and has_data()
            if not is_whole:
                keys += [*small_data(num_train=256, batch_size=32), "trainer.max_epochs=1"]
            began = time.perf_counter()
            done = subprocess.run(command("train.py", *keys), capture_output=True, text=True)
            seconds = time.perf_counter() - began
            if done.returncode != 0:
                yield Finding("training", model, None, "", done.stderr[-300:], False)
                continue
            results = json.loads(Path(folder, "run/results.json").read_text())
            accuracy = results["test/acc"]
            holds = abs(accuracy - expected) <= TOLERANCE if is_whole else None
            note = f"{expected:.1%} on a CPU" if is_whole else "synthetic images, one epoch"
            yield Finding("training", f"{model}, test accuracy", accuracy, "", note, holds)
            yield Finding("training", f"{model}, the whole command", seconds, "s")
            memory = Path(folder, "run/activation_memory.json").read_text()
            totals = json.loads(memory)["totals"]
            yield Finding("training", f"{model}, saved for backward", totals["saved_bytes"], "B")
            peak = totals["peak_bytes"]
            holds = None if not on_gpu() else peak is not None and peak >= totals["saved_bytes"]
            yield Finding("training", f"{model}, peak of a step", peak, "B", "", holds)


def throughput(out: Path) -> Iterator[Finding]:
    """Images per second of cifar_cnn with SGD: ours, a bare loop, and a captured CUDA graph.

    The two others take their images, ready made, from one tensor on the device: no augmentation, no
    metrics, no check for infinities, no schedule.
    """
    for batch_size in BATCH_SIZES if on_gpu() else (32,):
        with tempfile.TemporaryDirectory() as folder:
            ours = _our_speed(Path(folder) / "run", batch_size)
            network, autocast = _trained(Path(folder) / "run")
        yield Finding("throughput", f"layerscope, batch {batch_size}", ours, "images/s")
        for name, speed in (
            ("bare loop", _bare_speed(network, batch_size, autocast)),
            ("CUDA graph", _graph_speed(network, batch_size, autocast)),
        ):
            what = f"{name}, batch {batch_size}"
            if speed is None:
                yield Finding("throughput", what, None, "", "needs a GPU")
                continue
            yield Finding("throughput", what, speed, "images/s", f"layerscope {ours / speed:.2f}")


def _our_speed(folder: Path, batch_size: int) -> float:
    keys = ["model=cifar_cnn", trainer(), "optimizer=sgd", f"hydra.run.dir={folder}"]
    keys += ["profile=false", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]
    keys += [f"trainer.max_epochs={TIMED_EPOCHS}"]
    if on_gpu() and has_data():
        keys += [f"data.batch_size={batch_size}"]
    else:
        keys += small_data(num_train=4 * batch_size, batch_size=batch_size)
    done = subprocess.run(command("train.py", *keys), capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-300:])
    with (folder / "timing.csv").open() as file:
        return float(list(csv.DictReader(file))[-1]["images_per_second"])


def _trained(folder: Path) -> tuple[Any, bool]:
    """Return the run's network in train mode, and whether it was trained under autocast."""
    import torch

    import layerscope

    network = layerscope.load(folder / "checkpoints/best.ckpt").train().to(device())
    precision = json.loads((folder / "activation_memory.json").read_text())["precision"]
    return network.to(memory_format=torch.channels_last), precision == "bf16-mixed"


class _Batches:
    """45,000 ready-made images on a GPU, a few batches elsewhere."""

    def __init__(self, batch_size: int) -> None:
        import torch

        count = 45_000 if on_gpu() else 4 * batch_size
        images = torch.randn(count, 3, 32, 32, device=device())
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(10, (count,), device=device())
        self.size = batch_size

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for index in range(len(self)):
            rows = slice(index * self.size, (index + 1) * self.size)
            yield self.images[rows], self.labels[rows]

    def __len__(self) -> int:
        return len(self.labels) // self.size


def _step(network: Any, optimizer: Any, autocast: bool, images: Any, labels: Any) -> None:
    import torch
    from torch.nn import functional as F

    # Inside a graph the cache of low-precision weights would outlive their memory.
    with torch.autocast(device(), torch.bfloat16, enabled=autocast, cache_enabled=False):
        loss = F.cross_entropy(network(images), labels, label_smoothing=0.05)
    loss.backward()
    optimizer.step()


def _sgd(network: Any) -> Any:
    import torch

    return torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)


def _bare_speed(network: Any, batch_size: int, autocast: bool) -> float:
    optimizer, batches = _sgd(network), _Batches(batch_size)

    def epoch() -> None:
        for images, labels in batches:
            _step(network, optimizer, autocast, images, labels)
            optimizer.zero_grad()

    return _speed(epoch, len(batches) * batch_size)


def _graph_speed(network: Any, batch_size: int, autocast: bool) -> float | None:
    if not on_gpu():
        return None
    import torch

    optimizer, batches = _sgd(network), _Batches(batch_size)
    images, labels = (part.clone() for part in next(iter(batches)))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # cuDNN and the optimizer make what they keep
        for _ in range(3):
            _step(network, optimizer, autocast, images, labels)
            optimizer.zero_grad()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        _step(network, optimizer, autocast, images, labels)

    def epoch() -> None:
        for new_images, new_labels in batches:
            images.copy_(new_images)
            labels.copy_(new_labels)
            graph.replay()

    return _speed(epoch, len(batches) * batch_size)


def _speed(epoch: Callable[[], None], num_images: int) -> float:
    """Images per second, the median of the epochs after the first."""
    seconds: list[float] = []
    for _ in range(TIMED_EPOCHS):
        _wait()
        began = time.perf_counter()
        epoch()
        _wait()
        seconds.append(time.perf_counter() - began)
    return num_images / statistics.median(seconds[1:])


# Resume -------------------------------------------------------------------------------------------


def resume(out: Path) -> Iterator[Finding]:
    """Runs that were ended by SIGTERM or killed inside an epoch end in the bits of a whole run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = subprocess.run(_resumable(folder / "whole"), capture_output=True, text=True)
        if done.returncode != 0:
            yield Finding("resume", "a whole run", None, "", done.stderr[-300:], False)
            return
        for end, number, code in (
            ("ended by SIGTERM inside an epoch", signal.SIGTERM, 128 + signal.SIGTERM),
            ("killed inside an epoch", signal.SIGKILL, -signal.SIGKILL),
        ):
            yield _ended(end, folder, number, code)
            shutil.rmtree(folder / "ended", ignore_errors=True)


def _resumable(folder: Path) -> list[str]:
    keys = ["model=cifar_cnn" if on_gpu() else "model=tiny_cnn", trainer(), "seed=0"]
    keys += ["trainer.deterministic=true", "resume=auto", f"hydra.run.dir={folder}"]
    keys += ["checkpoint_every_n_steps=20", "trainer.max_epochs=3", "profile=false"]
    if not (on_gpu() and has_data()):
        keys += small_data(num_train=1600, batch_size=32)
    return command("train.py", *keys)


def _ended(what: str, folder: Path, number: int, expected: int) -> Finding:
    ended = folder / "ended"
    process = subprocess.Popen(
        _resumable(ended), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    last = ended / "checkpoints/last.ckpt"
    while process.poll() is None and not last.exists():
        time.sleep(0.002)
    process.send_signal(number)
    _, error = process.communicate()
    if process.returncode != expected:
        note = f"exit code {process.returncode}, not {expected}: {error[-200:]}"
        return Finding("resume", what, None, "", note, False)
    steps = _checkpoint(last)["layerscope"]["batches_seen"]
    done = subprocess.run(_resumable(ended), capture_output=True, text=True)
    if done.returncode != 0:
        return Finding("resume", what, None, "", done.stderr[-300:], False)
    different = _differences(folder / "whole", ended)
    note = f"after step {steps}" + (f"; different: {', '.join(different[:5])}" if different else "")
    return Finding("resume", what, len(different), "differences", note, not different)


def _checkpoint(path: Path) -> dict[str, Any]:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _differences(one: Path, other: Path) -> list[str]:
    """Name the weights, optimizer states and tables that are not the same bits."""
    found: list[str] = []
    checkpoints = [_checkpoint(folder / "checkpoints/last.ckpt") for folder in (one, other)]
    for key in ("state_dict", "optimizer_states"):
        found += _unequal(key, *(checkpoint[key] for checkpoint in checkpoints))
    texts = [(folder / "metrics.csv").read_text() for folder in (one, other)]
    return found + (["metrics.csv"] if texts[0] != texts[1] else [])


def _unequal(name: str, one: Any, other: Any) -> list[str]:
    import torch

    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [name]
        return [path for key in one for path in _unequal(f"{name}.{key}", one[key], other[key])]
    if isinstance(one, list | tuple):
        if len(one) != len(other):
            return [name]
        pairs = enumerate(zip(one, other, strict=True))
        return [path for index, pair in pairs for path in _unequal(f"{name}.{index}", *pair)]
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [name]
    return [] if one == other else [name]


# Profile ------------------------------------------------------------------------------------------


def profile(out: Path) -> Iterator[Finding]:
    """Time per layer and roofline of cifar_cnn, and the step against the sum of its kernels."""
    for dtype in JUDGED_DTYPES:
        folder = out / f"profile_{dtype}"
        keys = ["model=cifar_cnn", f"device={device()}", f"dtype={dtype}", "channels_last=true"]
        keys += [f"batch_size={512 if on_gpu() else 8}", f"hydra.run.dir={folder}"]
        done = subprocess.run(command("profile_model.py", *keys), capture_output=True, text=True)
        if done.returncode != 0:
            yield Finding("profile", dtype, None, "", done.stderr[-300:], False)
            continue
        yield from _profile_findings(dtype, json.loads((folder / "profile.json").read_text()))


def _profile_findings(dtype: str, profile: dict[str, Any]) -> Iterator[Finding]:
    timed, machine = profile["time"], profile["machine"]
    unexplained = profile["comparisons"]["num_unexplained"]
    of = f"of {profile['comparisons']['num_compared']}"
    yield Finding("profile", f"{dtype}, accounts", unexplained, "unexplained", of, not unexplained)
    for name in ("copy_bytes", "matmul_flops", "convolution_flops"):
        rate = machine[f"{name}_per_second"]["median"]
        unit = "TB/s" if name == "copy_bytes" else "TFLOP/s"
        yield Finding("profile", f"{dtype}, ceiling {name}", rate / 1e12, unit)
    sums = [
        _seconds(layer["forward_seconds"], layer["backward_seconds"]) for layer in timed["layers"]
    ]
    kernels, step = sum(sums), timed["step_seconds"]["median"]
    yield Finding("profile", f"{dtype}, step", 1000 * step, "ms")
    under = timed["profiled_step_seconds"]
    yield Finding("profile", f"{dtype}, step under the profiler", 1000 * under["median"], "ms")
    note = f"{kernels / step:.0%} of the step"
    # Medians of their own: their sum may exceed a whole step a little.
    holds = kernels <= 1.05 * under["maximum"]
    yield Finding("profile", f"{dtype}, sum over layers", 1000 * kernels, "ms", note, holds)
    for layer, seconds in sorted(zip(timed["layers"], sums, strict=True), key=lambda p: -p[1])[:5]:
        fraction = layer["roofline_fraction"]
        at = "" if fraction is None else f"forward at {fraction:.0%} of the roofline"
        yield Finding("profile", f"{dtype}, {layer['layer']}", 1e6 * seconds, "us", at)
    above = [layer for layer in timed["layers"] if (layer["roofline_fraction"] or 0) > 1]
    names = ", ".join(f"{layer['layer']} {layer['roofline_fraction']:.0%}" for layer in above[:5])
    yield Finding("profile", f"{dtype}, layers above the roofline", len(above), "", names)


def _seconds(*spreads: dict[str, float] | None) -> float:
    return sum(spread["median"] for spread in spreads if spread is not None)


PARTS: Sequence[Part] = (
    Part("versions", 1, 20, versions),
    Part("tests", 1, 50, tests),
    Part("probes", 1, 25, probes),
    Part("accounts", 1, 105, accounts),
    Part("training", 2, 130, training),
    Part("throughput", 2, 110, throughput),
    Part("resume", 2, 90, resume),
    Part("profile", 2, 60, profile),
)
