"""Lightning's DDP strategy, with sums and buffers that do not depend on a resume."""

from typing import Literal

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DDPStrategy

# Lightning has no public hook between DDP's forward and its end: see _SharingBuffers.
from lightning.pytorch.strategies.ddp import _DDPForwardRedirection
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.futures import Future, collect_all
from torch.nn.parallel import DistributedDataParallel

from layerscope.training.processes.scripts import Scripts
from layerscope.training.processes.spawned import Spawned
from layerscope.training.stop_request import StopRequest

# How the other processes start: by running the script again, or as new processes of this one.
START_METHODS: dict[str, Literal["popen", "spawn", "fork"]] = {"ddp": "popen", "ddp_spawn": "spawn"}


class Processes(DDPStrategy):
    """The strategy for `trainer.strategy` ddp and ddp_spawn.

    Args:
        some_outputs_unused: the loss does not depend on every parameter.
        request: handles signals while the processes start; then each process has its own.
    """

    def __init__(self, strategy: str, some_outputs_unused: bool, request: StopRequest) -> None:
        super().__init__(
            start_method=START_METHODS[strategy],  # type: ignore[arg-type]
            find_unused_parameters=some_outputs_unused,
        )
        self._request = request
        self._forward_redirection = _SharingBuffers()

    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        if self._start_method == "popen":
            self._launcher = Scripts(self.cluster_environment, self.num_processes, self._request)
        else:
            self._launcher = Spawned(self, self._start_method, self._request)  # type: ignore[arg-type]

    def _register_ddp_hooks(self) -> None:
        assert isinstance(self.model, DistributedDataParallel)
        if self.num_processes > 2:  # A sum of two numbers has only one order.
            self.model.register_comm_hook(None, _add_up_each)


def _add_up_each(state: None, bucket: GradBucket) -> Future[Tensor]:
    """All-reduce each gradient alone.

    The place of a number in a buffer decides the order in which it is summed. DDP fills its buckets
    differently in the first step after a start, so bucketed sums would change the last bit after a
    resume.
    """
    gradients = bucket.buffer().div_(dist.get_world_size())
    added = [dist.all_reduce(part, async_op=True) for part in bucket.gradients()]
    return collect_all([work.get_future() for work in added]).then(lambda _: gradients)


class _SharingBuffers(_DDPForwardRedirection):
    """Lets DDP copy the first process's buffers to all before each step and each validation.

    DDP syncs buffers itself, except when backward ran inside the step, as ours does.
    """

    def on_after_outer_forward(
        self, wrapper_module: nn.Module, original_module: LightningModule
    ) -> None:
        super().on_after_outer_forward(wrapper_module, original_module)
        if isinstance(wrapper_module, DistributedDataParallel) and torch.is_grad_enabled():
            wrapper_module.require_forward_param_sync = True
