"""fvcore's operation counts per layer, in fvcore's own convention.

fvcore counts a multiply-add of a convolution or a linear layer as one; batch norm 5 per element in
training mode, 2 in eval mode; adaptive average pooling 1 per input element. What it has no formula
for (ReLU, max-pool, nn.AvgPool2d, additions, ...) it leaves out: `unsupported_ops` names those that
it does not itself hold to be free.
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

with warnings.catch_warnings():  # importing fvcore warns of its own use of deprecated names
    warnings.simplefilter("ignore")
    from fvcore.nn import FlopCountAnalysis


class FvcoreFailed(RuntimeError):
    """fvcore cannot count this network: its count is unknown, not 0."""


@dataclass(frozen=True)
class FvcoreCounts:
    """What fvcore counted.

    Args:
        layers: the count of every layer that ran, 0 where fvcore counts nothing, in execution
            order; the calls of a layer summed. The values add up to `total`.
        unsupported_ops: how often each operation that fvcore has no formula for occurred.
    """

    layers: Mapping[str, int]
    total: int
    mode: Literal["train", "eval"]
    unsupported_ops: Mapping[str, int]


def fvcore_counts(step: Step, train: bool | None = None) -> FvcoreCounts:
    """Count one forward of the step's network on the step's own arguments.

    fvcore knows modules only and would count a functional operation for the module that calls it;
    here each goes to the key of the operation itself. An operation outside any layer (inside a
    scripted submodule) goes to the module's path. The network is run, traced, and left as it was.

    The trace records gradients where the step does, because modules choose their path by that: a
    TransformerEncoderLayer in eval mode fuses all its operations into one without gradients.

    Args:
        train: the mode to count in; each submodule's own present mode if not given.

    Raises:
        FvcoreFailed: the forward cannot be traced, or an operation's shapes are not fvcore's.
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
                warnings.simplefilter("ignore")  # the step itself shows those of the network
                graph = counter.trace()
                stage = "a formula of fvcore does not fit its operations"
                counter.count(graph)
        except Exception as error:  # whatever the user's forward, the tracer or a formula raises
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


_MOST_CHARACTERS = 300  # the tracer's own errors print whole graphs


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MOST_CHARACTERS else line[: _MOST_CHARACTERS - 1] + "…"


_MARK = "layer:"  # before a call's number, in the name of a scope


class _LayerScopes(CallObserver):
    """Writes the number of the running layer's call into the names that the tracer gives."""

    tracker: CallTracker

    def __init__(self) -> None:
        self.keys: dict[str, None] = {}
        self.calls: list[str] = []  # the key of every call, by its number
        self.paths_after: list[str | None] = []  # of the module that runs when the call has ended
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
    """Applies fvcore's formulas to the nodes of a trace, as its own analysis does.

    That analysis would add up every module's count, and name every node by hooks on all modules.
    """

    def __init__(self, step: Step, scopes: _LayerScopes) -> None:
        self.layers: Counter[str] = Counter()
        self.unsupported_ops: Counter[str] = Counter()
        self._scopes = scopes
        self._name = type(step.network).__name__
        self._step = step
        self._analysis = FlopCountAnalysis(step.network, ())

    def trace(self) -> torch._C.Graph:
        """Run one forward.

        The tracer notes the Python stack at every node, and that is most of its time: so it is
        called here directly, not through torch.jit and a module around the network.
        """
        step = self._step
        network = step.network
        args, kwargs = step.arguments()

        # The tracer knows its inputs by identity, so that the call need not be built from what it
        # passes here: keyword arguments, nested tensors and other values are simply given.
        def forward(*_: torch.Tensor) -> tuple[torch.Tensor, ...]:
            with step.precision():
                outputs = tuple(tensors_in(network(*args, **kwargs)))  # all that the tracer takes
            if not outputs:
                raise ValueError("it returns no tensors")
            return outputs

        tensors = [*tensors_in((args, kwargs)), *network.parameters(), *network.buffers()]
        inputs = list({id(tensor): tensor for tensor in tensors}.values())
        graph, _ = torch._C._create_graph_by_tracing(forward, inputs, lambda value: "", True, False)
        return graph

    def count(self, graph: torch._C.Graph) -> None:
        """Every node for its layer; one outside of any, for the module that ran after the last."""
        self.layers.update(dict.fromkeys(self._scopes.keys, 0))
        between = self._name
        node: Any
        for node in graph.nodes():
            kind = node.kind()
            if kind == "prim::Constant":
                continue  # most are, and each is beside the operation that it is an argument of
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
