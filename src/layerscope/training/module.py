"""The LightningModule: one training step, and the scores that it collects."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy
from torchmetrics.utilities.distributed import gather_all_tensors

from layerscope.base.errors import NonFiniteLoss
from layerscope.base.targets import NO_TARGETS, Targets, own_code
from layerscope.config.schema import CustomOptimizerConfig, CustomSchedulerConfig, TrainConfig
from layerscope.data.batches import Batch
from layerscope.data.module import ImageData
from layerscope.data.order import step_seed
from layerscope.networks import first_output
from layerscope.networks.losses import loss_of
from layerscope.training.checkpoints import NETWORK_PREFIX, RunFacts
from layerscope.training.hardware import run_environment
from layerscope.training.optimizers import build_optimizer
from layerscope.training.own_metrics import make_metrics
from layerscope.training.own_schedules import OwnSchedule, own_schedule
from layerscope.training.schedules import rate_at
from layerscope.training.stop_request import StopRequest


class ImageMean(Metric):
    """Mean over images, from the mean of each batch; batches may differ in size.

    torchmetrics' MeanMetric copies each weight from the host and so waits for the device. With its
    check for nan switched off it ignores the weights.
    """

    total: Tensor
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, mean: Tensor, count: int) -> None:
        """Add the mean over `count` images, a scalar."""
        # Not in place: processes that were spawned share the initial tensors.
        self.total = self.total + mean.double() * count
        self.count = self.count + count

    def compute(self) -> Tensor:
        """Return the mean, a float32 scalar."""
        return (self.total / self.count).float()


class Scores(nn.Module):
    """Accuracy (micro: over images) and mean loss since the last reset.

    The sums stay on the device and go into the checkpoint, so that an epoch that is interrupted and
    resumed reports what an uninterrupted one would.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.accuracy = MulticlassAccuracy(num_classes, average="micro", validate_args=False)
        self.loss = ImageMean()
        self.accuracy.persistent(True)
        self.loss.persistent(True)

    def update(self, outputs: Tensor, labels: Tensor, loss: Tensor) -> None:
        """Add a batch: outputs (N, num_classes), labels (N,) and their mean loss, a scalar."""
        self.accuracy.update(outputs, labels)
        self.loss.update(loss, len(labels))

    def mean_loss_here(self) -> float:
        """Return the mean loss since the last reset over this rank's images; waits for the device.

        `loss.compute` would ask the other ranks.
        """
        return float(self.loss.total / self.loss.count)

    def take(self) -> tuple[Tensor, Tensor]:
        """Return mean loss and accuracy over all ranks, and reset the sums."""
        scores = self.loss.compute(), self.accuracy.compute()
        self.loss.reset()
        self.accuracy.reset()
        return scores


def sums_in(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the sums of Scores in a Classifier's state; all other entries agree on every rank."""
    return {name: sum_ for name, sum_ in state.items() if not name.startswith(NETWORK_PREFIX)}


def sums_of_process(
    sums: Mapping[str, Tensor], process: int, num_processes: int
) -> dict[str, Tensor]:
    """Return the sums with which one process resumes.

    With as many processes as before, each takes its own sums again: adding up other parts would
    change the last bits. Otherwise the first process takes the sums of all.

    Args:
        sums: those of every saved process, (processes, ...).
        process: the rank of the process that resumes.
    """
    if all(len(saved) == num_processes for saved in sums.values()):
        return {name: saved[process].clone() for name, saved in sums.items()}
    if process > 0:
        return {name: torch.zeros_like(saved[0]) for name, saved in sums.items()}
    return {name: saved.sum(0) for name, saved in sums.items()}


def as_number(score: Tensor) -> float:
    """Return the shortest decimal that equals this float32: 0.994, not 0.9940000176429749."""
    return float(str(np.float32(score.item())))


class Classifier(L.LightningModule):
    """A network under training.

    Optimization is manual. The schedule and the random seeds are functions of `batches_seen` alone,
    which is in the checkpoint. A step reads a single value back from the device: whether its loss
    and gradients are finite.

    Args:
        targets: classes of the user's own, see base/targets.py.
    """

    def __init__(
        self, network: nn.Module, config: TrainConfig, targets: Targets = NO_TARGETS
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.network = network
        self.batches_seen = 0  # training batches, over all epochs
        self.has_updated = False  # whether the last training step ended in an update
        self.stop_is_wanted = False  # by a signal to any process, as of the last training step
        self._request: StopRequest | None = None
        self._config = config
        self._targets = targets
        self._own_schedule: OwnSchedule | None = None  # made when the batches are known
        num_classes = config.model.num_classes
        self.train_scores = Scores(num_classes)
        self.val_scores = Scores(num_classes)
        self.test_scores = Scores(num_classes)
        self._own_metrics = make_metrics(config.metrics, targets)

    def next_step(self) -> int:
        """Return the index of the next training batch, counted over all epochs."""
        return self.batches_seen

    def listen_to(self, request: StopRequest) -> None:
        """Share this request with all processes, in the message that each step sends anyway."""
        self._request = request

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer; `training_step` applies the schedule itself."""
        return build_optimizer(self.network, self._config.optimizer, self._targets)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, C, H, W) to outputs (N, num_classes), the first of several tensors."""
        return first_output(self.network(images))

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Run forward and backward, and update the weights if an update is due."""
        images, labels = batch
        self._seed(step_seed(self._config.seed, self.batches_seen, self.global_rank))
        outputs = self(images)
        loss = loss_of(outputs, labels, self._config.loss)
        # Lightning puts the whole step under autocast, which is meant for the forward pass only.
        with torch.autocast(self.device.type, enabled=False):
            self.manual_backward(loss / self._batches_in_update())
            self._agree(loss)
            self.has_updated = self._update_is_due()
            if self.has_updated:
                self._update()
        self.train_scores.update(outputs.detach(), labels, loss.detach())
        self.batches_seen += 1

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add the loss and accuracy of a batch to the scores."""
        self._score(self.val_scores, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor]:
        """Score a batch; return `probabilities` (N, num_classes), `predictions`, `labels` (N,)."""
        outputs = self._score(self.test_scores, batch)
        return {
            "probabilities": outputs.float().softmax(1),
            "predictions": outputs.argmax(1),
            "labels": batch[1],
        }

    def on_train_epoch_end(self) -> None:
        """Log the epoch's scores."""
        self._log("train", self.train_scores)

    def on_validation_epoch_start(self) -> None:
        """Start the user's own metrics."""
        self._own_metrics.start(self.device)

    def on_test_epoch_start(self) -> None:
        """Start the user's own metrics."""
        self._own_metrics.start(self.device)

    def on_validation_epoch_end(self) -> None:
        """Log the split's scores."""
        self._log("val", self.val_scores)
        self._log_own("val")

    def on_test_epoch_end(self) -> None:
        """Log the split's scores."""
        self._log("test", self.test_scores)
        self._log_own("test")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add everything that is needed to rebuild the network and its input, as plain data."""
        data: ImageData = self.trainer.datamodule  # type: ignore[attr-defined]
        facts = RunFacts(
            config=self._config.model_dump(mode="json", by_alias=True),
            preprocessing=data.preprocessing.to_plain(),
            batches_seen=self.batches_seen,
            surroundings=run_environment(self._config),
            data=dict(data.provenance),
            sums=self._sums_of_all(checkpoint["state_dict"]),
        )
        facts.put_into(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Resume after the last batch seen, each process with its own sums."""
        facts, state = RunFacts.of(checkpoint), checkpoint["state_dict"]
        self.batches_seen = facts.batches_seen
        sums = facts.sums or {name: sum_[None] for name, sum_ in sums_in(state).items()}
        state.update(sums_of_process(sums, self.global_rank, self.trainer.world_size))

    def _sums_of_all(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gather the sums of every process, (processes, ...).

        Empty for a single process: its state dict already has them.
        """
        if self.trainer.world_size == 1:
            return {}
        return {
            name: torch.stack(gather_all_tensors(sum_)) for name, sum_ in sums_in(state).items()
        }

    def _seed(self, seed: int) -> None:
        # Not torch.manual_seed: for a backend that is not initialized it queues each call with a
        # stack trace. That takes 1 ms a step, and the memory is never released.
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _score(self, scores: Scores, batch: Batch) -> Tensor:
        images, labels = batch
        outputs = self(images)
        if len(labels):  # A short last batch can leave a rank without images.
            scores.update(outputs, labels, loss_of(outputs, labels, self._config.loss))
            self._own_metrics.update(outputs, labels)
        return outputs

    def _log(self, split: str, scores: Scores) -> None:
        loss, accuracy = scores.take()
        # Trackers get the row of metrics.csv instead, at its step: see LogEpochs.
        self.log_dict({f"{split}/loss": loss, f"{split}/acc": accuracy}, logger=False)

    def _log_own(self, split: str) -> None:
        values = self._own_metrics.compute()  # logged as the scores in _log are
        self.log_dict({f"{split}/{name}": value for name, value in values.items()}, logger=False)

    def _agree(self, loss: Tensor) -> None:
        """Refuse a loss or gradients that are not finite, before the update.

        The step waits for the device once. One all-reduce tells every process whether any of them
        has such values, and whether any was asked to stop.
        """
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        finite = torch.isfinite(torch.nn.utils.get_total_norm(gradients, float("inf")))
        wrong = (finite & torch.isfinite(loss.detach())).logical_not()
        self.stop_is_wanted = self._request is not None and self._request.signal is not None
        if self.trainer.world_size > 1:
            wanted = torch.full((), self.stop_is_wanted, device=self.device)
            of_any = torch.stack([wrong, wanted]).to(torch.uint8)
            torch.distributed.all_reduce(of_any, torch.distributed.ReduceOp.MAX)
            is_wrong, self.stop_is_wanted = map(bool, of_any.tolist())
        else:
            is_wrong = bool(wrong.item())
        if is_wrong:
            raise NonFiniteLoss(
                f"the loss is {loss.item()} in step {self.batches_seen + 1}, or its gradient is "
                "not finite"
            )

    def _batches_in_update(self) -> int:
        """Return the number of batches in this update; the last one of an epoch may have fewer."""
        size = self._config.trainer.accumulate_grad_batches
        index = self.batches_seen % self._batches_per_epoch()
        return min(size, self._batches_per_epoch() - index // size * size)

    def _update_is_due(self) -> bool:
        index = self.batches_seen % self._batches_per_epoch()
        accumulated = (index + 1) % self._config.trainer.accumulate_grad_batches == 0
        return accumulated or index + 1 == self._batches_per_epoch()

    def _update(self) -> None:
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        self._schedule(optimizer.param_groups)
        limit = self._config.trainer.gradient_clip_norm
        if limit is not None:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), limit)
        with self._told_as_own():
            optimizer.step()
        optimizer.zero_grad()

    def _told_as_own(self) -> AbstractContextManager[None]:
        """Let an error of a user's own optimizer name its class."""
        own = self._config.optimizer
        is_own = isinstance(own, CustomOptimizerConfig)
        return own_code(own.target, "its step") if is_own else nullcontext()

    def _schedule(self, groups: Sequence[dict[str, Any]]) -> None:
        """Set the learning rates of this update."""
        update, config = self._update_index(), self._config.scheduler
        num_epochs = self._config.trainer.max_epochs
        if not isinstance(config, CustomSchedulerConfig):
            rate = rate_at(config, update, self._updates_per_epoch() * num_epochs)
            for group in groups:
                group["lr"] = group["base_lr"] * rate
            return
        if self._own_schedule is None:
            self._own_schedule = own_schedule(
                config,
                self._targets,
                self.configure_optimizers(),  # anew, with its first learning rates
                self._updates_per_epoch(),
                num_epochs,
            )
        for group, values in zip(groups, self._own_schedule.at(update), strict=True):
            group.update(values)

    def _update_index(self) -> int:
        epoch, index = divmod(self.batches_seen, self._batches_per_epoch())
        accumulated = self._config.trainer.accumulate_grad_batches
        return epoch * self._updates_per_epoch() + index // accumulated

    def _updates_per_epoch(self) -> int:
        return -(-self._batches_per_epoch() // self._config.trainer.accumulate_grad_batches)

    def _batches_per_epoch(self) -> int:
        return int(self.trainer.num_training_batches)
