"""Which layer an autograd node belongs to: the one that was running when the node was created.

Every node gets the next number of a counter when it is created, so that the counter, read when a
layer begins and when it ends, says which nodes are the layer's: all of them, however many outputs
they have, and those of in-place operations too. Gradient accumulators have no such number.
"""

from bisect import bisect_right
from typing import Any

from torch._C import _autograd  # pyright: ignore[reportPrivateImportUsage]

from layerscope.layers.calls import Call, CallObserver, CallTracker


class NodeLayers(CallObserver):
    """Observes one forward; `tracker` must be set before it."""

    tracker: CallTracker

    def __init__(self) -> None:
        self.keys: dict[str, None] = {}
        self._starts: list[int] = []
        self._owners: list[str | None] = []

    def layer_of(self, sequence_number: int) -> str | None:
        """The key of the layer that created the node of this number.

        A node that was made between two layers has the path of the module that made it, one that
        was made outside of the forward (by the loss) None.
        """
        position = bisect_right(self._starts, sequence_number) - 1
        return self._owners[position] if position >= 0 else None

    def forward_began(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """From here on, nodes are the network's."""
        self._mark(type(self.tracker.network).__name__)

    def layer_began(self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """From here on, nodes are this layer's."""
        self._mark(call.key)

    def layer_ended(
        self, call: Call, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        """From here on, nodes are nobody's but the running module's."""
        if output is not None:
            self.keys.setdefault(call.key)
        self._mark(self.tracker.current_key)

    def forward_ended(self) -> None:
        """From here on, nodes are the loss's."""
        self._mark(None)

    def _mark(self, owner: str | None) -> None:
        self._starts.append(_autograd._get_sequence_nr())
        self._owners.append(owner)
