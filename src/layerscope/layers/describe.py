"""A network and an input shape to the specs of its layers, without computing anything."""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from layerscope.errors import UserError
from layerscope.layers.calls import Call, CallObserver, track_calls, unwrapped
from layerscope.layers.geometry import module_geometry, operation_geometry
from layerscope.layers.names import module_kind, operation_kind
from layerscope.layers.spec import LayerSpec, Shape
from layerscope.layers.tensors import storages_in, tensors_in
from layerscope.layers.untouched import untouched


def describe(
    network: nn.Module, input_shape: Shape, dtype: torch.dtype | None = None
) -> tuple[LayerSpec, ...]:
    """One spec per call of a layer, in execution order, in the network's present mode.

    The user's own forward runs on tensors that have a shape and no memory, so that any batch size
    costs the same. The network stays as it was.

    Args:
        input_shape: (N, C, H, W), or whatever the network takes as its one argument.
        dtype: of the input; that of the network's first floating-point parameter if not given.

    Raises:
        UserError: the network is compiled or scripted, refuses this shape, or decides by the values
            in a tensor what to compute.
    """
    recorder = _SpecRecorder()
    fake_forward(network, input_shape, dtype, recorder)
    return tuple(recorder.specs)


def fake_forward(
    network: nn.Module,
    input_shape: Shape,
    dtype: torch.dtype | None = None,
    observer: "_SpecRecorder | None" = None,
) -> Any:
    """What the network returns for an input of this shape, as tensors without memory.

    Arguments and errors are those of `describe`.
    """
    network = unwrapped(network)
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    state: dict[str, torch.Tensor] = {
        name: fake.from_tensor(tensor)
        for name, tensor in [*network.named_parameters(), *network.named_buffers()]
    }
    device, default_dtype = _device_and_dtype(network)
    if observer is not None:
        observer.start(state.values())
    with untouched(network), torch.no_grad(), track_calls(network, observer), _quiet():
        with fake:
            image = torch.empty(input_shape, dtype=dtype or default_dtype, device=device)
        return _run(network, state, fake, image)


def _run(
    network: nn.Module, state: dict[str, torch.Tensor], fake: FakeTensorMode, image: torch.Tensor
) -> Any:
    try:
        with fake:
            return functional_call(network, state, (image,))
    except Exception as error:  # the user's forward may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        shape = tuple(image.shape)
        raise UserError(
            f"{type(network).__name__} cannot run on an input of shape {shape}: {reason}"
        ) from error


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


class _SpecRecorder(CallObserver):
    """Turns every call into a spec."""

    def __init__(self) -> None:
        self.specs: list[LayerSpec] = []
        self._state: dict[int, torch.Tensor] = {}
        self._counted: set[int] = set()
        self._versions: dict[int, int] = {}

    def start(self, state: Iterable[torch.Tensor]) -> None:
        """The network's parameters and buffers, as the forward pass will see them."""
        self._state = {id(tensor): tensor for tensor in state}

    def layer_began(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._versions = {id(tensor): tensor._version for tensor in tensors_in((args, kwargs))}

    def layer_ended(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if output is None:
            return
        given = list(tensors_in((args, kwargs)))
        # a table that the network keeps as a buffer may be all that a layer is given
        inputs = [tensor for tensor in given if id(tensor) not in self._state] or given
        written = [tensor for tensor in inputs if tensor._version != self._versions[id(tensor)]]
        outputs = storages_in(output).keys()
        in_place = not outputs.isdisjoint(storages_in(written))
        kind = _kind(call)
        own = self._own_state(call, given)
        parameters = [tensor for tensor in own if isinstance(tensor, nn.Parameter)]
        buffers = [tensor for tensor in own if not isinstance(tensor, nn.Parameter)]
        self.specs.append(
            LayerSpec(
                key=call.key,
                kind=kind,
                input_shapes=_shapes(inputs),
                output_shapes=_shapes(tensors_in(output)),
                num_parameters=sum(tensor.numel() for tensor in parameters),
                num_buffer_elements=sum(tensor.numel() for tensor in buffers),
                buffer_bytes=sum(tensor.nbytes for tensor in buffers),
                geometry=_geometry(call, kind, args, kwargs),
                in_place=in_place,
                is_view=not in_place and outputs <= storages_in(given).keys(),
            )
        )

    def _own_state(self, call: Call, given: list[torch.Tensor]) -> list[torch.Tensor]:
        """What no earlier call had: a module's parameters and buffers, an operation's arguments."""
        if call.operation is None:
            tensors = [*call.module.parameters(), *call.module.buffers()]
        else:
            tensors = [tensor for tensor in given if id(tensor) in self._state]
        new = {id(tensor): tensor for tensor in tensors if id(tensor) not in self._counted}
        self._counted |= new.keys()
        return list(new.values())


def _kind(call: Call) -> str:
    return module_kind(call.module) if call.operation is None else operation_kind(call.operation)


def _geometry(call: Call, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if call.operation is None or call.is_wrapped:
        return module_geometry(kind, call.module)
    return operation_geometry(kind, args, kwargs)


def _shapes(tensors: Iterable[torch.Tensor]) -> tuple[Shape, ...]:
    return tuple(tuple(tensor.shape) for tensor in tensors)
