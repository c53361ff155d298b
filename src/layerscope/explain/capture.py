"""One training step of the user's own module, and everything that its layers read and made in it.

A layer's own part of a gradient is taken where autograd's graph enters the call's own nodes and
where it leaves them. So it is right for modules that are called several times, for layers that
work in place, and for a sum one of whose inputs is made of the other.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node, get_gradient_edge
from torch.utils.hooks import RemovableHandle

from layerscope.base.errors import UserError
from layerscope.config.schema import CrossEntropyConfig, LossConfig
from layerscope.dry_run.recorder import named_arguments
from layerscope.explain.captured import Captured, CapturedLoss
from layerscope.explain.graph import Edge, batch_statistics, edge_of, leaving_edges
from layerscope.explain.values import Floats
from layerscope.layers import Call, CallObserver, track_calls
from layerscope.layers.tensors import tensors_in
from layerscope.measure import Step
from layerscope.networks import first_output
from layerscope.networks.layer_calls import DescribedCall
from layerscope.training.losses import loss_of


@dataclass(eq=False)
class CapturedCall:
    """A call of a layer, as tensors; `arrays` makes numbers of it.

    Args:
        whole_gradients: of each parameter, everything that the step gave it, other calls included.
        is_overwritten: it returned a view that a later layer wrote to: then autograd keeps no
            gradient of what stood there before.
    """

    key: str
    inputs: tuple[Tensor, ...]
    parameters: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]
    output: Tensor = field(init=False)
    output_gradient: Tensor | None = None
    input_gradients: dict[int, Tensor] = field(default_factory=dict)
    parameter_gradients: dict[str, Tensor] = field(default_factory=dict)
    whole_gradients: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, Tensor] = field(default_factory=dict)
    is_overwritten: bool = False

    def arrays(self, spec: DescribedCall) -> Captured:
        """The same in float64, every number exact."""
        gradients = (self.input_gradients.get(number) for number in range(len(self.inputs)))
        return Captured(
            spec=spec,
            dtype=self.output.dtype,
            inputs=tuple(exact(tensor) for tensor in self.inputs),
            output=exact(self.output),
            output_gradient=_exact_or_none(self.output_gradient),
            input_gradients=tuple(_exact_or_none(gradient) for gradient in gradients),
            parameters=_exact_all(self.parameters),
            parameter_gradients=_exact_all(self.parameter_gradients),
            buffers=_exact_all(self.buffers),
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


def exact(tensor: Tensor) -> Floats:
    """The same numbers in float64."""
    return tensor.detach().to("cpu", torch.float64).numpy()


def capture_step(
    step: Step, loss: LossConfig, target: int, wanted: frozenset[str] | None = None
) -> CapturedStep:
    """Run forward, loss and backward once. The network and the image are left as they were.

    Every floating-point parameter and the image require a gradient inside, frozen or not.

    Args:
        target: the class that every image is compared with.
        wanted: keys of the layers to capture; None for all.

    Raises:
        UserError: the network or its backward does not run, or has no outputs (N, num_classes).
    """
    with step.preserve_state():
        for leaf in (*step.network.parameters(), *step.args):
            leaf.requires_grad_(leaf.is_floating_point())
        observer = _Observer(step.network, wanted)
        try:
            with track_calls(step.network, observer):
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
                name: parameter.grad.clone()
                for name, parameter in parameters.items()
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


class _Observer(CallObserver):
    """Keeps what the calls of each wanted layer read and make, and hooks their nodes.

    Of layers without parameters only the first call.
    """

    def __init__(self, network: nn.Module, wanted: frozenset[str] | None) -> None:
        self.calls: dict[str, CapturedCall] = {}
        self.later_calls: dict[str, list[CapturedCall]] = {}
        self.parameters: dict[CapturedCall, Mapping[str, Tensor]] = {}
        self.followed: Tensor | None = None
        self._wanted = wanted
        self._state = {id(t) for t in (*network.parameters(), *network.buffers())}
        self._began: dict[Call, tuple[CapturedCall, list[Edge | None], Mapping[str, Tensor]]] = {}
        self._views: list[tuple[CapturedCall, Tensor, int]] = []
        self._made: set[Node] = set()
        self._handles: list[RemovableHandle] = []

    def layer_began(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Copy what may be overwritten."""
        if self._wanted is not None and call.key not in self._wanted:
            return
        own = self._own_state(call, args, kwargs)
        parameters = {n: t for n, t in own.items() if isinstance(t, nn.Parameter)}
        if call.key in self.calls and not parameters:
            return
        given = list(tensors_in((args, kwargs)))
        inputs = [tensor for tensor in given if id(tensor) not in self._state] or given
        captured = CapturedCall(
            call.key,
            tuple(_copy(tensor) for tensor in inputs),
            {name: _copy(tensor) for name, tensor in parameters.items()},
            {name: _copy(tensor) for name, tensor in own.items() if name not in parameters},
        )
        self._began[call] = captured, [edge_of(tensor) for tensor in inputs], parameters

    def layer_ended(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Copy what it returned, and wait for its gradients."""
        tensor = next(tensors_in(output), None)
        edge = None if tensor is None else edge_of(tensor)
        began = self._began.pop(call, None)
        if tensor is not None and began is not None:
            captured, input_edges, parameters = began
            if self.calls.setdefault(call.key, captured) is not captured:
                self.later_calls.setdefault(call.key, []).append(captured)
            self.parameters[captured] = parameters
            captured.output = _copy(tensor)
            if tensor._is_view():
                self._views.append((captured, tensor, tensor._version))
            if edge is not None:
                captured.statistics = batch_statistics(edge[0])
                self._wait(captured, edge, input_edges, parameters)
        self._made.update(node for node, _ in filter(None, map(edge_of, tensors_in(output))))

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
        self._began.clear()
        self._views.clear()
        self._made.clear()

    def _own_state(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Parameters and buffers by name: a module's own, or among an operation's arguments."""
        if call.operation is None:
            return {**dict(call.module.named_parameters()), **dict(call.module.named_buffers())}
        named = named_arguments(call.operation, args, kwargs)
        return {name: tensor for name, tensor in named if id(tensor) in self._state}

    def _wait(
        self,
        captured: CapturedCall,
        output: Edge,
        inputs: list[Edge | None],
        parameters: Mapping[str, Tensor],
    ) -> None:
        """Hooks that fill in the call's gradients during the backward pass."""
        node, number = output
        passes_through = [index for index, edge in enumerate(inputs) if edge == output]

        def keep_output(gradients: tuple[Tensor | None, ...]) -> None:
            gradient = gradients[number]
            if gradient is not None:
                captured.output_gradient = gradient.clone()
                for index in passes_through:
                    captured.input_gradients[index] = captured.output_gradient

        self._handles.append(node.register_prehook(keep_output))
        if passes_through:
            return
        leaving = leaving_edges(node, self._made | {edge[0] for edge in inputs if edge})
        for inner, edges in leaving.items():
            self._handles.append(
                inner.register_hook(_keeper(captured, edges, inputs, parameters))  # type: ignore[arg-type]
            )


def _keeper(
    captured: CapturedCall,
    edges: list[tuple[int, Edge]],
    inputs: list[Edge | None],
    parameters: Mapping[str, Tensor],
) -> Callable[[tuple[Tensor | None, ...], Any], None]:
    """Adds a node's results to the gradients of the inputs and parameters that they belong to."""
    destinations: list[tuple[int, dict[Any, Tensor], Any]] = []
    for position, edge in edges:
        destinations += [
            (position, captured.input_gradients, index)
            for index, known in enumerate(inputs)
            if known == edge
        ]
        variable = getattr(edge[0], "variable", None)
        destinations += [
            (position, captured.parameter_gradients, name)
            for name, parameter in parameters.items()
            if parameter is variable
        ]

    def keep(results: tuple[Tensor | None, ...], _: Any) -> None:
        for position, gradients, name in destinations:
            result = results[position]
            if result is not None:
                before = gradients.get(name)
                gradients[name] = result.clone() if before is None else before + result

    return keep


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _exact_or_none(tensor: Tensor | None) -> Floats | None:
    return None if tensor is None else exact(tensor)


def _exact_all(tensors: Mapping[str, Tensor]) -> dict[str, Floats]:
    return {name: exact(tensor) for name, tensor in tensors.items()}
