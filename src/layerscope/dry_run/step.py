"""One training step, run dry: forward, loss, backward and, if there is one, optimizer."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

# torch has no public names for what fake tensors raise when code asks for their values.
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)
from torch.nn.parameter import is_lazy

from layerscope.base.errors import UserError
from layerscope.dry_run.fake import ObservedFakeMode
from layerscope.dry_run.leaks import empty_caches
from layerscope.dry_run.real import ObservedRealMode, real_alias
from layerscope.dry_run.recorder import Recorder, SavedRecord
from layerscope.dry_run.records import (
    FunctionRecord,
    LayerCall,
    OperationRecord,
    Phase,
    StorageRecord,
    TensorRecord,
)
from layerscope.dry_run.recurrent import fused_layers
from layerscope.layers.calls import unwrapped
from layerscope.layers.garbage import no_garbage_collection
from layerscope.layers.preserve_state import preserve_state
from layerscope.layers.tensors import map_tensors, sum_of_outputs, tensors_in

_LONGEST_REASON = 300
Loss = Callable[[Any], Tensor]
MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True, repr=False)
class DryRun:
    """The record of one step, operation by operation.

    Args:
        inputs: tensors among the network's arguments.
        outputs: tensors that the network returned.
        saved: storages that autograd held after forward pass and loss, each once.
        live_after: bytes alive after each operation, without parameters, buffers and input.
        parameter_gradients: storages of the parameters' gradients after the backward pass.
        state_bytes: bytes of the optimizer's state between its steps.
        optimizer_began: number of operations before the optimizer's first step, which makes its
            state.
        second_optimizer_step: number of operations before its second step, which all later steps
            resemble.
        loss: the tensor that was differentiated.
        has_loss: there was a tensor to differentiate.
        has_backward: false if the device is missing: torch's engine needs it, so that only the
            forward pass could run.
        why_real: why the step ran on real tensors; None if it did not.
    """

    network: str
    device: torch.device
    autocast: torch.dtype | None
    layers: tuple[LayerCall, ...]
    functions: tuple[FunctionRecord, ...]
    operations: tuple[OperationRecord, ...]
    storages: tuple[StorageRecord, ...]
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    saved: tuple[SavedRecord, ...]
    live_after: tuple[int, ...]
    parameter_gradients: frozenset[int]
    num_parameters: int = 0
    parameter_bytes: int = 0
    buffer_bytes: int = 0
    unused_parameters: int = 0
    unused_parameter_bytes: int = 0
    unused_buffer_bytes: int = 0
    state_bytes: int = 0
    optimizer_began: int = 0
    second_optimizer_step: int = 0
    loss: TensorRecord | None = None
    has_loss: bool = True
    has_backward: bool = True
    why_real: str | None = None

    def __repr__(self) -> str:
        return (
            f"<DryRun of {self.network}, {len(self.layers)} calls of layers, "
            f"saved_bytes={self.saved_bytes:,}, live_peak_bytes={self.live_peak_bytes:,}>"
        )

    @property
    def is_real(self) -> bool:
        """Tell whether it ran on real tensors, since the network's code depends on values."""
        return self.why_real is not None

    @property
    def live_peak_bytes(self) -> int:
        """Most bytes alive at one time in forward, loss and backward; see `live_after`."""
        return max(self.live_after[: self.optimizer_began], default=0)

    @property
    def timeline(self) -> tuple["Moment", ...]:
        """The bytes alive while each layer ran: in forward, loss, backward and optimizer."""
        return timeline(self)

    @property
    def overwritten(self) -> frozenset[str]:
        """Origins of the tensors that forward pass and loss overwrite: `parameter`, `input`, ..."""
        origins = (
            self.storages[tensor.storage].origin
            for operation in self.operations
            if operation.phase in ("forward", "loss")
            for tensor in operation.overwritten
        )
        return frozenset(origin for origin in origins if origin != "operation")

    @property
    def saved_bytes(self) -> int:
        """Bytes that autograd holds of what layers allocated, each storage once."""
        storages = {record.storage for record in self.saved}
        return sum(
            self.storages[number].num_bytes
            for number in storages
            if self.allocating_layer(number) is not None
        )

    def allocating_layer(self, storage: int) -> str | None:
        """Return the key of the layer that allocated a storage; None if no layer did."""
        operation = self.storages[storage].operation
        if operation is None:
            return None
        record = self.operations[operation]
        return record.layer if record.phase == "forward" else None


def dry_run(
    network: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    loss: Loss | None = None,
    optimizer: MakeOptimizer | None = None,
    device: torch.device | None = None,
    autocast: torch.dtype | None = None,
    backward: bool = True,
    allow_real: bool = True,
    foreign: list[Tensor] | None = None,
    real: bool = False,
) -> DryRun:
    """Run one step of the network on tensors without memory.

    The user's own Python code runs, but no value is computed. The network stays as it was. A
    network whose code depends on values runs on real tensors instead; the result says so.

    Args:
        args, kwargs: arguments of one call of the network, with tensors in any nesting. Only their
            metadata is read, unless the network's code depends on values. A tensor on the meta
            device stands for one on the network's device.
        loss: returns a scalar from the network's result; the default is the sum of its
            floating-point tensors.
        optimizer: makes an optimizer of parameters; it takes two steps after the backward pass.
        device: the device to run for; the default is that of the network.
        autocast: the dtype that torch.autocast lowers to.
        backward: false runs the forward pass alone.
        allow_real: false refuses a network whose code depends on values.
        foreign: collects the tensors of the step that are not the network's own, such as those of a
            second network in the loss.
        real: run on real tensors in any case, without the optimizer.

    Raises:
        UserError: the network is compiled or scripted, or its step raises, on fake tensors and on
            real ones.
    """
    network = unwrapped(network)
    call = _DryStep(
        network,
        tuple(args),
        dict(kwargs or {}),
        loss,
        optimizer,
        device,
        autocast,
        backward,
        foreign,
    )
    why_real = "it was asked for"
    if not real:
        try:
            return call.fake()
        except UserError:
            raise
        except Exception as error:  # the user's code may raise anything
            if not allow_real or (device is not None and _is_absent(device)):
                raise UserError(_refusal(network, error)) from error
            why_real = _reason(error)
    try:
        return call.real(why_real)
    except Exception as error:  # the user's code may raise anything
        raise UserError(_refusal(network, error)) from error


@dataclass(frozen=True)
class _DryStep:
    network: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    loss: Loss | None
    optimizer: MakeOptimizer | None
    device: torch.device | None
    autocast: torch.dtype | None
    backward: bool
    foreign: list[Tensor] | None

    def fake(self, *, is_warm: bool = False) -> DryRun:
        """Run on tensors without memory.

        Args:
            is_warm: the network's caches are filled.
        """
        originals: dict[int, bool] = {}
        recorder: Recorder

        def note(*what: Any) -> None:
            recorder.note(*what)

        def overwrites(*what: Any) -> bool:
            return recorder.in_place.overwrites(*what)

        mode = ObservedFakeMode(note, overwrites)
        recorder = Recorder(self.network, originals, mode.alias)
        home = _device_of(self.network.parameters(), ())

        def stand_in(tensor: Tensor) -> Tensor:
            device = home if self.device is None and tensor.is_meta else self.device
            return mode.stand_in(tensor, device).requires_grad_(tensor.requires_grad)

        values = (*self.args, *self.kwargs.values())
        try:
            with (
                preserve_state(self.network, arguments=values, copy_buffers=False),
                _quiet(),
                _unnoticed(),
            ):
                self._put_stand_ins(mode, originals)
                args, kwargs = map_tensors((self.args, self.kwargs), stand_in)
                run = self._run(recorder, mode, args, kwargs)
                del args, kwargs
        finally:
            mode.restore_foreign_gradients()
            if self.foreign is not None:
                self.foreign[:] = mode.strangers
        had_caches = empty_caches(self.network, recorder, mode)
        recorder.forget()
        if had_caches and not is_warm:  # Every later step finds its tensors in the caches.
            self._fill_caches()
            return self.fake(is_warm=True)
        return run

    def _fill_caches(self) -> None:
        """Run the forward pass for real, to fill the network's caches."""
        values = (*self.args, *self.kwargs.values())
        with (
            preserve_state(self.network, arguments=values),
            torch.no_grad(),
            _autocast(self._home, self.autocast),
        ):
            args, kwargs = map_tensors((self.args, self.kwargs), Tensor.detach)
            self.network(*args, **kwargs)

    @property
    def _home(self) -> torch.device:
        return self.device or _device_of(self.network.parameters(), ())

    def real(self, why: str) -> DryRun:
        originals = {id(parameter): True for parameter in self.network.parameters()}
        recorder = Recorder(self.network, originals, real_alias)
        mode = ObservedRealMode(recorder.note, recorder.in_place.overwrites)

        def leaf(tensor: Tensor) -> Tensor:
            return tensor.detach().requires_grad_(tensor.requires_grad)

        args, kwargs = map_tensors((self.args, self.kwargs), leaf)
        with preserve_state(self.network):
            originals |= {id(buffer): False for buffer in self.network.buffers()}
            without_optimizer = replace(self, optimizer=None)  # It would change the parameters.
            run = without_optimizer._run(recorder, mode, args, kwargs)
            recorder.forget()
            return replace(run, why_real=why)

    def _put_stand_ins(self, mode: ObservedFakeMode, originals: dict[int, bool]) -> None:
        stand_ins: dict[int, Tensor] = {}
        for module in self.network.modules():
            for group in (module._parameters, module._buffers):
                for name, tensor in group.items():
                    if tensor is None:
                        continue
                    stand_in = stand_ins.get(id(tensor))
                    if stand_in is None:
                        stand_in = stand_ins[id(tensor)] = _stand_in(mode, tensor, self.device)
                        originals[id(stand_in)] = isinstance(tensor, nn.Parameter)
                    group[name] = stand_in  # type: ignore[assignment]

    def _run(
        self,
        recorder: Recorder,
        mode: AbstractContextManager[Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> DryRun:
        network = self.network
        parameters = dict.fromkeys(network.parameters())
        buffers = dict.fromkeys(network.buffers())
        for parameter in parameters:
            recorder.know(parameter, "parameter")
        for buffer in buffers:
            recorder.know(buffer, "buffer")
        for tensor in tensors_in((args, kwargs)):
            recorder.know(tensor, "input")
        device = self.device or _device_of(parameters, tensors_in((args, kwargs)))
        recorder.device_type = "cpu" if device.type == "meta" else device.type
        loss = None
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(_no_autocast(recorder.device_type))
            stack.enter_context(recorder.saving.python_savers())
            stack.enter_context(_random_states(recorder))
            stack.enter_context(no_garbage_collection())
            stack.enter_context(fused_layers(recorder.is_training_lstm))
            with mode:
                with recorder.saving.hooks(), recorder.tracker:
                    with _autocast(device, self.autocast):
                        returned = network(*args, **kwargs)
                    outputs = tuple(
                        recorder.know(tensor, "constant") for tensor in tensors_in(returned)
                    )
                    recorder.phase = "loss"
                    if self.backward:
                        with recorder.loss_functions():
                            loss = (self.loss or sum_of_outputs)(returned)
                    del returned
                recorder.read_saved()
                has_backward = not _is_absent(device)
                if has_backward and loss is not None and loss.requires_grad:
                    recorder.phase = "backward"
                    loss.backward()
                gradients = frozenset(
                    recorder.know(p.grad, "constant").storage
                    for p in parameters
                    if p.grad is not None
                )
                has_loss = loss is not None and loss.requires_grad
                loss_record = None if loss is None else recorder.know(loss, "constant")
                del loss
                began = len(recorder.operations)
                state_bytes = self._step_optimizer(recorder, parameters)
        recorder.end()
        used = recorder.used
        unused = [t for t in parameters if id(t) not in used]
        unused_buffers = [t for t in buffers if id(t) not in used]
        return DryRun(
            network=type(network).__name__,
            device=device,
            autocast=self.autocast,
            layers=tuple(call for call in recorder.calls if call.outputs),
            functions=tuple(recorder.functions),
            operations=tuple(recorder.operations),
            storages=tuple(recorder.storages),
            inputs=recorder.inputs,
            outputs=outputs,
            saved=recorder.saved,
            live_after=tuple(recorder.live_after),
            parameter_gradients=gradients,
            num_parameters=sum(t.numel() for t in parameters),
            parameter_bytes=sum(t.nbytes for t in parameters),
            buffer_bytes=sum(t.nbytes for t in buffers),
            unused_parameters=sum(t.numel() for t in unused),
            unused_parameter_bytes=sum(t.nbytes for t in unused),
            unused_buffer_bytes=sum(t.nbytes for t in unused_buffers),
            state_bytes=state_bytes,
            optimizer_began=began,
            second_optimizer_step=recorder.second_optimizer_step or len(recorder.operations),
            has_loss=has_loss,
            has_backward=has_backward,
            loss=loss_record,
        )

    def _step_optimizer(self, recorder: Recorder, parameters: Iterable[nn.Parameter]) -> int:
        """Take two steps: the first makes the state, the second is like all later ones."""
        learning = [p for p in parameters if p.grad is not None]
        if self.optimizer is None or not learning:
            return 0
        recorder.phase = "optimizer"
        try:
            optimizer = self.optimizer(learning)
            optimizer.step()
        except Exception as error:  # the user's function may raise anything
            raise UserError(
                f"the optimizer cannot take a step dry: {_reason(error)}: give a function of the "
                "parameters that makes one, such as lambda p: torch.optim.SGD(p, 0.1), or a name"
            ) from error
        state = {
            id(value): value.nbytes
            for values in optimizer.state.values()
            for value in values.values()
            if isinstance(value, Tensor)
        }
        recorder.second_optimizer_step = len(recorder.operations)
        optimizer.step()
        return sum(state.values())


@dataclass(frozen=True, slots=True)
class Moment:
    """The bytes alive while one layer runs in one phase.

    Args:
        live_bytes: the most bytes alive while it ran.
        bytes_after: the bytes alive after it.
    """

    layer: str
    phase: Phase
    live_bytes: int
    bytes_after: int


def timeline(run: DryRun) -> tuple[Moment, ...]:
    """Return a moment for each run of consecutive operations of one layer."""
    moments: list[Moment] = []
    for operation, live in zip(run.operations, run.live_after, strict=True):
        layer = operation.layer or operation.phase
        last = moments[-1] if moments else None
        if last is not None and (last.layer, last.phase) == (layer, operation.phase):
            moments[-1] = Moment(layer, operation.phase, max(last.live_bytes, live), live)
        else:
            moments.append(Moment(layer, operation.phase, live, live))
    return tuple(moments)


def _stand_in(mode: ObservedFakeMode, tensor: Tensor, device: torch.device | None) -> Tensor:
    if is_lazy(tensor):
        raise UserError("the network has lazy parameters: run it once first, so that they exist")
    if device is None and tensor.is_meta:  # Weights without memory stand for weights on a CPU.
        device = torch.device("cpu")
    stand_in = mode.stand_in(tensor, device)
    if isinstance(tensor, nn.Parameter):
        stand_in._is_param = True  # type: ignore[attr-defined]
    stand_in.requires_grad_(tensor.requires_grad)
    vars(stand_in).update(vars(tensor))
    return stand_in


def _device_of(parameters: Iterable[Tensor], inputs: Iterable[Tensor]) -> torch.device:
    first = next((t for t in [*parameters, *inputs] if not t.is_meta), None)
    return torch.device("cpu") if first is None else first.device


def _is_absent(device: torch.device) -> bool:
    return device.type == "cuda" and not torch.cuda.is_available()


def _autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[Any]:
    """Return the context for autocast; without a dtype it is off, whatever the caller has set."""
    if device.type == "meta":
        return nullcontext()
    if _is_absent(device):
        return _autocast_of_absent(device.type, dtype)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def _no_autocast(device: str) -> AbstractContextManager[Any]:
    """Switch off an autocast of the caller, if there is one.

    Without one the step runs outside of any autocast context: inside a further context, autocast
    would keep its copies for longer.
    """
    is_on = torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if is_on else nullcontext()


@contextmanager
def _autocast_of_absent(device: str, dtype: torch.dtype | None) -> Iterator[None]:
    """Set autocast for a device that is missing, which torch.autocast refuses."""
    before = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    torch.set_autocast_enabled(device, dtype is not None)
    if dtype is not None:
        torch.set_autocast_dtype(device, dtype)
    torch.autocast_increment_nesting()
    try:
        yield
    finally:
        if torch.autocast_decrement_nesting() == 0:
            torch.clear_autocast_cache()
        torch.set_autocast_enabled(device, before[0])
        torch.set_autocast_dtype(device, before[1])


@contextmanager
def _random_states(recorder: Recorder) -> Iterator[None]:
    """Note the random states that checkpoints save, which no operation makes."""
    original = torch.get_rng_state

    def get_rng_state() -> Tensor:
        state = original()
        recorder.know_new(state)
        return state

    torch.get_rng_state = get_rng_state
    try:
        yield
    finally:
        torch.get_rng_state = original


@contextmanager
def _unnoticed() -> Iterator[None]:
    """Keep transformers from noticing fake tensors, for which it builds masks that it else omits.

    It then asks for values, as in a real step, and the dry run falls back to real tensors.
    """
    library = sys.modules.get("transformers.utils.import_utils")
    original = getattr(library, "is_fake_tensor", None)
    if library is None or original is None:
        yield
        return
    library.is_fake_tensor = lambda tensor: False  # type: ignore[attr-defined]
    try:
        yield
    finally:
        library.is_fake_tensor = original  # type: ignore[attr-defined]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch from logging the traceback of an operation that refuses its arguments."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


def _reason(error: Exception) -> str:
    """Return the beginning of an exception's message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + " ..."


def _refusal(network: nn.Module, error: Exception) -> str:
    reason = _reason(error)
    if isinstance(error, NotImplementedError) and 'the required "forward"' in reason:
        inside = " or ".join(name for name, _ in network.named_children()) or "one that has it"
        return f"{type(network).__name__} has no forward: give the module that it calls, {inside}"
    if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
        reason = f"its code asks for values, and tensors without memory have none ({error.func})"
    return f"{type(network).__name__} cannot run on this input: {reason}"
