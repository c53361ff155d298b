"""The layer of an autograd node: the one that was running when the node was created.

A new node gets the next number of a counter. The counter is read when a layer begins and when it
ends; all numbers between are nodes of the layer, including those of in-place operations and of
several outputs. Gradient accumulators have no such number.
"""

from bisect import bisect_right
from typing import Any

# torch has no public way to read the counter of nodes.
from torch._C import _autograd  # pyright: ignore[reportPrivateImportUsage]

from layerscope.layers.calls import Call, CallObserver, CallTracker


class NodeLayers(CallObserver):
    """Observes one forward; set `tracker` before it runs."""

    tracker: CallTracker

    def __init__(self) -> None:
        self.keys: dict[str, None] = {}
        self._starts: list[int] = []
        self._owners: list[str | None] = []

    def layer_of(self, sequence_number: int) -> str | None:
        """Return the key of the layer that created the node of this number.

        For a node created between two layers, it is the path of the module that was running. For a
        node created outside of the forward (by the loss), it is None.
        """
        position = bisect_right(self._starts, sequence_number) - 1
        return self._owners[position] if position >= 0 else None

    def forward_began(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start to assign nodes to the network."""
        self._mark(type(self.tracker.network).__name__)

    def layer_began(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Start to assign nodes to this layer."""
        self._mark(call.key)

    def layer_ended(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """Start to assign nodes to the module that is running."""
        if output is not None:
            self.keys.setdefault(call.key)
        self._mark(self.tracker.current_key)

    def forward_ended(self) -> None:
        """Start to assign nodes to the loss."""
        self._mark(None)

    def _mark(self, owner: str | None) -> None:
        self._starts.append(_autograd._get_sequence_nr())
        self._owners.append(owner)
