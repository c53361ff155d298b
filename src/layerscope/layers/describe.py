"""A network and an input shape to the specs of its layers, without computing anything."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.nn.parameter import is_lazy

from layerscope.errors import UserError
from layerscope.layers.calls import CallObserver, track_calls, unwrapped
from layerscope.layers.recorder import SpecRecorder, StandIns
from layerscope.layers.shortcuts import Shortcuts
from layerscope.layers.spec import NetworkSpec, Shape
from layerscope.layers.tensors import tensors_in
from layerscope.layers.untouched import untouched


def describe(
    network: nn.Module,
    input_shape: Shape,
    dtype: torch.dtype | None = None,
    *,
    autocast: torch.dtype | None = None,
    input_requires_grad: bool = False,
    channels_last: bool = False,
) -> NetworkSpec:
    """Every call of a layer, in execution order, in the network's present mode.

    The user's own forward runs on tensors that have a shape and no memory, so that any batch size
    costs the same. The network stays as it was; which parameters require a gradient, their dtypes,
    memory formats and device are its own.

    Args:
        input_shape: (N, C, H, W), or whatever the network takes as its one argument.
        dtype: of the input; that of the network's first floating-point parameter if not given.
        autocast: run under torch.autocast with this dtype.
        channels_last: memory format of the input.

    Raises:
        UserError: the network is compiled or scripted, refuses this shape, or decides by the values
            in a tensor what to compute.
    """
    run = _FakeRun(unwrapped(network), autocast)
    image = run.image(input_shape, dtype, channels_last)
    recorder = SpecRecorder(run.stand_ins, input_requires_grad)
    outputs = run.forward(image, recorder)
    if next(tensors_in(outputs), None) is None:
        name, kind = type(run.network).__name__, type(outputs).__name__
        raise UserError(f"{name} returns {kind}, no tensor: there is nothing to account for")
    spec = recorder.network_spec(outputs, run.device, autocast)
    if not spec.layers:
        name = type(run.network).__name__
        raise UserError(f"{name} runs no layer on this input: there is nothing to account for")
    return spec


def fake_forward(network: nn.Module, input_shape: Shape, dtype: torch.dtype | None = None) -> Any:
    """What the network returns for an input of this shape, as tensors without memory.

    Arguments and errors are those of `describe`.
    """
    run = _FakeRun(unwrapped(network), None)
    return run.forward(run.image(input_shape, dtype, False), CallObserver())


class _FakeRun:
    """A network's forward on tensors without memory."""

    def __init__(self, network: nn.Module, autocast: torch.dtype | None) -> None:
        self.network = network
        self.autocast = autocast
        self.stand_ins = StandIns()
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._shortcuts = Shortcuts(self._fake, self._note_written)
        self.device, self._dtype = _device_and_dtype(network)

    def image(self, shape: Shape, dtype: torch.dtype | None, channels_last: bool) -> torch.Tensor:
        image = self._shortcuts.tensor(shape, dtype or self._dtype, self.device)
        if channels_last and len(shape) == 4:
            with self._fake:
                return image.contiguous(memory_format=torch.channels_last)
        return image

    def forward(self, image: torch.Tensor, observer: CallObserver) -> Any:
        """Grad mode is on, since the forward may ask for it, and no tensor requires a gradient."""
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            untouched(self.network),
            track_calls(self.network, observer, self._shortcuts),
            _quiet(),
            _custom_functions(observer),
            _autocast(self.device, self.autocast),
        ):
            self._put_stand_ins()
            try:
                with self._fake:
                    return self.network(image)
            except Exception as error:  # the user's forward may raise anything
                raise UserError(_refusal(self.network, tuple(image.shape), error)) from error

    def _note_written(self, tensor: torch.Tensor) -> None:
        self.stand_ins.written.add(id(tensor))

    def _put_stand_ins(self) -> None:
        stand_ins: dict[int, torch.Tensor] = {}
        for module in self.network.modules():
            for group in (module._parameters, module._buffers):
                for name, tensor in group.items():
                    if tensor is not None:
                        if id(tensor) not in stand_ins:
                            stand_ins[id(tensor)] = self._stand_in(tensor)
                        group[name] = stand_ins[id(tensor)]  # type: ignore[assignment]

    def _stand_in(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.layout is torch.strided and not tensor.is_quantized and not is_lazy(tensor):
            stand_in = self._shortcuts.tensor(
                tensor.shape, tensor.dtype, tensor.device, tensor.stride()
            )
        else:
            stand_in = self._fake.from_tensor(tensor)
        self.stand_ins.state[id(stand_in)] = stand_in
        self.stand_ins.real[id(stand_in)] = tensor
        return stand_in


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Off without a dtype, whatever the caller has set; the meta device knows no autocast."""
    if device.type == "meta":
        return nullcontext()
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def _refusal(network: nn.Module, shape: Shape, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
        reason = f"it decides by the values in a tensor what to compute ({reason})"
    return (
        f"{type(network).__name__} cannot run on an input of shape {shape}: {reason}: give another "
        "shape, or correct the network"
    )


@contextmanager
def _custom_functions(observer: CallObserver) -> Iterator[None]:
    """Tell the recorder what a custom autograd.Function returns: no mode of torch's sees that."""
    if not isinstance(observer, SpecRecorder):
        yield
        return
    original = vars(torch.autograd.Function)["apply"]

    def apply(cls: type, *args: Any, **kwargs: Any) -> Any:
        output = original.__get__(None, cls)(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            observer.custom_function_ended(output)
        return output

    torch.autograd.Function.apply = classmethod(apply)  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        torch.autograd.Function.apply = original


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the traceback that torch logs when a shape is refused."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _device_and_dtype(network: nn.Module) -> tuple[torch.device, torch.dtype]:
    floating = (parameter for parameter in network.parameters() if parameter.is_floating_point())
    first = next(floating, None)
    return (torch.device("cpu"), torch.float32) if first is None else (first.device, first.dtype)
