"""Every printed figure of the walkthrough recomputed from the theory, and its claims weighed."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from layerscope.audit.document import Document, Figure, Place, Sentence, read_walkthrough
from layerscope.audit.formulas import FormulaError, Value, evaluate
from layerscope.audit.printed import Verdict, shown, verdict
from layerscope.audit.quantities import Quantities
from layerscope.theory import CostTable


@dataclass(frozen=True)
class Cell:
    """One printed figure.

    Args:
        right: the right value in the printed unit, at the printed precision (a claim's may have
            more decimals).
        paraphrase: what the figure claims to be.
        exact: the right value in bytes, elements, FLOPs, or as a ratio; None of a shape or a dash.
        formula: how it is computed, over the quantities of the cost table.
    """

    where: str
    printed: str
    right: str
    verdict: Verdict
    place: Place
    paraphrase: str
    exact: int | float | None
    formula: str


@dataclass(frozen=True)
class Finding:
    """A claim that the figures alone do not settle, and what holds instead."""

    claim: str
    right: str
    why: str


@dataclass(frozen=True)
class Audit:
    """Cells in the document's order."""

    cells: tuple[Cell, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class VerdictCount:
    """How many figures of one place (tables, running text, claims) have one verdict."""

    place: Place
    verdict: Verdict
    num_cells: int


def audit_walkthrough(costs: CostTable, peak_bytes: int | None = None) -> Audit:
    """Judge the walkthrough by this table.

    Args:
        costs: of CifarCNN at batch 32, fp32: the network that the walkthrough describes.
        peak_bytes: the predicted peak of one training step above parameters, buffers and input;
            without it, the finding on the memory total states less.

    Raises:
        ValueError: the table is of another batch, element size or network.
    """
    document = read_walkthrough()
    if (costs.input_shape, costs.element_size) != (document.input_shape, document.element_size):
        raise ValueError(
            f"the walkthrough is about {document.input_shape} of {document.element_size}-byte "
            f"elements, and the table about {costs.input_shape} of {costs.element_size}"
        )
    constants = {} if peak_bytes is None else {"peak_bytes": peak_bytes}
    return judged(document, costs, constants)


def judged(document: Document, costs: CostTable, constants: dict[str, int]) -> Audit:
    """The document's figures and sentences, by this table.

    Raises:
        FormulaError: a formula names what the table does not have.
    """
    quantities = Quantities(costs, document.groups, document.definitions, constants)
    return Audit(
        cells=tuple(_cell(figure, quantities) for figure in document.figures),
        findings=tuple(
            _finding(sentence, quantities)
            for sentence in document.sentences
            if (sentence.needs is None or sentence.needs in constants)
            and sentence.unless not in constants
        ),
    )


def verdict_counts(cells: Iterable[Cell]) -> tuple[VerdictCount, ...]:
    """Count figures by place and verdict, every combination, 0 included."""
    counts = Counter((cell.place, cell.verdict) for cell in cells)
    places: tuple[Place, ...] = ("table", "text", "claim")
    verdicts: tuple[Verdict, ...] = ("agrees", "rounding", "wrong")
    return tuple(VerdictCount(p, v, counts[p, v]) for p in places for v in verdicts)


def _cell(figure: Figure, quantities: Quantities) -> Cell:
    try:
        value = evaluate(figure.formula, quantities)
        return Cell(
            where=figure.where,
            printed=figure.printed,
            right=shown(value, figure.printed, figure.decimals),
            verdict=verdict(figure.printed, value),
            place=figure.place,
            paraphrase=figure.says,
            exact=_plain(value),
            formula=figure.formula,
        )
    except FormulaError as error:
        raise FormulaError(f"{figure.where}: {error}") from None


def _plain(value: Value) -> int | float | None:
    if isinstance(value, (int, Fraction)):
        return int(value) if value == int(value) else float(value)
    return None


def _finding(sentence: Sentence, quantities: Quantities) -> Finding:
    numbers = {
        name: shown(evaluate(formula, quantities), pattern)
        for name, (formula, pattern) in sentence.numbers.items()
    }
    return Finding(
        claim=sentence.claim,
        right=sentence.right.format(**numbers),
        why=sentence.why.format(**numbers),
    )
