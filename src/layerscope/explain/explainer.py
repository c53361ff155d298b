"""What a function of torch needs in order to be explained: one entry in families.EXPLAINERS."""

from collections.abc import Callable
from dataclasses import dataclass

from layerscope.explain.factors import sum_value
from layerscope.explain.operation import Captured, Operation
from layerscope.explain.values import Position, Value, indexed


@dataclass(frozen=True)
class GeneralFormula:
    """A formula with indices, for every position.

    Args:
        quantity: `y`, `dL/dx`, `dL/dw`, `dL/db`, `mean`, ...
        latex: without dollar signs.
        where: what its symbols mean and where they run, a sentence in Markdown with `$...$`.
    """

    quantity: str
    latex: str
    where: str = ""


Formulas = Callable[[Operation], tuple[GeneralFormula, ...]]
Output = Callable[[Captured, Position], tuple[Value, ...]]
Gradient = Callable[[Captured, str, Position], tuple[Value, ...]]


def same_position(operation: Operation, symbol: str, position: Position) -> Position:
    """An output depends on the input at its own place."""
    return position


@dataclass(frozen=True)
class Explainer:
    """How a function's numbers come about.

    Values are in order: what is computed on the way (a norm's statistics) first, the value itself
    last.

    Args:
        formulas: forward and backward, for a call with these settings: without padding, say, the
            formula has none.
        output: y at a position.
        gradient: of an operand, by its symbol, at a position in it.
        first: of an operand and an output position, the first position that it depends on, and that
            is no padding.
        refuses: why a call with these settings cannot be explained; None where it can. Asked before
            anything else.
        input: the operand whose gradient is shown as the input's.
        others: further operands whose gradients are shown with it.
        bias_dim: of the bias, the dimension of the output along which it is added; None without.
        removes_shift: it subtracts each channel's mean over the batch.
    """

    formulas: Formulas
    output: Output
    gradient: Gradient
    first: Callable[[Operation, str, Position], Position] = same_position
    refuses: Callable[[Operation], str | None] = lambda operation: None
    input: str = "x"
    others: tuple[str, ...] = ()
    bias_dim: Callable[[Operation], int | None] = lambda operation: None
    removes_shift: Callable[[Operation], bool] = lambda operation: False


def where_used(explain: Gradient) -> Gradient:
    """A gradient's explanation; no terms at all where L does not depend on the output."""

    def explained(captured: Captured, symbol: str, position: Position) -> tuple[Value, ...]:
        if captured.output_gradient is not None:
            return explain(captured, symbol, position)
        note = "L does not depend on what this layer returns."
        name = indexed(f"dL/d{symbol.partition('_')[0]}", position)
        return (sum_value(captured, name, (), None, note),)

    return explained
