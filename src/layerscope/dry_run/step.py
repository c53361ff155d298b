"""One training step, run dry: forward, loss, backward and, where there is one, optimizer."""

import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
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


@dataclass(frozen=True)
class DryRun:
    """What one step does, operation by operation.

    Args:
        inputs: tensors that the network was called with.
        outputs: tensors that it returned.
        saved: what autograd held when forward pass and loss had ended, each storage once.
        live_after: bytes alive after each operation, above parameters, buffers and input.
        parameter_gradients: storages of the parameters' gradients after the backward pass.
        state_bytes: what the optimizer keeps between its steps.
        optimizer_began: operations before the optimizer's first step, which makes its state.
        second_optimizer_step: operations before its second step, which is as all others are.
        loss: what was differentiated.
        has_loss: there was something to differentiate.
        has_backward: false for a device that is not here: torch's engine asks for it, so that only
            the forward pass could run.
        why_real: what tensors without memory could not answer, so that it ran on real ones; None
            where it did not.
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

    @property
    def is_real(self) -> bool:
        """Tell whether it ran on real tensors, as a network must whose code depends on values."""
        return self.why_real is not None

    @property
    def live_peak_bytes(self) -> int:
        """Most bytes alive at one time in forward, loss and backward, above what was there."""
        return max(self.live_after[: self.optimizer_began], default=0)

    @property
    def timeline(self) -> tuple["Moment", ...]:
        """What was alive while each layer ran, in order: forward, loss, backward, optimizer."""
        return timeline(self)

    @property
    def overwritten(self) -> frozenset[str]:
        """What forward pass and loss write into beside their own results: `parameter`, `input`."""
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
        """Return the key of the layer that allocated a storage; None where no layer did."""
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

    The user's own Python code runs; no number is computed. The network stays as it was. A network
    whose code depends on values runs on real tensors instead, and the result says so.

    Args:
        args, kwargs: of one call of the network, tensors in any nesting. Only their metadata is
            read, unless the network's code depends on values; tensors on the meta device stand for
            tensors where the network is.
        loss: a scalar of what the network returned; default: the sum of its floating-point tensors.
        optimizer: makes an optimizer of parameters; it takes two steps after the backward pass.
        device: where the step is to run; default: where the network is.
        autocast: the dtype that torch.autocast lowers to.
        backward: false for the forward pass alone.
        allow_real: false to refuse a network whose code depends on values.
        foreign: is given the tensors that the step meets and that are not the network's own: those
            of a second network in the loss, say.
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

        held = (*self.args, *self.kwargs.values())
        try:
            with (
                preserve_state(self.network, arguments=held, copy_buffers=False),
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
        if had_caches and not is_warm:  # every later step finds its tensors there
            self._fill_caches()
            return self.fake(is_warm=True)
        return run

    def _fill_caches(self) -> None:
        """Run the forward pass for real, so that what the network keeps for ever is there."""
        held = (*self.args, *self.kwargs.values())
        with (
            preserve_state(self.network, arguments=held),
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
            without_optimizer = replace(self, optimizer=None)  # it would change the parameters
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
        """Take two steps: the first makes the state, the second is as all others are."""
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
    """One layer's part of one phase.

    Args:
        live_bytes: the most that was alive while it ran.
        bytes_after: what was alive when it had ended.
    """

    layer: str
    phase: Phase
    live_bytes: int
    bytes_after: int


def timeline(run: DryRun) -> tuple[Moment, ...]:
    """Join the operations that one layer ran in a row."""
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
        raise UserError(
            "the network has lazy parameters: run it once before, so that they are made"
        )
    if device is None and tensor.is_meta:  # weights that are not there: as on a CPU
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
    """Return autocast, off without a dtype whatever the caller has set."""
    if device.type == "meta":
        return nullcontext()
    if _is_absent(device):
        return _autocast_of_absent(device.type, dtype)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def _no_autocast(device: str) -> AbstractContextManager[Any]:
    """Switch off an autocast that is on around the step.

    Only then: within a second one, autocast would keep its copies for longer than it does alone.
    """
    is_on = torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if is_on else nullcontext()


@contextmanager
def _autocast_of_absent(device: str, dtype: torch.dtype | None) -> Iterator[None]:
    """Do what torch.autocast does, which refuses where the device is not here."""
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
    """Notice the random generator's states that checkpoints take: no operation makes them."""
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
    """Keep transformers from noticing fake tensors: for them it builds masks that it else omits.

    Then it asks for values, as it does in a step, and the dry run goes on with real tensors.
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
    """Return the first sentence or so of what an exception says."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_REASON else text[:_LONGEST_REASON] + " ..."


def _refusal(network: nn.Module, error: Exception) -> str:
    reason = _reason(error)
    if isinstance(error, DataDependentOutputException | DynamicOutputShapeException):
        reason = f"its code asks for values, and tensors without memory have none ({error.func})"
    return f"{type(network).__name__} cannot run on this input: {reason}"
