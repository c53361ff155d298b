"""The allocator's own peak, where the device has one."""

import torch
from torch import nn


class PeakMemory:
    """Peak of the CUDA allocator between `start` and `stop`.

    `peak_bytes` is above what was allocated on the device at the start: parameters, buffers, the
    input, and whatever else lives there (a data set, the optimizer's state). Gradients of an
    earlier step that are still there at the start are the step's own, and count. None for a network
    that is not on a CUDA device, and before `stop`.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._device: torch.device | None = None
        self._before_bytes = 0
        self.peak_bytes: int | None = None

    def start(self) -> None:
        """Forget the peak so far."""
        first = next(self._network.parameters(), None)
        if first is None or first.device.type != "cuda":
            return
        self._device = first.device
        torch.cuda.reset_peak_memory_stats(self._device)
        gradients = [parameter.grad for parameter in self._network.parameters()]
        gradient_bytes = sum(grad.nbytes for grad in gradients if grad is not None)
        self._before_bytes = torch.cuda.memory_allocated(self._device) - gradient_bytes

    def stop(self) -> None:
        """Read the peak since `start`."""
        if self._device is not None:
            peak_bytes = torch.cuda.max_memory_allocated(self._device)
            self.peak_bytes = peak_bytes - self._before_bytes
