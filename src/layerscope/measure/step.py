"""One training step of the user's own network: forward, loss, backward; no optimizer."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import torch
from torch import nn

from layerscope.errors import UserError
from layerscope.layers.calls import unwrapped
from layerscope.layers.tensors import tensors_in
from layerscope.layers.untouched import untouched

Phase = Literal["forward", "loss", "backward"]


def _unobserved(phase: Phase) -> AbstractContextManager[object]:
    return nullcontext()


@dataclass(frozen=True)
class Step:
    """What every instrument runs: this network, in its present modes, on this image.

    A wrapper (DistributedDataParallel) is looked through. The image's own graph, if it has one, is
    not part of the step; its gradient is computed where it requires one, and dropped.

    Args:
        autocast: the dtype of autocast in the forward pass.

    Raises:
        UserError: a compiled or scripted network.
    """

    network: nn.Module
    image: torch.Tensor
    autocast: torch.dtype | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", unwrapped(self.network))

    def untouched(self) -> AbstractContextManager[None]:
        """The network and the image are afterwards as they are now, also after an exception."""
        return untouched(self.network, self.image)

    def forward(self) -> Any:
        """What the network returns, under autocast if that is set.

        Raises:
            UserError: the network's forward raises, or returns no tensor.
        """
        image = self.image.detach().requires_grad_(self.image.requires_grad)
        try:
            with self._precision():
                outputs = self.network(image)
        except Exception as error:  # the user's forward may raise anything
            shape = tuple(self.image.shape)
            raise _refused(
                self.network, f"cannot run on an input of shape {shape}", error
            ) from error
        if next(tensors_in(outputs), None) is None:
            kind = type(outputs).__name__
            raise UserError(f"{type(self.network).__name__} returns no tensors but {kind}")
        return outputs

    def loss(self, outputs: Any) -> torch.Tensor | None:
        """The sum of all floating-point outputs that require a gradient; None if none does."""
        tensors = [
            tensor
            for tensor in tensors_in(outputs)
            if tensor.is_floating_point() and tensor.requires_grad
        ]
        return reduce(torch.add, [tensor.sum() for tensor in tensors]) if tensors else None

    def backward(self, loss: torch.Tensor) -> None:
        """Compute the gradients.

        Raises:
            UserError: a backward of the network raises.
        """
        try:
            loss.backward()
        except Exception as error:  # the user's own autograd functions and hooks run here
            raise _refused(self.network, "cannot run its backward pass", error) from error

    def run(
        self, during: Callable[[Phase], AbstractContextManager[object]] = _unobserved
    ) -> torch.Tensor | None:
        """Forward, loss, backward (if there is one); the loss, whose graph is spent.

        Nothing else is kept alive: a layer's output lives as long as autograd holds it.

        Args:
            during: entered around each phase.

        Raises:
            UserError: see `forward` and `backward`.
        """
        with during("forward"):
            outputs = self.forward()
        with during("loss"):
            loss = self.loss(outputs)
            del outputs
        if loss is not None:
            with during("backward"):
                self.backward(loss)
        return loss

    def _precision(self) -> AbstractContextManager[object]:
        device = self.image.device.type
        return torch.autocast(device, self.autocast, enabled=self.autocast is not None)


def _refused(network: nn.Module, what: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{type(network).__name__} {what}: {reason}")
