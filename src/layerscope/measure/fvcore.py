"""fvcore's operation counts per layer, in fvcore's own convention.

fvcore counts a multiply-add of a convolution or a linear layer as one. Batch norm counts 5 per
element in training mode and 2 in eval mode; adaptive average pooling 1 per input element. It leaves
out operations without a formula (ReLU, max-pool, nn.AvgPool2d, additions, ...). `unsupported_ops`
names those of them that fvcore does not consider free.
"""

import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch

from layerscope.layers.calls import Call, CallObserver, CallTracker
from layerscope.layers.tensors import tensors_in
from layerscope.measure.step import Step

with warnings.catch_warnings():  # fvcore's import warns about its own deprecated names.
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis


class FvcoreFailed(RuntimeError):
    """fvcore cannot count this network: its count is unknown, not 0."""


@dataclass(frozen=True)
class FvcoreCounts:
    """fvcore's counts.

    Args:
        layers: the count of every layer that ran, in execution order, its calls summed; 0 if fvcore
            counts nothing. The values sum to `total`.
        unsupported_ops: number of occurrences of each operation without a formula in fvcore.
    """

    layers: Mapping[str, int]
    total: int
    mode: Literal["train", "eval"]
    unsupported_ops: Mapping[str, int]


def fvcore_counts(step: Step, train: bool | None = None) -> FvcoreCounts:
    """Count one forward of the step's network on the step's own arguments.

    fvcore knows only modules and would count a functional operation for the module that calls it.
    Here each operation counts for its own key. An operation outside any layer (inside a scripted
    submodule) counts for the module's path. The network is run, traced, and left as it was.

    The trace records gradients if the step does, because modules choose their code path by that: a
    TransformerEncoderLayer in eval mode without gradients fuses all its operations into one.

    Args:
        train: the mode to count in; by default each submodule's present mode.

    Raises:
        FvcoreFailed: the forward cannot be traced, or a formula of fvcore fails.
    """
    network = step.network
    with step.preserve_state():
        if train is not None:
            network.train(train)
        scopes = _LayerScopes()
        counter = _Counter(step, scopes)
        tracker = scopes.tracker = CallTracker(network, scopes)
        stage = "torch cannot trace its forward"
        try:
            with tracker, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # The step itself has shown the network's warnings.
                graph = counter.trace()
                stage = "a formula of fvcore does not fit its operations"
                counter.count(graph)
        except (
            Exception
        ) as error:  # The user's forward, the tracer and formulas may raise anything.
            name = type(network).__name__
            reason = _one_line(str(error)) or type(error).__name__
            raise FvcoreFailed(f"fvcore cannot count {name}: {stage}: {reason}") from error
        mode = "train" if network.training else "eval"
    return FvcoreCounts(
        layers=MappingProxyType(dict(counter.layers)),
        total=counter.layers.total(),
        mode=mode,
        unsupported_ops=MappingProxyType(dict(counter.unsupported_ops)),
    )


_MOST_CHARACTERS = 300  # Errors of the tracer contain whole graphs.


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1] + "…"


_MARK = "layer:"  # before a call's number, in the name of a scope


class _LayerScopes(CallObserver):
    """Writes the number of the running layer's call into the scope names of the trace."""

    tracker: CallTracker

    def __init__(self) -> None:
        self.keys: dict[str, None] = {}
        self.calls: list[str] = []  # the key of every call, by its number
        self.paths_after: list[str | None] = []  # path of the module that runs after each call
        self._pushed: list[bool] = []

    def layer_began(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        state = torch._C._get_tracing_state()
        self._pushed.append(state is not None)
        if state is not None:
            state.push_scope(f"{_MARK}{len(self.calls)}")
        self.calls.append(call.key)
        self.paths_after.append(None)

    def layer_ended(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        self.paths_after[-1] = self.tracker.current_key
        if output is not None:
            self.keys.setdefault(call.key)
        state = torch._C._get_tracing_state()
        if self._pushed.pop() and state is not None:
            state.pop_scope()


class _Counter:
    """Applies fvcore's formulas to the nodes of a trace, as fvcore's own analysis does.

    That analysis counts per module, and puts hooks on all modules to name the nodes.
    """

    def __init__(self, step: Step, scopes: _LayerScopes) -> None:
        self.layers: Counter[str] = Counter()
        self.unsupported_ops: Counter[str] = Counter()
        self._scopes = scopes
        self._name = type(step.network).__name__
        self._step = step
        self._analysis = FlopCountAnalysis(step.network, ())

    def trace(self) -> torch._C.Graph:
        """Trace one forward.

        torch.jit.trace would note the Python stack at every node, which takes most of its time. So
        the tracer is called directly, without torch.jit and without a module around the network.
        """
        step = self._step
        network = step.network
        args, kwargs = step.arguments()

        # The tracer knows its inputs by identity. The call need not be built from what it passes
        # here, so that keyword arguments, nested tensors and other values work.
        def forward(*_: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with step.precision():
                # The tracer accepts only a flat tuple of tensors.
                outputs = tuple(tensors_in(network(*args, **kwargs)))
            if not outputs:
                raise ValueError("it returns no tensors")
            return outputs

        tensors = [*tensors_in((args, kwargs)), *network.parameters(), *network.buffers()]
        inputs = list({id(tensor): tensor for tensor in tensors}.values())
        graph, _ = torch._C._create_graph_by_tracing(forward, inputs, lambda value: "", True, False)
        return graph

    def count(self, graph: torch._C.Graph) -> None:
        """Count each node for its layer; a node between layers for the module that ran then."""
        self.layers.update(dict.fromkeys(self._scopes.keys, 0))
        between = self._name
        node: Any
        for node in graph.nodes():
            kind = node.kind()
            if kind == "prim::Constant":
                continue  # Most nodes are constants, next to the operation that takes them.
            scope = node.scopeName().rpartition("/")[2]
            key = between
            if scope.startswith(_MARK):
                call = int(scope.removeprefix(_MARK))
                key, between = (
                    self._scopes.calls[call],
                    self._scopes.paths_after[call] or self._name,
                )
            if kind == "prim::PythonOp":
                kind += "." + node.pyname()
            formula = self._analysis._op_handles.get(kind)
            if formula is not None:
                result: Any = formula(list(node.inputs()), list(node.outputs()))
                flops = sum(result.values()) if isinstance(result, Counter) else result
                self.layers[key] += int(flops)
            elif not self._analysis._should_ignore_node(node):
                self.unsupported_ops[kind] += 1
