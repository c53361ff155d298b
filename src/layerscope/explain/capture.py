"""One training step of the user's own module, and everything that its layers read and made in it.

A layer's own part of a gradient is taken where autograd's graph enters the call's own nodes and
where it leaves them. So it is right for modules that are called several times, for layers that
work in place, and for a sum one of whose inputs is made of the other.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from layerscope.base.errors import UserError
from layerscope.config.schema import CrossEntropyConfig, LossConfig
from layerscope.dry_run.opened import opened
from layerscope.dry_run.recorder import named_arguments
from layerscope.explain.losses import CapturedLoss
from layerscope.explain.operation import Captured, Operation, operands
from layerscope.explain.values import Floats
from layerscope.layers import Call, CallObserver, track_calls
from layerscope.layers.calls import function_name, is_operation
from layerscope.layers.tensors import tensors_in
from layerscope.measure import Step
from layerscope.networks import first_output
from layerscope.networks.losses import loss_of
from layerscope.operations import owns_its_operations

Edge = tuple[Node, int]  # a node, and which of its outputs


@dataclass(eq=False)
class CapturedCall:
    """A call of a layer, as tensors; `arrays` makes numbers of it.

    Args:
        state: parameters, then buffers, by name.
        operands: what the explained function read, by symbol; taken before it ran.
        parameters: of the operands that are parameters, their paths.
        gradients: of each operand, the part that goes through this call.
        whole_gradients: of each operand that is a parameter, everything that the step gave it,
            other calls included.
        is_overwritten: it returned a view that a later layer wrote to: then autograd keeps no
            gradient of what stood there before.
    """

    key: str
    state: Mapping[str, Tensor]
    operands: Mapping[str, Tensor] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    output: Tensor = field(init=False)
    output_gradient: Tensor | None = None
    gradients: dict[str, Tensor] = field(default_factory=dict)
    whole_gradients: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)
    is_overwritten: bool = False

    def arrays(self, operation: Operation) -> Captured:
        """Return the same in float64, every number exact."""
        gradient = self.output_gradient
        return Captured(
            operation=operation,
            dtype=self.output.dtype,
            operands=_exact_all(self.operands),
            output=exact(self.output),
            output_gradient=None if gradient is None else exact(gradient),
            gradients=_exact_all(self.gradients),
            statistics=_exact_all(self.statistics),
        )


@dataclass(frozen=True, eq=False)
class CapturedStep:
    """What a whole step read and made.

    Args:
        calls: the first call of each layer.
        later_calls: the others, of layers with parameters that are called again.
    """

    calls: Mapping[str, CapturedCall]
    later_calls: Mapping[str, Sequence[CapturedCall]]
    loss: CapturedLoss

    def calls_of(self, key: str) -> tuple[CapturedCall, ...]:
        """Return the captured calls of a layer, in order."""
        first = self.calls.get(key)
        return () if first is None else (first, *self.later_calls.get(key, ()))


def exact(tensor: Tensor) -> Floats:
    """Return the same numbers in float64."""
    return tensor.detach().to("cpu", torch.float64).numpy()


def capture_step(
    step: Step,
    loss: LossConfig,
    target: int,
    operations: Mapping[str, Sequence[Operation | None]],
    wanted: frozenset[str] | None = None,
) -> CapturedStep:
    """Run forward, loss and backward once. The network and the image are left as they were.

    Every floating-point parameter and the image require a gradient inside, frozen or not.

    Args:
        target: the class that every image is compared with.
        operations: what each call of each layer computes, by the layers' keys; None where it is not
            explained.
        wanted: keys of the layers to capture; None for all.

    Raises:
        UserError: the network or its backward does not run, or has no outputs (N, num_classes).
    """
    with step.preserve_state():
        for leaf in (*step.network.parameters(), *step.args):
            leaf.requires_grad_(leaf.is_floating_point())
        observer = _CaptureObserver(step.network, operations, wanted)
        try:
            with observer.tracker:
                outputs = first_output(step.forward())
            _check_outputs(outputs, target)
            observer.follow(outputs)
            labels = torch.full((len(outputs),), target, device=outputs.device)
            value = loss_of(outputs, labels, loss)
            step.backward(value)
            observer.find_overwritten()
        finally:
            observer.stop()
        for call, parameters in observer.parameters.items():
            call.whole_gradients = {
                symbol: parameter.grad.clone()
                for symbol, parameter in parameters.items()
                if parameter.grad is not None
            }
    assert observer.followed is not None  # the loss depends on what it is the loss of
    smoothing = loss.label_smoothing if isinstance(loss, CrossEntropyConfig) else 0.0
    return CapturedStep(
        observer.calls,
        observer.later_calls,
        CapturedLoss(
            kind=loss.name,
            dtype=outputs.dtype,
            outputs=exact(outputs),
            target=(target,) * len(outputs),
            label_smoothing=smoothing,
            value=float(value.detach().double()),
            gradient=exact(observer.followed),
            probabilities=exact(torch.softmax(outputs.detach(), dim=1)),
        ),
    )


def _check_outputs(outputs: Tensor, target: int) -> None:
    shape = tuple(outputs.shape)
    if outputs.dim() != 2:
        raise UserError(
            f"the network makes {shape} of the input: a loss needs (N, num_classes) to be explained"
        )
    if not 0 <= target < shape[1]:
        raise UserError(f"target={target}: the network has the classes 0 to {shape[1] - 1}")
    if not outputs.requires_grad:
        raise UserError("no gradient: the network's output is detached from what it is made of")


@dataclass(eq=False)
class _FunctionInputs:
    """What a function that is about to run reads: copies, and the tensors' edges in the graph."""

    copies: dict[str, Tensor]
    edges: dict[str, Edge | None]
    parameters: dict[str, nn.Parameter]

    @classmethod
    def of(cls, read: Mapping[str, Tensor]) -> "_FunctionInputs":
        return cls(
            {symbol: _copy(tensor) for symbol, tensor in read.items()},
            {symbol: _edge_of(tensor) for symbol, tensor in read.items()},
            {symbol: t for symbol, t in read.items() if isinstance(t, nn.Parameter)},
        )

    def with_x_of(self, padding: "_FunctionInputs") -> "_FunctionInputs":
        """Return it with the x that was padded in place of what it read itself."""
        return _FunctionInputs(
            {**self.copies, "x": padding.copies["x"]},
            {**self.edges, "x": padding.edges["x"]},
            self.parameters,
        )


class _CaptureObserver(CallObserver):
    """Keeps what the calls of each wanted layer read and make, and hooks their nodes.

    Of layers without parameters only the first call.
    """

    def __init__(
        self,
        network: nn.Module,
        operations: Mapping[str, Sequence[Operation | None]],
        wanted: frozenset[str] | None,
    ) -> None:
        self.calls: dict[str, CapturedCall] = {}
        self.later_calls: dict[str, list[CapturedCall]] = {}
        self.parameters: dict[CapturedCall, Mapping[str, nn.Parameter]] = {}
        self.followed: Tensor | None = None
        self.tracker = track_calls(network, self, self._run_function)
        self._operations = operations
        self._num_calls: Counter[str] = Counter()
        self._wanted = wanted
        self._state = {id(t) for t in (*network.parameters(), *network.buffers())}
        self._paths = {id(parameter): path for path, parameter in network.named_parameters()}
        self._running: CapturedCall | None = None
        self._operation: Operation | None = None
        self._functions: list[_FunctionInputs] = []
        self._opening: list[Callable[..., Any]] = []
        self._views: list[tuple[CapturedCall, Tensor, int]] = []
        self._made: set[Node] = set()
        self._handles: list[RemovableHandle] = []

    def layer_began(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Copy what may be overwritten."""
        self._running, self._operation = None, None
        self._functions.clear()
        if self._wanted is not None and call.key not in self._wanted:
            return
        state = self._own_state(call, args, kwargs)
        has_parameters = any(isinstance(tensor, nn.Parameter) for tensor in state.values())
        if call.key in self.calls and not has_parameters:
            return
        self._running = CapturedCall(call.key, {name: _copy(t) for name, t in state.items()})
        known = self._operations.get(call.key, ())
        number = self._num_calls[call.key]
        self._operation = known[number] if number < len(known) else None
        if self._operation is not None and not self._operation.sources:
            given = list(tensors_in((args, kwargs)))
            inputs = [tensor for tensor in given if id(tensor) not in self._state] or given
            self._functions.append(_FunctionInputs.of({"x": inputs[0]}))

    def _run_function(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a function that Python code calls; keep what it reads inside an explained layer.

        Functions are seen as the dry run sees them: those of a family as one, others opened.
        """
        if self._operation is None or not is_operation(function):
            return function(*args, **kwargs)
        name = function_name(function)
        if not owns_its_operations(name) and function not in self._opening:
            inside = opened(function)
            if inside is not None:
                self._opening.append(function)
                try:
                    with self.tracker.functions_seen():
                        return inside(*args, **kwargs)
                finally:
                    self._opening.pop()
        if self._operation.sources:
            self._functions.append(_FunctionInputs.of(operands(name, args, kwargs, Tensor)))
        return function(*args, **kwargs)

    def layer_ended(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Copy what it returned, and wait for its gradients."""
        tensor = next(tensors_in(output), None)
        self._num_calls[call.key] += tensor is not None
        captured, self._running = self._running, None
        operation, self._operation = self._operation, None
        if tensor is not None and captured is not None:
            edge = _edge_of(tensor)
            if self.calls.setdefault(call.key, captured) is not captured:
                self.later_calls.setdefault(call.key, []).append(captured)
            read = self._read(operation)
            captured.operands = read.copies
            captured.parameters = {
                symbol: self._paths[id(parameter)]
                for symbol, parameter in read.parameters.items()
                if id(parameter) in self._paths
            }
            self.parameters[captured] = read.parameters
            captured.output = _copy(tensor)
            if tensor._is_view():
                self._views.append((captured, tensor, tensor._version))
            if edge is not None:
                captured.statistics = _batch_statistics(edge[0])
                self._wait(captured, edge, read.edges)
        self._made.update(node for node, _ in filter(None, map(_edge_of, tensors_in(output))))

    def _read(self, operation: Operation | None) -> _FunctionInputs:
        """Return what the explained function read."""
        if operation is None:
            return _FunctionInputs({}, {}, {})
        if not operation.sources:
            return self._functions[0]
        number, *padding = operation.sources
        function = self._functions[number]
        return function.with_x_of(self._functions[padding[0]]) if padding else function

    def follow(self, outputs: Tensor) -> None:
        """Keep the gradient of the network's own output."""
        edge = get_gradient_edge(outputs)

        def keep(gradients: tuple[Tensor, ...]) -> None:
            self.followed = gradients[edge.output_nr].clone()

        self._handles.append(edge.node.register_prehook(keep))

    def find_overwritten(self) -> None:
        """After the backward pass: the views that were written to and have got no gradient."""
        for captured, tensor, version in self._views:
            captured.is_overwritten = (
                captured.output_gradient is None and tensor._version != version
            )

    def stop(self) -> None:
        """Let go of the graph."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._functions.clear()
        self._views.clear()
        self._made.clear()

    def _own_state(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Return parameters, then buffers: a module's own, or among a function's arguments."""
        if call.operation is None:
            return {**dict(call.module.named_parameters()), **dict(call.module.named_buffers())}
        named = named_arguments(call.operation, args, kwargs)
        return {name: tensor for name, tensor in named if id(tensor) in self._state}

    def _wait(self, captured: CapturedCall, output: Edge, read: Mapping[str, Edge | None]) -> None:
        """Hook the call's nodes, so that its gradients are filled in during the backward pass."""
        node, number = output
        passes_through = [symbol for symbol, edge in read.items() if edge == output]

        def keep_output(gradients: tuple[Tensor | None, ...]) -> None:
            gradient = gradients[number]
            if gradient is not None:
                captured.output_gradient = gradient.clone()
                for symbol in passes_through:
                    captured.gradients[symbol] = captured.output_gradient

        self._handles.append(node.register_prehook(keep_output))
        if passes_through:
            return
        foreign = self._made | {edge[0] for edge in read.values() if edge}
        for inner, edges in _leaving_edges(node, foreign).items():
            self._handles.append(
                inner.register_hook(_keeper(captured, edges, read))  # type: ignore[arg-type]
            )


def _keeper(
    captured: CapturedCall, edges: list[tuple[int, Edge]], read: Mapping[str, Edge | None]
) -> Callable[[tuple[Tensor | None, ...], Any], None]:
    """Return a hook that adds a node's results to the gradients of the operands they belong to."""
    destinations = [
        (position, symbol)
        for position, edge in edges
        for symbol, known in read.items()
        if known == edge
    ]

    def keep(results: tuple[Tensor | None, ...], _: Any) -> None:
        for position, symbol in destinations:
            result = results[position]
            if result is not None:
                before = captured.gradients.get(symbol)
                captured.gradients[symbol] = result.clone() if before is None else before + result

    return keep


# What torch's batch norms keep of a batch, by the names that they have in an explanation.
_STATISTICS = {"mean": "_saved_result1", "inverse_std": "_saved_result2"}


def _leaving_edges(start: Node, foreign: set[Node]) -> dict[Node, list[tuple[int, Edge]]]:
    """Return where autograd's graph leaves a call: of each of its nodes, the edges that do."""
    leaving: dict[Node, list[tuple[int, Edge]]] = {}
    seen, waiting = {start}, [start]
    while waiting:
        node = waiting.pop()
        for position, (behind, number) in enumerate(node.next_functions):
            if behind is None:
                continue
            if behind in foreign or hasattr(behind, "variable"):
                leaving.setdefault(node, []).append((position, (behind, number)))
            elif behind not in seen:
                seen.add(behind)
                waiting.append(behind)
    return leaving


def _batch_statistics(node: Node) -> dict[str, Tensor]:
    """Return what a batch norm in train mode keeps; nothing for every other node."""
    if "BatchNorm" not in node.name():
        return {}
    found = {name: getattr(node, saved, None) for name, saved in _STATISTICS.items()}
    return {name: t.detach().clone() for name, t in found.items() if t is not None and t.numel()}


def _edge_of(tensor: Tensor) -> Edge | None:
    """Return where its gradient arrives; None where it has none, or none is asked for."""
    if not tensor.requires_grad or not torch.is_grad_enabled():
        return None
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _exact_all(tensors: Mapping[str, Tensor]) -> dict[str, Floats]:
    return {name: exact(tensor) for name, tensor in tensors.items()}
