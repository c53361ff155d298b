"""The bytes that a network's layers allocate, and that autograd has saved after the forward pass.

    with record_activations(network) as recorder:
        loss = criterion(network(images), labels)
        loss.backward()
    print(recorder.record.saved_bytes)

`saved_bytes` counts storages, not tensors. A storage that is saved twice, by two operations or
as two views, counts once, for the layer whose call allocated it. Left out are parameters, buffers,
the network's input, the labels, and everything allocated outside of the network's forward, such as
by the loss. What a layer allocated and only the loss saves does count.
"""

import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from layerscope.base.errors import UserError
from layerscope.layers.calls import (
    Call,
    CallObserver,
    class_name,
    require_module,
    track_calls,
)
from layerscope.layers.tensors import storages_in, tensors_in
from layerscope.measure.storage_owners import StorageOwners


@dataclass(frozen=True)
class LayerActivations:
    """One layer, all its calls summed.

    Args:
        output_bytes: new storages that the layer returned; 0 for a view and for an in-place result.
        saved_bytes: bytes of the layer's allocations that autograd holds after the forward pass.
        cumulative_saved_bytes: `saved_bytes` of this layer and of all before it.
        output_elements: elements of all tensors that the layer returned, including views.
        num_parameters: elements of the parameters that no earlier layer has.
        parameter_bytes: bytes of these parameters.
        buffer_bytes: bytes of the buffers that no earlier layer has.
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
    """The layers in the order of their first calls, the input and the peak.

    Args:
        input_bytes: bytes of the tensors that the network was called with; in no other total.
        peak_bytes: see `_PeakMemory`; None if the device does not report it.
    """

    layers: tuple[LayerActivations, ...]
    input_bytes: int
    peak_bytes: int | None

    @property
    def output_bytes(self) -> int:
        """Bytes of the outputs of all layers, without the input and the loss."""
        return sum(layer.output_bytes for layer in self.layers)

    @property
    def saved_bytes(self) -> int:
        """Bytes saved for backward by all layers, without the input and the loss."""
        return sum(layer.saved_bytes for layer in self.layers)


def record_activations(module: nn.Module) -> "ActivationRecorder":
    """Record every call of the module in the `with` block, as one forward pass.

    The block must contain the forward pass and the loss. Backward and optimizer step may follow
    inside it; they must, for `peak_bytes` to be the peak of the step. The forward pass ends at
    `finish()`, at the first saved tensor that backward reads, or with the block, whichever comes
    first. Keep the loss (or the output) until then: without it the graph is freed, and nothing is
    saved. A forward under `torch.no_grad()` saves 0 bytes.

    The recorder changes no result, and leaves nothing on the module. The module may be a part of a
    bigger network, which is then the one to call. Of a wrapper such as DistributedDataParallel the
    module inside is recorded.

    Raises:
        UserError: the module is none, or it is compiled or scripted.
    """
    require_module(module)
    return ActivationRecorder(module, needs_graph=True)


# torch calls only the innermost pair of saved-tensor hooks, so one recorder works at a time.
_running = threading.local()


class _SavedHandle:
    """The object that autograd holds in place of a saved tensor; while it lives, it is saved."""

    __slots__ = ("__weakref__", "key", "tensor", "version")

    def __init__(self, tensor: torch.Tensor, version: int, key: str | None) -> None:
        self.tensor = tensor
        self.version = version
        self.key = key


def detached(tensor: torch.Tensor) -> torch.Tensor:
    """Return `tensor.detach()` for an instrument to hold."""
    if type(tensor) not in (torch.Tensor, nn.Parameter):
        return tensor.detach()
    with torch._C._DisableTorchDispatch():  # No mode should see an operation of the instrument.
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
    """Records one forward pass; see `record_activations`.

    Args:
        is_forward: tells whether a call of this module, outside of any other, belongs to the
            forward pass; default: of the network itself. What such modules give each other is no
            input.
        needs_graph: refuse a record of saved bytes that nobody holds any more.

    Raises:
        UserError: the network is compiled or scripted.
    """

    def __init__(
        self,
        network: nn.Module,
        is_forward: Callable[[nn.Module], bool] | None = None,
        needs_graph: bool = False,
    ) -> None:
        self.tracker = track_calls(network, self, is_forward=is_forward)
        self._has_parts = is_forward is not None
        self._needs_graph = needs_graph
        self._owners = StorageOwners(self.tracker)
        self._state = _LayerState(self.tracker.network)
        self._peak = _PeakMemory(self.tracker.network)
        self._hooks = saved_tensors_hooks(self._pack, self._unpack)
        self._saved: weakref.WeakSet[_SavedHandle] = weakref.WeakSet()
        self._rows: dict[str, _LayerSums] = {}
        self._input_bytes = 0
        self._saved_bytes: dict[str, int] | None = None
        self._was_entered = False
        self._active = False
        self._has_run = False
        self._in_forward = False
        self._has_packed = False  # autograd has saved something
        self._is_held = False  # and still held some of it when the forward pass ended
        self._error_before: BaseException | None = None
        self._failure = ""  # why a record would not be of a whole forward pass

    @property
    def record(self) -> ActivationRecord:
        """The record, once the forward pass has ended; `peak_bytes` once the block has ended.

        Raises:
            UserError: there is none; see `why_no_record`.
        """
        if why := self.why_no_record:
            raise UserError(why)
        assert self._saved_bytes is not None
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

    @property
    def why_no_record(self) -> str:
        """Cause and mend in one line, where there is no record; else an empty text."""
        name = class_name(self.tracker.network)
        if not self._was_entered:
            return (
                "the recorder has recorded nothing: run the forward pass and the loss inside "
                "`with record_activations(module) as recorder:`"
            )
        if self._saved_bytes is None and not self._failure:
            return "the record exists only after finish() or after the block: ask for it then"
        if self._failure:
            return self._failure
        if not self._has_run:
            return (
                f"no forward of the recorded {name} ran in the block: call that very module there, "
                "or the network that contains it, and no copy or compiled one"
            )
        if self._needs_graph and self._has_packed and not self._is_held:
            return (
                f"nothing that autograd saved in the forward of {name} is held at the end of the "
                "block: keep the loss until then, or call finish() right after it; without a "
                "backward pass, record under torch.no_grad()"
            )
        return ""

    @property
    def has_run(self) -> bool:
        """Tell whether a forward of the network has begun."""
        return self._has_run

    def __enter__(self) -> "ActivationRecorder":
        """Start to record.

        Raises:
            UserError: another recorder is at work in this thread, or this one was.
        """
        if self._was_entered:
            raise UserError("a recorder serves one block: make another, record_activations(module)")
        if getattr(_running, "recorder", None) is not None:
            raise UserError(
                "another recorder is at work, and torch tells only one what autograd saves: record "
                "a module that contains both, or one after the other"
            )
        self._was_entered = True
        self._peak.start()
        self.tracker.__enter__()
        self._hooks.__enter__()
        self._active = True
        _running.recorder = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        if error is None:
            self._end()
            self._peak.stop()
        elif self._saved_bytes is None:
            self._failure = (
                f"the block ended in {type(error).__name__} before its forward pass did: record "
                "one that runs through"
            )
        self._detach()

    def finish(self) -> ActivationRecord:
        """End the forward pass: remove all hooks and return the record.

        Raises:
            UserError: there is no record; see `why_no_record`.
        """
        self._end()
        self._detach()
        return self.record

    def forward_began(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start to note which layer allocates what."""
        if torch._C._current_graph_task_id() != -1:  # torch has no public way to ask.
            self._read()  # A checkpoint around the network runs it again in the backward pass.
        if self._saved_bytes is not None:
            return
        self._has_run = self._in_forward = True
        self._error_before = sys.exception()
        self._input_bytes += sum(
            tensor.nbytes
            for tensor in tensors_in((args, kwargs))
            if not (self._has_parts and self._is_made_by_layer(tensor))
        )
        self._state.forward_began()
        network = self.tracker.network
        self._owners.leave_out((args, kwargs, [*network.parameters(), *network.buffers()]))
        self._owners.__enter__()

    def forward_ended(self) -> None:
        """Stop counting allocations: those of the loss belong to no layer."""
        if not self._in_forward:
            return
        self._in_forward = False
        if sys.exception() is not self._error_before:
            self._note_half_a_forward()
        self._owners.__exit__(None, None, None)

    def layer_ended(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Count what the call returned and allocated, and its parameters and buffers."""
        if output is None or not self._in_forward:
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
        self._has_packed = True
        with self._owners.paused(), torch._C.DisableTorchFunction():
            self._owners.adopt_autocast_copy(tensor, key)
            saved = _SavedHandle(detached(tensor), tensor._version, key)
        if self._saved_bytes is None:
            self._saved.add(saved)
        return saved

    def _unpack(self, saved: _SavedHandle) -> torch.Tensor:
        if self._has_run:  # else it is the backward pass of something else
            self._read()
        if (
            saved.tensor._version != saved.version
        ):  # With hooks, autograd does not check this itself.
            raise RuntimeError(
                "one of the variables needed for gradient computation has been modified by an "
                f"inplace operation: a tensor of shape {tuple(saved.tensor.shape)} saved by "
                f"{saved.key or 'the loss'} is at version {saved.tensor._version}; expected "
                f"version {saved.version} instead"
            )
        return saved.tensor

    def _is_made_by_layer(self, tensor: torch.Tensor) -> bool:
        owners = (self._owners.owner_of(identity, None) for identity in storages_in(tensor))
        return any(owner is not None for owner in owners)

    def _end(self) -> None:
        """End the forward pass, unless the backward pass has."""
        if self._in_forward and self._saved_bytes is None:
            self._note_half_a_forward()
        self._read()

    def _note_half_a_forward(self) -> None:
        self._failure = (
            f"a forward of the recorded {class_name(self.tracker.network)} did not return: record "
            "one that runs through"
        )

    def _read(self) -> None:
        """Sum what autograd holds now; later calls change nothing."""
        if self._saved_bytes is not None:
            return
        self._saved_bytes = {}
        self._is_held = bool(self._saved)
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
            _running.recorder = None
            self._hooks.__exit__(None, None, None)
            self.tracker.__exit__()
            self._owners.forget()


class _LayerState:
    """Assigns every parameter and buffer of the network to the first layer that has it.

    A module has its own; an operation has those among its arguments.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._known: dict[int, torch.Tensor] = {}
        self._given: dict[
            int, torch.Tensor
        ] = {}  # It holds the tensors, so that no id is used again.

    def forward_began(self) -> None:
        """List parameters and buffers again: a forward may replace buffers."""
        tensors = [*self._network.parameters(), *self._network.buffers()]
        self._known = {id(tensor): tensor for tensor in tensors}

    def first_seen(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[torch.Tensor]:
        """Return the tensors of this call that no earlier call had."""
        if call.operation is None:
            tensors = [*call.module.parameters(), *call.module.buffers()]
        else:
            tensors = [tensor for tensor in tensors_in((args, kwargs)) if id(tensor) in self._known]
        new = {id(tensor): tensor for tensor in tensors if id(tensor) not in self._given}
        self._given.update(new)
        return list(new.values())


class _PeakMemory:
    """Peak of the CUDA allocator between `start` and `stop`.

    `peak_bytes` leaves out what was allocated on the device at the start: parameters, buffers, the
    input, and everything else there (a data set, the optimizer's state). Gradients that an earlier
    step left do count, since the step writes into them. None before `stop`, and for a network that
    is not on a CUDA device.
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
