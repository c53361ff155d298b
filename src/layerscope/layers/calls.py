"""The layer that is running while the user's own module runs its own forward.

A layer is a leaf module, or an operation that Python code calls outside of a leaf module. A leaf is
a module of torch.nn that is no Sequential; of nested ones the outermost, as in torch.fx. The key of
a layer is the module's path. The key of an operation is the path of the module that called it, and
the operation's name.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cache
from types import TracebackType
from typing import Any

import torch
from torch import nn

# torch has no public way to ask which function mode is the innermost.
from torch.overrides import TorchFunctionMode, _get_current_function_mode
from torch.utils.hooks import RemovableHandle

from layerscope.base.errors import UserError
from layerscope.layers.tensors import tensors_in

# Functions that torch.fx records as one operation and that the module of that name only wraps.
_WRAPPED_FUNCTIONS = {
    "torchvision.ops.stochastic_depth.StochasticDepth": "stochastic_depth",
    "torchvision.ops.drop_block.DropBlock2d": "drop_block2d",
    "torchvision.ops.drop_block.DropBlock3d": "drop_block3d",
}

_ARITHMETIC = ("add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow", "matmul")

_SYNONYMS = {
    "truediv": "div",
    "true_divide": "div",
    "divide": "div",
    "floordiv": "floor_divide",
    "multiply": "mul",
    "subtract": "sub",
    "mod": "remainder",
    "concat": "cat",
    "concatenate": "cat",
}

# x += y is operator.iadd in a traced graph and Tensor.__iadd__ at run time; 1 - x is __rsub__.
_PREFIXED = {f"{prefix}{name}": name for prefix in "ir" for name in _ARITHMETIC}


def function_name(function: Callable[..., object] | str) -> str:
    """Return one name for every spelling of an operation.

    `x += y`, `x.add_(y)`, `operator.add`, `Tensor.__radd__`, "iadd" and `aten.add.Tensor` are all
    `add`. A property (`x.T`) is named by the property.
    """
    name = function if isinstance(function, str) else getattr(function, "__name__", "")
    if name == "__get__":
        name = getattr(getattr(function, "__self__", None), "__name__", name)
    name = (name or type(function).__name__).split(".")[0].strip("_")
    name = _PREFIXED.get(name, name)
    return _SYNONYMS.get(name, name)


# Attributes of a tensor that are views of it; x.shape, x.data and x.grad are no operations.
_VIEW_ATTRIBUTES = frozenset({"T", "mT", "H", "mH", "real", "imag"})

# These return their own tensor with another flag, or the state of a random generator.
_NO_OPERATIONS = frozenset(
    {"requires_grad_", "retain_grad", "__set__", "get_state", "set_state", "manual_seed"}
)


def wrapped_function(module: nn.Module) -> str | None:
    """Return the function that the module only wraps; None where it does anything else."""
    return _WRAPPED_FUNCTIONS.get(f"{type(module).__module__}.{type(module).__qualname__}")


Execute = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]


def _call(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return function(*args, **kwargs)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of one layer. Two calls of a layer share the key and are different objects.

    Args:
        path: path of the module, or of the module that called the operation.
        operation: name of the operation; None if the layer is a module.
        is_wrapped: `module` does nothing but the operation.
    """

    key: str
    path: str
    module: nn.Module
    operation: str | None = None
    is_wrapped: bool = False

    @property
    def type(self) -> str:
        """The class of the module, or the name of the function, in torch's words."""
        return self.operation or class_name(self.module)


class CallObserver:
    """Callbacks while a network runs; override those of interest.

    They get the very arguments of the layer. The tracker does not store these.
    """

    def forward_began(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Handle a call of the network itself."""

    def layer_began(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Handle a call of a leaf module or an operation; its end shows whether it is a layer."""

    def layer_ended(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Handle the end of such a call.

        Args:
            output: None if the call raised or returned no tensor: then it is no layer.
        """

    def forward_ended(self) -> None:
        """Handle the end of the network's forward, also by an exception."""


@dataclass(eq=False)
class _Frame:
    """A module whose forward is running."""

    path: str
    module: nn.Module
    call: Call | None
    num_operations: Counter[str] = field(default_factory=Counter)


class CallTracker:
    """Follows the calls of one network; see `track_calls`."""

    def __init__(
        self,
        network: nn.Module,
        *observers: CallObserver,
        execute: "Execute | None" = None,
        is_forward: Callable[[nn.Module], bool] | None = None,
    ) -> None:
        self.network = inner = unwrapped(network)
        self._is_forward = is_forward or (lambda module: module is inner)
        self.calls: list[Call] = []
        self._execute = execute or _call
        self.observers = list(observers)
        self._handles: list[RemovableHandle] = []
        self._frames: list[_Frame] = []
        self._paths: dict[nn.Module, str] = {}
        self._taken: set[str] = set()
        self._operation: Call | None = None
        self._mode: _OperationMode | None = None

    @property
    def current(self) -> Call | None:
        """The layer that is running."""
        if self._operation is not None:
            return self._operation
        return next((frame.call for frame in self._frames if frame.call), None)

    @property
    def current_key(self) -> str | None:
        """The key of the running layer; between layers, the module's path; outside, None."""
        call = self.current
        if call is not None:
            return call.key
        return _key_of(self._frames[-1]) if self._frames else None

    def __enter__(self) -> "CallTracker":
        self._paths = {module: path for path, module in self.network.named_modules()}
        self._taken = set(self._paths.values())
        for module in self._paths:
            self._handles += [
                module.register_forward_pre_hook(
                    self._module_began, prepend=True, with_kwargs=True
                ),
                module.register_forward_hook(
                    self._module_ended, with_kwargs=True, always_call=True
                ),
            ]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._frames.clear()
        self._leave_forward()

    def _leave_forward(self) -> None:
        if self._mode is not None:
            mode, self._mode = self._mode, None
            mode.leave()
            for observer in self.observers:
                observer.forward_ended()

    def _module_began(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        if not self._frames:
            if not self._is_forward(module):
                return  # A call outside the forward: in the loss, or when a checkpoint recomputes.
            with torch._C.DisableTorchFunction():
                for observer in self.observers:
                    observer.forward_began(args, kwargs)
            self._mode = _OperationMode(self)
            self._mode.__enter__()
        call = None if self.current else self._module_call(module)
        self._frames.append(_Frame(self._paths[module], module, call))
        if call is not None:
            self._begin(call, args, kwargs)
            if self._mode is not None and self._execute is _call:
                self._mode.pause()  # Operations inside a leaf are no layers.

    def _module_ended(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        if not self._frames or self._frames[-1].module is not module:
            return
        frame = self._frames.pop()
        if frame.call is not None:
            if self._mode is not None:
                self._mode.resume()
            self._end(frame.call, args, kwargs, output)
        if not self._frames:
            self._leave_forward()

    def _module_call(self, module: nn.Module) -> Call | None:
        path = self._paths[module]
        name = wrapped_function(module)
        if name is not None:
            return Call(_joined(path, name), path, module, name, is_wrapped=True)
        return Call(path or class_name(module), path, module) if is_leaf(module) else None

    def _begin(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        with torch._C.DisableTorchFunction():  # An observer's own operations are no layers.
            for observer in self.observers:
                observer.layer_began(call, args, kwargs)

    def _end(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> bool:
        """Tell the observer that a call has ended; return whether it was a layer's."""
        is_layer = next(tensors_in(output), None) is not None
        if is_layer:
            self.calls.append(call)
        with torch._C.DisableTorchFunction():
            for observer in self.observers:
                observer.layer_ended(call, args, kwargs, output if is_layer else None)
        return is_layer

    def run_operation(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Call the function as a layer of the module whose forward is running."""
        if self.current is not None or not self._frames or not is_operation(function):
            return self._execute(function, args, kwargs)
        frame = self._frames[-1]
        name = function_name(function)
        call = self._operation = Call(
            self._operation_key(frame, name), frame.path, frame.module, name
        )
        output = None
        self._begin(call, args, kwargs)
        try:
            output = self._execute(function, args, kwargs)
        finally:
            self._operation = None
            frame.num_operations[name] += self._end(call, args, kwargs, output)
        return output

    def functions_seen(self) -> AbstractContextManager[object]:
        """Make the functions visible that the running function calls from Python."""
        return nullcontext() if self._mode is None else self._mode

    def _operation_key(self, frame: _Frame, name: str) -> str:
        # A module keeps its name, even if it is that of an operation which its owner calls.
        base = _joined(frame.path, name)
        free = (key for key in _numbered(base) if key not in self._taken)
        return next(itertools.islice(free, frame.num_operations[name], None))


class _OperationMode(TorchFunctionMode):
    """Sees the functions that Python code calls, but not what these call in turn."""

    def __init__(self, tracker: CallTracker) -> None:
        super().__init__()
        self._tracker = tracker
        self._is_paused = False

    def pause(self) -> None:
        """See nothing until `resume`; do nothing if the user has entered a mode inside this one."""
        if _get_current_function_mode() is self:  # Only the innermost mode can be left.
            self.__exit__(None, None, None)
            self._is_paused = True

    def resume(self) -> None:
        """See again."""
        if self._is_paused:
            self._is_paused = False
            self.__enter__()

    def leave(self) -> None:
        """Leave the mode for good, paused or not."""
        if not self._is_paused:
            self.__exit__(None, None, None)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return self._tracker.run_operation(func, args, kwargs or {})


def track_calls(
    network: nn.Module,
    observer: CallObserver | None = None,
    execute: Execute | None = None,
    is_forward: Callable[[nn.Module], bool] | None = None,
) -> CallTracker:
    """Follow the layers of every forward of the network inside the `with` block.

    Args:
        is_forward: tells whether a call of this module, outside of any other, is a forward; by
            default that of the network alone is.
        execute: runs each operation that the network's Python code calls. It gets the operation,
            its arguments and its keyword arguments. The default calls the operation.

    A module with two paths has the first as its key. Hooks on the modules and a TorchFunctionMode
    exist only inside the block; both are removed at its end, also after an exception.

    Raises:
        UserError: the network is compiled or scripted: its layers do not run one by one.
    """
    observers = () if observer is None else (observer,)
    return CallTracker(network, *observers, execute=execute, is_forward=is_forward)


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the user's module inside DistributedDataParallel or DataParallel.

    Raises:
        UserError: the network is compiled or scripted.
    """
    while isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel):
        network = network.module
    for module in network.modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UserError("the network is scripted: pass the Python module instead")
        if "_orig_mod" in module._modules or module._compiled_call_impl is not None:
            raise UserError("the network is compiled: pass the module that was compiled instead")
    return network


def require_module(model: object) -> None:
    """Check what a user gives as a model.

    Raises:
        UserError: it is no module.
    """
    if isinstance(model, type) and issubclass(model, nn.Module):
        raise UserError(f"model is the class {model.__name__}: give a model, {model.__name__}(...)")
    if not isinstance(model, nn.Module):
        raise UserError(f"model is a {type(model).__name__}, not an nn.Module")


def is_leaf(module: nn.Module) -> bool:
    """Tell whether torch.fx's default tracer would treat the module as one operation."""
    in_torch = type(module).__module__.startswith(("torch.nn", "torch.ao.nn"))
    return in_torch and not isinstance(module, nn.Sequential)


def class_name(module: nn.Module) -> str:
    """Return the name of the module's class, or of the class that parametrizations replaced."""
    cls = type(module)
    return (cls.__mro__[1] if hasattr(module, "parametrizations") else cls).__name__


@cache
def is_operation(function: Callable[..., Any]) -> bool:
    """Tell whether a call of the function is an operation; `x.shape` and `x.grad` are not."""
    name = getattr(function, "__name__", "")
    if name == "__get__":
        return function_name(function) in _VIEW_ATTRIBUTES
    return name not in _NO_OPERATIONS


def _joined(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _numbered(base: str) -> Iterator[str]:
    """Yield `add`, `add_1`, `add_2`, ..."""
    yield base
    yield from (f"{base}_{number}" for number in itertools.count(1))


def _key_of(frame: _Frame) -> str:
    return frame.path or type(frame.module).__name__
