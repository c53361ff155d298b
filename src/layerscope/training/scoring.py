"""The scores of a checkpoint on the test set.

The last lines of training and scripts/evaluate.py both use this module, so that they print the same
numbers.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerscope.base.errors import NonFiniteLoss, RunFailed
from layerscope.base.targets import Targets, target_of
from layerscope.config.schema import TrainConfig
from layerscope.data.module import ImageData
from layerscope.data.preprocessing import Preprocessing
from layerscope.data.sets import DataSet
from layerscope.data.store import Provenance
from layerscope.networks import build_network
from layerscope.training.checkpoints import load_weights
from layerscope.training.module import Classifier, as_number
from layerscope.training.trainer import make_test_trainer


@dataclass(frozen=True)
class Scored:
    """A network's scores and outputs on the test set, in the order of the set."""

    accuracy: float
    loss: float  # mean over the images
    probabilities: NDArray[np.float32]  # (N, num_classes), softmax
    predictions: NDArray[np.int64]  # (N,), the class with the highest output
    labels: NDArray[np.int64]  # (N,)
    own: dict[str, float | None]  # the user's own metrics by name; None: not finite


@dataclass(frozen=True)
class Tested:
    """Data to test a network on."""

    data: DataSet
    provenance: Provenance
    preprocessing: Preprocessing


def score_checkpoint(
    checkpoint: dict[str, Any],
    config: TrainConfig,
    tested: Tested,
    targets: Targets,
    directory: Path,
) -> tuple[Scored, ImageData]:
    """Run the test set through the checkpoint's network; return the scores and the data.

    Raises:
        NonFiniteLoss: the loss is not finite.

    Args:
        config: the checkpoint's own, or that with the user's overrides.
        tested: the data, prepared, and how the network sees it.
        targets: classes of the user's own, see base/targets.py.
        directory: one that Lightning may write into.
    """
    network = build_network(config.model, target_of(targets))
    load_weights(network, checkpoint)
    module = Classifier(network, config, targets)
    if config.trainer.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = ImageData(config, tested.data, tested.provenance, module.next_step, tested.preprocessing)
    answers = _Answers()
    trainer = make_test_trainer(config.trainer, directory, [answers])
    try:
        trainer.test(module, data, verbose=False)
    except SystemExit as end:
        raise RunFailed(f"the network's code ended the program, sys.exit({end.code})") from end
    loss = as_number(trainer.callback_metrics["test/loss"])
    if not math.isfinite(loss):
        raise NonFiniteLoss(f"the test loss is {loss}: test an earlier checkpoint")
    return (
        Scored(
            accuracy=as_number(trainer.callback_metrics["test/acc"]),
            loss=loss,
            probabilities=torch.cat(answers.parts["probabilities"]).numpy(),
            predictions=torch.cat(answers.parts["predictions"]).numpy(),
            labels=torch.cat(answers.parts["labels"]).numpy(),
            own={
                entry.column: finite(as_number(trainer.callback_metrics[f"test/{entry.column}"]))
                for entry in config.metrics.extra
            },
        ),
        data,
    )


def finite(value: float) -> float | None:
    """Return the value; None where JSON has no word for it."""
    return value if math.isfinite(value) else None


class _Answers(L.Callback):
    """Collects what the test steps return."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = defaultdict(list)

    def on_test_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Add the outputs of a batch."""
        for name, part in outputs.items():
            self.parts[name].append(part.cpu())
