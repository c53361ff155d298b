"""One training step of the user's own network: forward, loss, backward; no optimizer."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import torch
from torch import Tensor, nn

from layerscope.base.errors import UserError
from layerscope.layers.calls import unwrapped
from layerscope.layers.preserve_state import preserve_state
from layerscope.layers.tensors import map_tensors, sum_of_outputs, tensors_in

StepPhase = Literal["forward", "loss", "backward"]
_MOST_CHARACTERS = 160  # in the description of a call


def synchronize(device: torch.device) -> None:
    """Wait until a CUDA device has finished its work; other devices have finished already."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _unobserved(phase: StepPhase) -> AbstractContextManager[object]:
    return nullcontext()


@dataclass(frozen=True, eq=False)
class Step:
    """The step that every instrument runs: a network in its present modes, and its arguments.

    The module inside a wrapper (DistributedDataParallel) is used. A graph that a tensor of the call
    already has is not part of the step. The gradient of a tensor that requires one is computed and
    dropped.

    Args:
        args: positional arguments of one call of the network: tensors in any nesting of tuples,
            lists, mappings and dataclasses, and anything else that the network takes.
        kwargs: keyword arguments of the same call.
        autocast: dtype of autocast in the forward pass.
        foreign_leaves: leaves that the loss uses and that are not the network's. Their gradients
            are restored too.
        loss_function: called with what the network returned; the default is the sum of the
            returned floating-point tensors that require a gradient.

    Raises:
        UserError: the network is compiled or scripted.
        TypeError: `args` is no tuple.
    """

    network: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    autocast: torch.dtype | None = None
    loss_function: Callable[[Any], Tensor] | None = None
    foreign_leaves: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "network", unwrapped(self.network))
        if not isinstance(self.args, tuple):
            kind = type(self.args).__name__
            raise TypeError(f"args must be a tuple, not {kind}: for one argument, pass (x,)")

    @property
    def device(self) -> torch.device:
        """The device of the first parameter, else of the call's first tensor; else the CPU."""
        first = next(self.network.parameters(), None)
        if first is None:
            first = next(tensors_in((self.args, self.kwargs)), None)
        return torch.device("cpu") if first is None else first.device

    @property
    def description(self) -> str:
        """The call's arguments in one short line: `(float32(2, 3), mask=bool(2))`."""
        return _described(self.args, self.kwargs)

    def preserve_state(self) -> AbstractContextManager[None]:
        """Restore the network and the gradients of the call's tensors, also after an exception."""
        tensors = (*tensors_in((self.args, self.kwargs)), *self.foreign_leaves)
        return preserve_state(self.network, *tensors, arguments=(*self.args, *self.kwargs.values()))

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments for one run: their tensors are detached and share their memory."""
        args, kwargs = map_tensors((self.args, dict(self.kwargs)), _detached)
        return args, kwargs

    def forward(self) -> Any:
        """Return what the network returns, under autocast if that is set.

        Raises:
            UserError: the network's forward raises, or returns no tensor.
        """
        args, kwargs = self.arguments()
        try:
            with self.precision():
                outputs = self.network(*args, **kwargs)
        except Exception as error:  # the user's forward may raise anything
            raise _refused(
                self.network,
                f"cannot run on {self.description}",
                error,
                "pass arguments with which network(*args, **kwargs) runs",
            ) from error
        if next(tensors_in(outputs), None) is None:
            kind = type(outputs).__name__
            raise UserError(f"{type(self.network).__name__} returns no tensors but {kind}")
        return outputs

    def loss(self, outputs: Any) -> Tensor | None:
        """Return the loss of these outputs; None if it does not depend on anything trainable.

        Raises:
            UserError: the loss function raises, or returns no scalar.
        """
        if self.loss_function is None:
            return sum_of_outputs(outputs)
        try:
            loss = self.loss_function(outputs)
        except Exception as error:  # the user's function may raise anything
            raise _refused(
                self.network,
                f"returned {_described((outputs,), {})}, of which the loss function cannot compute "
                "a loss",
                error,
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            what = _described((loss,), {})[1:-1]
            raise UserError(
                f"the loss function returned no scalar but {what}: return one tensor with one "
                "element, such as a mean"
            )
        return loss if loss.requires_grad else None

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients.

        Raises:
            UserError: a backward of the network raises.
        """
        try:
            loss.backward()
        except Exception as error:  # the user's own autograd functions and hooks run here
            raise _refused(self.network, "cannot run its backward pass", error) from error

    def run(
        self, during: Callable[[StepPhase], AbstractContextManager[object]] = _unobserved
    ) -> Tensor | None:
        """Run forward, loss and backward (if there is one); return the loss, whose graph is spent.

        Nothing else stays alive: a layer's output lives as long as autograd holds it.

        Args:
            during: returns a context for each phase.

        Raises:
            UserError: see `forward`, `loss` and `backward`.
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

    def precision(self) -> AbstractContextManager[object]:
        """Return the autocast context of the forward pass."""
        device = self.device.type
        return torch.autocast(device, self.autocast, enabled=self.autocast is not None)


def _detached(tensor: Tensor) -> Tensor:
    return tensor.detach().requires_grad_(tensor.requires_grad)


def _refused(network: nn.Module, what: str, error: Exception, mend: str = "") -> UserError:
    reason = " ".join(str(error).split()) or type(error).__name__
    message = f"{type(network).__name__} {what}: {reason}"
    return UserError(f"{message}: {mend}" if mend else message)


def _described(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return the tensors of a call in one short line: `(float32(2, 3), lengths=[int64(5)])`.

    What holds no tensor is written as its class, or left out where it is None.
    """
    parts = [
        *(_description(value) for value in args),
        *(f"{name}={_description(value)}" for name, value in kwargs.items() if value is not None),
    ]
    line = f"({', '.join(parts)})"
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 2] + "…)"


def _description(value: Any) -> str:
    if isinstance(value, Tensor):
        shape = ", ".join(map(str, value.shape))
        return f"{str(value.dtype).removeprefix('torch.')}({shape})"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if next(tensors_in(value), None) is None:
        return type(value).__name__
    if isinstance(value, tuple):
        return f"({', '.join(map(_description, value))})"
    if isinstance(value, list):
        return f"[{', '.join(map(_description, value))}]"
    named = ", ".join(f"{name}: {_description(item)}" for name, item in _items(value))
    return f"{{{named}}}"


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()
    else:
        for item in fields(value):
            yield item.name, getattr(value, item.name)
