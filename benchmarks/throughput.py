"""python benchmarks/throughput.py [--rounds 3] [--batches 150]

Training speed of cifar_cnn on real CIFAR-10, CPU, batch 128, as ratios measured side by side:

- usual: the ordinary way. torchvision's CIFAR10 with PIL transforms, a DataLoader with 2 workers,
  Lightning with its CSV logger, progress bar and checkpoints, SGD, fp32.
- bare: a plain PyTorch loop with the same batches, precision, optimizer and memory format, and
  nothing else: no metrics, no logging, no checkpoint.
- layerscope: scripts/train.py as it is.

Every round runs each of them in a process of its own, one after the other. The figure is the second
epoch's images/s, validation not counted; the first epoch warms up. Ratios are taken round by round.
"""

import argparse
import csv
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from layerscope.data.store import prepare_cifar10

ROOT = Path(__file__).resolve().parents[1]
WAYS = ("usual", "bare", "layerscope")
BATCH_SIZE = 128


def measure_usual(batches: int) -> float:
    import lightning as L
    import numpy as np
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.loggers import CSVLogger
    from torch.nn import functional as F
    from torch.utils.data import DataLoader
    from torchvision import transforms
    from torchvision.datasets import CIFAR10

    from layerscope.data.cifar10 import CHANNEL_MEAN, CHANNEL_STD
    from layerscope.data.store import load_cifar10
    from layerscope.networks.cifar_cnn import CifarCNN

    class InMemory(CIFAR10):
        """torchvision's own data set, its download left out."""

        def __init__(self, transform: transforms.Compose) -> None:
            arrays = load_cifar10()
            self.data = np.array(arrays.train_images[:45_000])
            self.targets = arrays.train_labels[:45_000].tolist()
            self.transform, self.target_transform = transform, None

    class Usual(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = CifarCNN()
            self.seconds = 0.0

        def training_step(self, batch: tuple[torch.Tensor, torch.Tensor], _: int) -> torch.Tensor:
            outputs = self.network(batch[0])
            loss = F.cross_entropy(outputs, batch[1])
            self.log("train/loss", loss, prog_bar=True)
            self.log("train/acc", (outputs.argmax(1) == batch[1]).float().mean(), on_epoch=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, nesterov=True)

        def on_train_epoch_start(self) -> None:
            self.started = time.perf_counter()

        def on_train_epoch_end(self) -> None:
            self.seconds = time.perf_counter() - self.started

    transform = transforms.Compose(
        [
            transforms.RandomCrop(32, padding=2, padding_mode="reflect"),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(CHANNEL_MEAN, CHANNEL_STD),
        ]
    )
    loader = DataLoader(
        InMemory(transform),
        BATCH_SIZE,
        shuffle=True,
        num_workers=2,
        drop_last=True,
        persistent_workers=True,
    )
    with tempfile.TemporaryDirectory() as directory:
        module = Usual()
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=2,
            limit_train_batches=batches,
            logger=CSVLogger(directory),
            callbacks=[ModelCheckpoint(directory)],
            enable_progress_bar=True,
        )
        trainer.fit(module, loader)
    return batches * BATCH_SIZE / module.seconds


def measure_bare(batches: int) -> float:
    import torch
    from torch.nn import functional as F

    from layerscope.config.schema import CustomSchedulerConfig
    from layerscope.data.batches import DeviceBatches
    from layerscope.data.module import ImageData, open_data
    from layerscope.training.optimizers import build_optimizer
    from layerscope.training.schedules import rate_at

    config, network = _default_run()
    assert not isinstance(config.scheduler, CustomSchedulerConfig)
    images = open_data(config, {})
    data = ImageData(config, images, images.prepare(("train", "val"), print), lambda: 0)
    data.setup("fit")
    source = DeviceBatches(data.sets_in_memory(), data.batch_settings(0, 1), torch.device("cpu"))
    network = network.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(network, config.optimizer)
    seconds = 0.0
    for epoch in range(2):
        started = time.perf_counter()
        for step, (images, labels) in enumerate(source.train(epoch, 0, batches)):
            enabled = config.trainer.precision == "bf16-mixed"
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                outputs = network(images)
                loss = F.cross_entropy(outputs, labels, label_smoothing=0.05)
            loss.backward()
            rate = rate_at(config.scheduler, epoch * batches + step, 2 * batches)
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * rate
            optimizer.step()
            optimizer.zero_grad()
        seconds = time.perf_counter() - started
    return batches * BATCH_SIZE / seconds


def measure_layerscope(batches: int) -> float:
    with tempfile.TemporaryDirectory() as directory:
        command = [sys.executable, ROOT / "scripts/train.py", "model=cifar_cnn", "trainer=cpu"]
        command += ["trainer.max_epochs=2", f"trainer.limit_train_batches={batches}"]
        command += ["trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]
        subprocess.run(
            [*command, f"hydra.run.dir={directory}/run"], check=True, stdout=subprocess.DEVNULL
        )
        with Path(directory, "run/timing.csv").open() as file:
            return float(list(csv.DictReader(file))[1]["images_per_second"])


def measure(way: str, batches: int) -> float:
    ways = {"usual": measure_usual, "bare": measure_bare, "layerscope": measure_layerscope}
    return ways[way](batches)


def measure_apart(way: str, batches: int) -> float:
    """In a process of its own."""
    command = [sys.executable, __file__, "--batches", str(batches), "--only", way]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(rounds: list[dict[str, float]]) -> None:
    print(f"{'':20}{'images/s, median':>18}{'smallest':>11}{'largest':>11}")
    for way in WAYS:
        speeds = [speeds[way] for speeds in rounds]
        median = statistics.median(speeds)
        print(f"{way:20}{median:18,.0f}{min(speeds):11,.0f}{max(speeds):11,.0f}")
    for way in WAYS[:-1]:
        ratios = [speeds["layerscope"] / speeds[way] for speeds in rounds]
        print(
            f"layerscope / {way}: {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )


def _default_run():  # a TrainConfig and a network, which are imported late
    from layerscope.config.compose import compose, without_places
    from layerscope.config.problems import parse
    from layerscope.config.schema import TrainConfig
    from layerscope.networks import build_network
    from layerscope.training.hardware import resolved_precision

    config = parse(TrainConfig, without_places(compose(ROOT / "configs", "train")))
    config = config.model_copy(update={"trainer": resolved_precision(config.trainer)})
    return config, build_network(config.model)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=150)
    parser.add_argument("--only", choices=WAYS)
    arguments = parser.parse_args()
    if arguments.only:
        print(json.dumps(measure(arguments.only, arguments.batches)))
        return 0
    prepare_cifar10(None, print)
    rounds = []
    for number in range(arguments.rounds):
        rounds.append({way: measure_apart(way, arguments.batches) for way in WAYS})
        print(f"round {number + 1}: {rounds[-1]}", file=sys.stderr)
    report(rounds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
