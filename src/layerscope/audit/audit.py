"""Every printed figure of a file of claims beside the right one, and its sentences weighed."""

import copy
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import nn

from layerscope.audit.claims import (
    ClaimPlace,
    Claims,
    ClaimSection,
    PrintedFigure,
    Sentence,
    walkthrough,
)
from layerscope.audit.expressions import ExpressionError, ExpressionValue, expression_value
from layerscope.audit.printed import UNITS, Verdict, shown, verdict
from layerscope.audit.quantities import Quantities
from layerscope.base.errors import UserError
from layerscope.dry_run import dry_run
from layerscope.reconcile.account import Account, account
from layerscope.theory import CostTable


@dataclass(frozen=True)
class JudgedFigure:
    """One printed figure.

    Args:
        right: the right value in the printed unit, at the printed precision (a claim's may have
            more decimals).
        paraphrase: what the figure claims to be.
        exact: the right value in bytes, elements, FLOPs, or as a ratio; None of a shape or a dash.
        formula: how it is computed, over the quantities of the network.
    """

    where: str
    printed: str
    right: str
    verdict: Verdict
    place: ClaimPlace
    paraphrase: str
    exact: int | float | None
    formula: str


@dataclass(frozen=True)
class JudgedClaim:
    """A claim that the figures alone do not settle, and what holds instead."""

    claim: str
    right: str
    why: str


@dataclass(frozen=True)
class Audit:
    """Cells in the document's order."""

    cells: tuple[JudgedFigure, ...]
    findings: tuple[JudgedClaim, ...]


@dataclass(frozen=True)
class VerdictCount:
    """How many figures of one place (tables, running text, claims) have one verdict."""

    place: ClaimPlace
    verdict: Verdict
    num_cells: int


def audit_network(network: nn.Module, claims: Claims) -> Audit:
    """Judge claims by a network, of which one training step is run dry. It is left as it was.

    Raises:
        UserError: the network does not run on the claims' input, or an expression names what the
            network does not have.
    """
    try:
        return judged(claims, _account(network, claims))
    except ExpressionError as error:
        raise UserError(str(error)) from error


def walkthrough_audit(network: nn.Module, costs: CostTable | None = None) -> Audit | None:
    """Judge the walkthrough, at its batch size in float32, by the network that it is about.

    Returns None for every other network, which is not run.

    Args:
        costs: of the document that the audit is for, if it has to be about the same input.
    """
    claims = walkthrough()
    wanted = (claims.input_shape, claims.element_size)
    if costs is not None and (costs.input_shape, costs.element_size) != wanted:
        return None
    leaves = (item for item in network.named_modules() if not list(item[1].children()))
    if {name: type(module).__name__ for name, module in leaves} != claims.layers:
        return None
    known = _account(copy.deepcopy(network).float().train().requires_grad_(True), claims)
    return judged(claims, known) if _is_about(claims, known) else None


def _is_about(claims: Claims, known: Account) -> bool:
    """Tell whether all figures that say which network it is are those of this network."""
    try:
        quantities = Quantities(known, claims.groups, claims.definitions)
        return all(
            _cell(section, figure, quantities, claims).verdict == "agrees"
            for section, figure in claims.figures
            if _where(section, figure).startswith(claims.identified_by)
        )
    except ExpressionError:  # of a window that is no square, say
        return False


def judged(claims: Claims, known: Account) -> Audit:
    """Judge figures and sentences by what is known of a network.

    Raises:
        ExpressionError: an expression names what the network does not have.
    """
    quantities = Quantities(known, claims.groups, claims.definitions)
    return Audit(
        cells=tuple(
            _cell(section, figure, quantities, claims) for section, figure in claims.figures
        ),
        findings=tuple(_finding(sentence, quantities, claims) for sentence in claims.sentences),
    )


def verdict_counts(cells: Iterable[JudgedFigure]) -> tuple[VerdictCount, ...]:
    """Count figures by place and verdict, every combination, 0 included."""
    counts = Counter((cell.place, cell.verdict) for cell in cells)
    places: tuple[ClaimPlace, ...] = ("table", "text", "claim")
    verdicts: tuple[Verdict, ...] = ("agrees", "rounding", "wrong")
    return tuple(VerdictCount(p, v, counts[p, v]) for p in places for v in verdicts)


def _account(network: nn.Module, claims: Claims) -> Account:
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
    image = torch.empty(claims.input_shape, dtype=dtype, device="meta")
    return account(dry_run(network, (image,), allow_real=False), claims.element_size)


def _where(section: ClaimSection, figure: PrintedFigure) -> str:
    return f"{section.section} / {figure.at}"


def _cell(
    section: ClaimSection, figure: PrintedFigure, quantities: Quantities, claims: Claims
) -> JudgedFigure:
    where, units = _where(section, figure), {**UNITS, **claims.units}
    try:
        value = expression_value(figure.formula, quantities)
        return JudgedFigure(
            where=where,
            printed=figure.printed,
            right=shown(value, figure.printed, figure.decimals, units),
            verdict=verdict(figure.printed, value, units),
            place=section.place,
            paraphrase=figure.says,
            exact=_plain(value),
            formula=figure.formula,
        )
    except ExpressionError as error:
        raise ExpressionError(f"{where}: {error}") from None


def _plain(value: ExpressionValue) -> int | float | None:
    if isinstance(value, int | Fraction):
        return int(value) if value.denominator == 1 else float(value)
    return None


def _finding(sentence: Sentence, quantities: Quantities, claims: Claims) -> JudgedClaim:
    units = {**UNITS, **claims.units}
    try:
        numbers = {
            name: shown(expression_value(formula, quantities), pattern, units=units)
            for name, (formula, pattern) in sentence.numbers.items()
        }
        return JudgedClaim(
            claim=sentence.claim,
            right=_filled(sentence.right, numbers),
            why=_filled(sentence.why, numbers),
        )
    except ExpressionError as error:
        raise ExpressionError(f"{sentence.claim}: {error}") from None


def _filled(text: str, numbers: dict[str, str]) -> str:
    """Put numbers in the place of `{name}`; str.format would also read attributes."""

    def number(match: re.Match[str]) -> str:
        if match[1] not in numbers:
            raise ExpressionError(f"no number {match[1]!r} for {{{match[1]}}}")
        return numbers[match[1]]

    return re.sub(r"\{(\w+)\}", number, text)
