"""Theory, reasons and measurements, put side by side for every layer and for their totals."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from layerscope.layers.spec import NetworkSpec
from layerscope.reconcile.rows import Reason, Row
from layerscope.theory.saved import SavedMemory, saved_memory
from layerscope.theory.table import CostTable, cost_table

# The textbook keeps what it puts out.
_THEORY = {"saved_bytes": "output_bytes"}

# Measured values by layer; None where the instrument failed or was switched off.
Measured = Mapping[str, int]
ReasonsOfCall = Callable[[int], tuple[Reason, ...]]


@dataclass(frozen=True)
class Account:
    """One network's theory and what is predicted from it, ready to be held against instruments."""

    network: NetworkSpec
    costs: CostTable
    saved: SavedMemory

    @property
    def element_size(self) -> int:
        """Bytes of an element in theory."""
        return self.costs.element_size

    def rows(
        self,
        quantity: str,
        instrument: str,
        measured: Measured,
        reasons_of: ReasonsOfCall,
    ) -> tuple[Row, ...]:
        """A row per layer; a layer that only the instrument counts for has no theory.

        Args:
            quantity: a field of LayerCost, which is the theory.
            reasons_of: of a call, by its index.
        """
        calls = self._calls()
        rows = [
            Row(
                layer=cost.layer,
                quantity=quantity,
                instrument=instrument,
                theory=getattr(cost, _THEORY.get(quantity, quantity)),
                reasons=merged(reason for call in calls[cost.layer] for reason in reasons_of(call)),
                measured=measured.get(cost.layer),
            )
            for cost in self.costs.layers
        ]
        strangers = [layer for layer in measured if measured[layer] and layer not in calls]
        rows += [Row(layer, quantity, instrument, None, (), measured[layer]) for layer in strangers]
        return tuple(rows)

    def _calls(self) -> dict[str, list[int]]:
        calls: dict[str, list[int]] = {}
        for call, spec in enumerate(self.network.layers):
            calls.setdefault(spec.key, []).append(call)
        return calls


def account(network: NetworkSpec, element_size: int) -> Account:
    """Theory of one forward and backward pass."""
    return Account(network, cost_table(network, element_size), saved_memory(network))


def total(rows: Iterable[Row], num_unseen: int = 0) -> Row:
    """Their sum; what is unknown is missing in it, and makes it a lower bound.

    Args:
        num_unseen: tensors that no layer made: then layers may be missing altogether.
    """
    rows = tuple(rows)
    measured = [row.measured for row in rows]
    known = [row for row in rows if row.theory is not None]
    return Row(
        layer="total",
        quantity=rows[0].quantity,
        instrument=rows[0].instrument,
        theory=sum(row.theory or 0 for row in known),
        reasons=merged(reason for row in known for reason in row.reasons),
        measured=None if None in measured else sum(value or 0 for value in measured),
        lower_bound=bool(num_unseen) or any(row.predicted is None for row in rows),
    )


def merged(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """Reasons of one code as one, their amounts summed; different texts stand beside each other."""
    amounts: dict[str, int] = {}
    texts: dict[str, dict[str, None]] = {}
    for reason in reasons:
        amounts[reason.code] = amounts.get(reason.code, 0) + reason.amount
        texts.setdefault(reason.code, {})[reason.text] = None
    return tuple(Reason(code, amounts[code], _joined(texts[code])) for code in amounts)


def _joined(texts: dict[str, None], most: int = 3) -> str:
    first = list(texts)[:most]
    more = len(texts) - len(first)
    return "; ".join(first) + (f"; and {more} more" if more else "")
