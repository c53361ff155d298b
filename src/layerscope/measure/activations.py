"""What a network's layers allocate, and what autograd keeps of it when the forward pass ends.

    with record_activations(network) as recorder:
        loss = criterion(network(images), labels)
        loss.backward()
    print(recorder.record.saved_bytes)

`saved_bytes` counts storages, not tensors: a storage that two operations keep, or one tensor and a
view of it, counts once, for the layer whose call allocated it. Left out are parameters, buffers,
the network's input, the labels, and whatever is allocated outside of the network's forward, so by
the loss. What only the loss keeps but a layer allocated counts.
"""

import weakref
from dataclasses import dataclass
from itertools import accumulate
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from layerscope.layers.calls import Call, CallObserver, track_calls
from layerscope.layers.tensors import storages_in, tensors_in
from layerscope.measure.storage_owners import StorageOwners


@dataclass(frozen=True)
class LayerActivations:
    """One layer, all its calls summed.

    Args:
        output_bytes: new storages that the layer returned; 0 for a view and for an in-place result.
        saved_bytes: what autograd holds of the layer's allocations when the forward pass ends.
        cumulative_saved_bytes: `saved_bytes` of this layer and of all before it.
        output_elements: of all tensors that the layer returned, views too.
        num_parameters: elements of the parameters that this layer is the first to have.
        parameter_bytes: of these.
        buffer_bytes: likewise of its buffers.
    """

    layer: str
    num_calls: int
    output_bytes: int
    saved_bytes: int
    cumulative_saved_bytes: int
    output_elements: int
    num_parameters: int
    parameter_bytes: int
    buffer_bytes: int


@dataclass(frozen=True)
class ActivationRecord:
    """The layers in the order of their first calls, and what belongs to none of them.

    Args:
        input_bytes: of the tensors that the network was called with; in no other total.
        peak_bytes: see `_PeakMemory`; None where the device does not report it.
    """

    layers: tuple[LayerActivations, ...]
    input_bytes: int
    peak_bytes: int | None

    @property
    def output_bytes(self) -> int:
        """Of all layers; without the input, without the loss."""
        return sum(layer.output_bytes for layer in self.layers)

    @property
    def saved_bytes(self) -> int:
        """Of all layers; without the input, without the loss."""
        return sum(layer.saved_bytes for layer in self.layers)


def record_activations(network: nn.Module) -> "ActivationRecorder":
    """Record every call of the network in the `with` block, as one forward pass.

    The block holds the forward pass and the loss; backward and optimizer step may follow inside it
    and must for `peak_bytes` to be the step's. The forward pass ends at `finish()`, at the first
    saved tensor that backward reads, or with the block, whichever comes first. A graph that is
    dropped before holds nothing, so keep the loss (or the output) until then.

    Nothing is computed otherwise than without the recorder, and nothing stays on the network. A
    wrapper (DistributedDataParallel) is looked through.

    Raises:
        UserError: a compiled or scripted network.
    """
    return ActivationRecorder(network)


class _SavedHandle:
    """What autograd holds in place of a tensor; as long as it lives, the tensor is kept."""

    __slots__ = ("__weakref__", "key", "tensor", "version")

    def __init__(self, tensor: torch.Tensor, version: int, key: str | None) -> None:
        self.tensor = tensor
        self.version = version
        self.key = key


def detached(tensor: torch.Tensor) -> torch.Tensor:
    """Return `tensor.detach()` for an instrument to hold."""
    if type(tensor) not in (torch.Tensor, nn.Parameter):
        return tensor.detach()
    with torch._C._DisableTorchDispatch():  # spares the modes an operation of the instrument's own
        return tensor.detach()


@dataclass
class _LayerSums:
    num_calls: int = 0
    output_bytes: int = 0
    output_elements: int = 0
    num_parameters: int = 0
    parameter_bytes: int = 0
    buffer_bytes: int = 0


class ActivationRecorder(CallObserver):
    """Made by `record_activations`."""

    def __init__(self, network: nn.Module) -> None:
        self.tracker = track_calls(network, self)
        self._owners = StorageOwners(self.tracker)
        self._state = _LayerState(self.tracker.network)
        self._peak = _PeakMemory(self.tracker.network)
        self._hooks = saved_tensors_hooks(self._pack, self._unpack)
        self._saved: weakref.WeakSet[_SavedHandle] = weakref.WeakSet()
        self._rows: dict[str, _LayerSums] = {}
        self._input_bytes = 0
        self._saved_bytes: dict[str, int] | None = None
        self._active = False
        self._has_run = False

    @property
    def record(self) -> ActivationRecord:
        """What was recorded, once the forward pass has ended; `peak_bytes` once the block has.

        Raises:
            RuntimeError: the forward pass has not ended, or there was none.
        """
        if self._saved_bytes is None:
            raise RuntimeError("the record is there after finish() or after the block, not before")
        if not self._has_run:
            name = type(self.tracker.network).__name__
            raise RuntimeError(
                f"no forward of the recorded {name} ran in the block: call that very module there"
            )
        saved = {key: self._saved_bytes.get(key, 0) for key in self._rows}
        cumulative = accumulate(saved.values())
        layers = tuple(
            LayerActivations(
                layer=key,
                num_calls=row.num_calls,
                output_bytes=row.output_bytes,
                saved_bytes=saved[key],
                cumulative_saved_bytes=total,
                output_elements=row.output_elements,
                num_parameters=row.num_parameters,
                parameter_bytes=row.parameter_bytes,
                buffer_bytes=row.buffer_bytes,
            )
            for (key, row), total in zip(self._rows.items(), cumulative, strict=True)
        )
        return ActivationRecord(layers, self._input_bytes, self._peak.peak_bytes)

    def __enter__(self) -> "ActivationRecorder":
        self._peak.start()
        self.tracker.__enter__()
        self._hooks.__enter__()
        self._active = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if error is None:
            self._read()
            self._peak.stop()
        self._detach()

    def finish(self) -> ActivationRecord:
        """End the forward pass: take every hook off and return the record.

        Raises:
            RuntimeError: no forward of the network ran.
        """
        self._read()
        self._detach()
        return self.record

    def forward_began(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start to note who allocates what."""
        self._has_run = True
        self._input_bytes += sum(tensor.nbytes for tensor in tensors_in((args, kwargs)))
        self._state.forward_began()
        network = self.tracker.network
        self._owners.leave_out((args, kwargs, [*network.parameters(), *network.buffers()]))
        self._owners.__enter__()

    def forward_ended(self) -> None:
        """The loss's allocations are nobody's."""
        self._owners.__exit__(None, None, None)

    def layer_ended(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Count what the call returned and allocated, and the parameters and buffers it has."""
        if output is None:
            return
        row = self._rows.setdefault(call.key, _LayerSums())
        row.num_calls += 1
        row.output_elements += sum(tensor.numel() for tensor in tensors_in(output))
        for tensor in self._state.first_seen(call, args, kwargs):
            if isinstance(tensor, nn.Parameter):
                row.num_parameters += tensor.numel()
                row.parameter_bytes += tensor.nbytes
            else:
                row.buffer_bytes += tensor.nbytes
        row.output_bytes += sum(
            storage.nbytes()
            for identity, storage in storages_in(output).items()
            if self._owners.allocated_by(identity, call)
        )

    def _pack(self, tensor: torch.Tensor) -> _SavedHandle:
        key = self.tracker.current_key
        with self._owners.paused(), torch._C.DisableTorchFunction():
            self._owners.adopt_autocast_copy(tensor, key)
            saved = _SavedHandle(detached(tensor), tensor._version, key)
        if self._saved_bytes is None:
            self._saved.add(saved)
        return saved

    def _unpack(self, saved: _SavedHandle) -> torch.Tensor:
        self._read()
        if saved.tensor._version != saved.version:  # autograd leaves this check to the hooks
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an "
                f"inplace operation: a tensor of shape {tuple(saved.tensor.shape)} saved by "
                f"{saved.key or 'the loss'} is at version {saved.tensor._version}; expected "
                f"version {saved.version} instead"
            )
        return saved.tensor

    def _read(self) -> None:
        """Sum what is held now; the first reading stands."""
        if self._saved_bytes is not None:
            return
        self._saved_bytes = {}
        seen: set[int] = set()
        for saved in self._saved:
            for identity, storage in storages_in(saved.tensor).items():
                key = self._owners.owner_of(identity, saved.key)
                if identity not in seen and key is not None:
                    seen.add(identity)
                    self._rows.setdefault(key, _LayerSums())
                    total = self._saved_bytes.get(key, 0) + storage.nbytes()
                    self._saved_bytes[key] = total
        self._saved.clear()

    def _detach(self) -> None:
        if self._active:
            self._active = False
            self._hooks.__exit__(None, None, None)
            self.tracker.__exit__()
            self._owners.forget()


class _LayerState:
    """Gives every parameter and buffer of the network to the first layer that has it.

    A module has its own; an operation those among its arguments.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._known: dict[int, torch.Tensor] = {}
        self._given: dict[int, torch.Tensor] = {}  # holds the tensors, so that no id is used again

    def forward_began(self) -> None:
        """Buffers may be others than in the forward before."""
        tensors = [*self._network.parameters(), *self._network.buffers()]
        self._known = {id(tensor): tensor for tensor in tensors}

    def first_seen(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[torch.Tensor]:
        """What this call has and no call before it had."""
        if call.operation is None:
            tensors = [*call.module.parameters(), *call.module.buffers()]
        else:
            tensors = [tensor for tensor in tensors_in((args, kwargs)) if id(tensor) in self._known]
        new = {id(tensor): tensor for tensor in tensors if id(tensor) not in self._given}
        self._given.update(new)
        return list(new.values())


class _PeakMemory:
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
