"""Where autograd's graph enters and leaves a call's own nodes."""

from torch import Tensor
from torch.autograd.graph import Node, get_gradient_edge

Edge = tuple[Node, int]  # a node, and which of its outputs
# What torch's batch norms keep of a batch, by the names that they have in an explanation.
_STATISTICS = {"mean": "_saved_result1", "inverse_std": "_saved_result2"}


def leaving_edges(start: Node, foreign: set[Node]) -> dict[Node, list[tuple[int, Edge]]]:
    """Of the nodes from `start` on that are not foreign: their edges to foreign ones and leaves."""
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


def batch_statistics(node: Node) -> dict[str, Tensor]:
    """Of a batch norm in train mode; empty for every other node."""
    if "BatchNorm" not in node.name():
        return {}
    found = {name: getattr(node, saved, None) for name, saved in _STATISTICS.items()}
    return {name: t.detach().clone() for name, t in found.items() if t is not None and t.numel()}


def edge_of(tensor: Tensor) -> Edge | None:
    """Where its gradient arrives; None where it has none."""
    if not tensor.requires_grad:
        return None
    edge = get_gradient_edge(tensor)
    return edge.node, edge.output_nr
