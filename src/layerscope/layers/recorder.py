"""Calls of layers, while a network runs on tensors without memory, turned into specs."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from layerscope.layers.calls import Call, CallObserver
from layerscope.layers.geometry import module_geometry, operation_geometry, operation_parameters
from layerscope.layers.names import module_kind, operation_kind
from layerscope.layers.spec import LayerSpec, NetworkSpec, Origin, StorageSpec, TensorSpec
from layerscope.layers.tensors import storages_in, tensors_in


@dataclass
class StandIns:
    """The tensors without memory that a network has in place of its parameters and buffers.

    Args:
        state: the stand-ins, by identity.
        real: what each stands for, by the identity of the stand-in.
        written: identities of tensors that have been overwritten without torch noticing.
    """

    state: dict[int, torch.Tensor] = field(default_factory=dict)
    real: dict[int, torch.Tensor] = field(default_factory=dict)
    written: set[int] = field(default_factory=set)


class _Known:
    """What the recorder knows of a tensor; an attribute of the tensor, so that it goes with it."""

    __slots__ = ("reference", "requires_grad", "storage", "value")

    def __init__(self, storage: int, value: int, requires_grad: bool) -> None:
        self.storage = storage
        self.value = value
        self.requires_grad = requires_grad
        self.reference: weakref.ref[torch.Tensor] | None = None


_KNOWN = "_layerscope"

# Only the first argument is differentiated; the last one lends its shape or type.
_TEMPLATE_LAST = frozenset({"to", "type_as", "view_as", "reshape_as", "expand_as"})

# Their results have no gradient, whatever they were called with.
_WITHOUT_GRADIENT = frozenset(
    {
        "detach",
        *(f"{name}_like" for name in ("empty", "zeros", "ones", "full", "rand", "randn")),
        *(f"new_{name}" for name in ("empty", "zeros", "ones", "full", "tensor")),
    }
)


class SpecRecorder(CallObserver):
    """Turns every call into a spec."""

    def __init__(self, stand_ins: StandIns, input_requires_grad: bool) -> None:
        self._stand_ins = stand_ins
        self._input_requires_grad = input_requires_grad
        self._specs: list[LayerSpec] = []
        self._storages: list[StorageSpec] = []
        self._num_alive: list[int] = []
        self._num_values = 0
        self._num_unseen = 0
        self._inputs: tuple[TensorSpec, ...] = ()
        self._counted: set[int] = set()
        self._versions: dict[int, int] = {}

    def forward_began(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """The input is no layer's."""
        tensors = list(tensors_in((args, kwargs)))
        for tensor in tensors:
            self._know(tensor, "input", self._input_requires_grad)
        self._inputs = self._tensor_specs(tensors)

    def layer_began(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember what may be overwritten."""
        self._stand_ins.written.clear()
        self._versions = {id(tensor): tensor._version for tensor in tensors_in((args, kwargs))}

    def layer_ended(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """One more spec."""
        if output is None:
            return
        state = self._stand_ins.state
        given = list(tensors_in((args, kwargs)))
        for tensor in given:
            if not hasattr(tensor, _KNOWN):
                self._know_stranger(tensor)
        # a table that the network keeps as a buffer may be all that a layer is given
        inputs = [tensor for tensor in given if id(tensor) not in state]
        parameters, buffers = self._own_state(call, args, kwargs)
        kind = _kind(call)
        outputs = list(tensors_in(output))
        before = self._tensor_specs(inputs)
        arguments = before if len(inputs) == len(given) else self._tensor_specs(given)
        self._know_outputs(kind, outputs, [*given, *parameters.values()])
        written = [tensor for tensor in given if self._is_written(tensor)]
        in_place = any(_shares(tensor, written) for tensor in outputs)
        given_storages = {getattr(tensor, _KNOWN).storage for tensor in given}
        fresh = [t for t in [*parameters.values(), *buffers] if id(t) not in self._counted]
        self._counted.update(map(id, fresh))
        new_parameters = [tensor for tensor in fresh if self._is_parameter(tensor)]
        new_buffers = [tensor for tensor in fresh if not self._is_parameter(tensor)]
        self._specs.append(
            LayerSpec(
                key=call.key,
                kind=kind,
                inputs=before or arguments,
                arguments=arguments,
                outputs=self._tensor_specs(outputs),
                parameters=MappingProxyType(
                    {name: self._tensor_spec(tensor) for name, tensor in parameters.items()}
                ),
                num_parameters=sum(tensor.numel() for tensor in new_parameters),
                parameter_bytes=sum(tensor.nbytes for tensor in new_parameters),
                num_buffer_elements=sum(tensor.numel() for tensor in new_buffers),
                buffer_bytes=sum(tensor.nbytes for tensor in new_buffers),
                geometry=_geometry(call, kind, args, kwargs),
                in_place=in_place,
                is_view=not in_place
                and all(getattr(t, _KNOWN).storage in given_storages for t in outputs),
            )
        )

    def custom_function_ended(self, output: Any) -> None:
        """A custom autograd.Function returned: what its backward does is not known."""
        for tensor in tensors_in(output):
            self._num_unseen += 1
            if not hasattr(tensor, _KNOWN):
                self._know(tensor, "unseen", False)
            known: _Known = getattr(tensor, _KNOWN)
            known.value = self._new_value()
            known.requires_grad = torch.is_grad_enabled() and tensor.is_floating_point()

    def network_spec(
        self, outputs: Any, device: torch.device, autocast: torch.dtype | None
    ) -> NetworkSpec:
        """Everything recorded, once the network has returned `outputs`."""
        kept = list(tensors_in(outputs))
        for tensor in kept:
            if not hasattr(tensor, _KNOWN):
                self._know_stranger(tensor)
        unused = [t for t in self._stand_ins.state.values() if id(t) not in self._counted]
        parameters = [tensor for tensor in unused if self._is_parameter(tensor)]
        buffers = [tensor for tensor in unused if not self._is_parameter(tensor)]
        specs = self._tensor_specs(kept)
        for tensor in kept:
            self._storages[getattr(tensor, _KNOWN).storage].released = None
        storages = tuple(self._storages)
        self._num_alive = [-1] * len(storages)  # what is let go of from here on is no matter
        return NetworkSpec(
            layers=tuple(self._specs),
            storages=storages,
            inputs=self._inputs,
            outputs=specs,
            device=device,
            autocast=autocast,
            num_unseen=self._num_unseen,
            unused_parameters=sum(tensor.numel() for tensor in parameters),
            unused_parameter_bytes=sum(tensor.nbytes for tensor in parameters),
            unused_buffer_bytes=sum(tensor.nbytes for tensor in buffers),
        )

    def _own_state(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
        """Parameters by name, and buffers: a module's own, or among an operation's arguments."""
        named: Iterable[tuple[str, torch.Tensor]]
        if call.operation is None:
            named = _module_state(call.module)
        else:
            named = operation_parameters(operation_kind(call.operation), args, kwargs)
            named = [
                (name, tensor) for name, tensor in named if id(tensor) in self._stand_ins.state
            ]
        parameters: dict[str, torch.Tensor] = {}
        buffers: list[torch.Tensor] = []
        for name, tensor in named:
            if not hasattr(tensor, _KNOWN):
                self._know_stranger(tensor)
            if self._is_parameter(tensor):
                parameters[name] = tensor
            else:
                buffers.append(tensor)
        return parameters, buffers

    def _is_parameter(self, tensor: torch.Tensor) -> bool:
        return isinstance(self._stand_ins.real.get(id(tensor)), nn.Parameter)

    def _is_written(self, tensor: torch.Tensor) -> bool:
        identity = id(tensor)
        return identity in self._stand_ins.written or tensor._version != self._versions[identity]

    def _know_stranger(self, tensor: torch.Tensor) -> None:
        """A tensor that no layer returned: the network's state, or a constant."""
        real = self._stand_ins.real.get(id(tensor))
        if real is None and isinstance(tensor, FakeTensor):  # made in this forward, by no layer
            self._num_unseen += 1
            self._know(tensor, "unseen", torch.is_grad_enabled() and tensor.is_floating_point())
        elif real is None:
            self._know(tensor, "constant", False)
        elif isinstance(real, nn.Parameter):
            self._know(tensor, "parameter", real.requires_grad)
        else:
            self._know(tensor, "buffer", real.requires_grad)

    def _know_outputs(
        self, kind: str, outputs: list[torch.Tensor], given: list[torch.Tensor]
    ) -> None:
        sources = given[:1] if kind in _TEMPLATE_LAST else given
        requires_grad = (
            kind not in _WITHOUT_GRADIENT
            and torch.is_grad_enabled()
            and any(getattr(tensor, _KNOWN).requires_grad for tensor in sources)
        )
        by_memory = {
            storage: getattr(tensor, _KNOWN).storage
            for tensor in given
            for storage in storages_in(tensor)
        }
        for tensor in outputs:
            differentiable = tensor.is_floating_point() or tensor.is_complex()
            known = getattr(tensor, _KNOWN, None)
            if known is not None:
                if id(tensor) in self._versions and self._is_written(tensor):
                    known.requires_grad |= requires_grad
                    known.value = self._new_value()
                continue
            memory = next(iter(storages_in(tensor)), None)
            self._know(
                tensor,
                "layer",
                requires_grad and differentiable,
                by_memory.get(memory),  # type: ignore[arg-type]
            )
            if memory is not None:
                by_memory.setdefault(memory, getattr(tensor, _KNOWN).storage)

    def _know(
        self,
        tensor: torch.Tensor,
        origin: Origin,
        requires_grad: bool,
        storage: int | None = None,
    ) -> None:
        if storage is None:
            storage = len(self._storages)
            call = len(self._specs) if origin == "layer" else None
            self._storages.append(StorageSpec(_storage_bytes(tensor), origin, call))
            self._num_alive.append(0)
        self._num_alive[storage] += 1
        known = _Known(storage, self._new_value(), requires_grad)
        known.reference = weakref.ref(tensor, self._forgetter(storage))
        setattr(tensor, _KNOWN, known)

    def _new_value(self) -> int:
        self._num_values += 1
        return self._num_values

    def _forgetter(self, storage: int) -> Callable[[Any], None]:
        return lambda _: self._forget(storage)

    def _forget(self, storage: int) -> None:
        self._num_alive[storage] -= 1
        if self._num_alive[storage] == 0:
            self._storages[storage].released = len(self._specs)

    def _tensor_specs(self, tensors: Iterable[torch.Tensor]) -> tuple[TensorSpec, ...]:
        return tuple(self._tensor_spec(tensor) for tensor in tensors)

    def _tensor_spec(self, tensor: torch.Tensor) -> TensorSpec:
        known: _Known = getattr(tensor, _KNOWN)
        strides = tensor.stride() if tensor.layout is torch.strided else ()
        return TensorSpec(
            tuple(tensor.shape),
            strides,
            tensor.dtype,
            known.storage,
            known.value,
            known.requires_grad,
        )


def _module_state(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    if not module._modules:  # most layers: without the machinery of named_parameters()
        for group in (module._parameters, module._buffers):
            yield from ((name, tensor) for name, tensor in group.items() if tensor is not None)
        return
    yield from module.named_parameters()
    yield from module.named_buffers()


def _shares(tensor: torch.Tensor, others: list[torch.Tensor]) -> bool:
    storage = getattr(tensor, _KNOWN).storage
    return any(getattr(other, _KNOWN).storage == storage for other in others)


def _storage_bytes(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().nbytes() if tensor.layout is torch.strided else 0


def _kind(call: Call) -> str:
    return module_kind(call.module) if call.operation is None else operation_kind(call.operation)


def _geometry(
    call: Call, kind: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Mapping[str, Any]:
    if call.operation is None or call.is_wrapped:
        return module_geometry(kind, call.module)
    return operation_geometry(kind, args, kwargs)
