"""What an analysis is made of, and how its numbers are written."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from layerscope.dry_run import Shape
from layerscope.errors import UserError
from layerscope.networks.layer_calls import DescribedCall, spatial_dims
from layerscope.whatif.variant_runs import Totals, VariantRun
from layerscope.whatif.variants import skeleton
from layerscope.whatif.words import bytes_, listed, ratio, times

Number = int | float | None
Pair = tuple[Number, Number]  # predicted, measured


@dataclass(frozen=True)
class Figure:
    """One number, twice.

    Args:
        name: plain text; may hold names of layers.
        unit: `B`, `FLOPs`, `parameters`, `×`, `%`.
        predicted: by theory; None is not known.
        measured: on this machine; None is not measured.
    """

    name: str
    unit: str
    predicted: Number
    measured: Number = None


@dataclass(frozen=True)
class Finding:
    """What is to be said of one matter.

    Args:
        text: Markdown; every number in it is computed.
    """

    title: str
    text: str
    figures: tuple[Figure, ...] = ()


@dataclass(frozen=True)
class Said:
    """A finding's text and figures, before it has its title."""

    text: str
    figures: tuple[Figure, ...] = ()


class Subject:
    """The network that is analysed, and its variants' common settings.

    Raises:
        UserError: it does not run.
    """

    def __init__(self, network: nn.Module, input_shape: Shape, dtype: torch.dtype) -> None:
        first = next(network.parameters(), None)
        self.device = torch.device("cpu") if first is None else first.device
        self.network = skeleton(network, dtype)
        self.input_shape = input_shape
        self.base = VariantRun(self.network, input_shape, self.device)

    def run(self, variant: nn.Module, input_shape: Shape | None = None) -> VariantRun:
        """A variant on the same input, or on another.

        Raises:
            UserError: it does not run.
        """
        try:
            return VariantRun(variant, input_shape or self.input_shape, self.device)
        except UserError as error:  # its text is the framework's
            raise UserError("the network so changed does not run on this machine") from error

    @cached_property
    def last(self) -> DescribedCall | None:
        """The last layer that multiplies by weights."""
        found = None
        for spec in self.base.spec.layers:
            if _multiplies(spec):
                found = spec
        return found

    @cached_property
    def classifiers(self) -> frozenset[str]:
        """The layers with weights that are the last on the way to an output."""
        found: set[str] = set()
        wanted = {tensor.storage for tensor in self.base.spec.outputs}
        for spec in reversed(self.base.spec.layers):
            made = {tensor.storage for tensor in spec.outputs}
            if not made & wanted:
                continue
            if not (spec.in_place or spec.returns_input):
                wanted -= made
            if _multiplies(spec):
                found.add(spec.key)
            else:
                wanted.update(tensor.storage for tensor in spec.inputs)
        return frozenset(found)


def _multiplies(spec: DescribedCall) -> bool:
    return spec.kind == "linear" or spatial_dims(spec.kind) > 0


_QUANTITIES = {
    "num_parameters": ("parameters", "parameters"),
    "parameter_bytes": ("bytes of parameters", "B"),
    "forward_flops": ("forward FLOPs of convolutions and linear layers", "FLOPs"),
    "output_bytes": ("bytes that layers put out", "B"),
    "saved_bytes": ("bytes kept for backward", "B"),
    "peak_bytes": ("peak of a step above parameters, buffers and input", "B"),
}


def figures_of(
    run: VariantRun, *quantities: str, base: VariantRun | None = None
) -> tuple[Figure, ...]:
    """Figures of one network; with `base`, each followed by how many times that one's it is."""
    figures: list[Figure] = []
    for quantity in quantities:
        name, unit = _QUANTITIES[quantity]
        figures.append(Figure(name, unit, *_pair(run, quantity)))
        if base is not None:
            predicted, measured = (
                ratio(over, under)
                for over, under in zip(_pair(run, quantity), _pair(base, quantity), strict=True)
            )
            figures.append(Figure(f"{name}, against this network", "×", predicted, measured))
    return tuple(figures)


def _pair(run: VariantRun, quantity: str) -> Pair:
    def of(totals: Totals) -> Number:
        return getattr(totals, quantity)

    return of(run.predicted), of(run.measured)


@dataclass(frozen=True)
class Compared:
    """One quantity of this network and of a variant: both as predicted, or both as measured."""

    own: int
    its: int
    is_measured: bool

    @property
    def times(self) -> str:
        """How many times as much the variant's is."""
        return times(self.its, self.own)

    @property
    def bytes_(self) -> str:
        """The variant's."""
        return ("as measured " if self.is_measured else "") + bytes_(self.its)


def compared(base: VariantRun, run: VariantRun, quantity: str) -> Compared | None:
    """None where neither both predictions nor both measurements are there."""
    for number, is_measured in enumerate((False, True)):
        own, its = (_pair(each, quantity)[number] for each in (base, run))
        if own and its is not None:
            return Compared(int(own), int(its), is_measured)
    return None


def known_bytes(run: VariantRun, quantity: str) -> str | None:
    """As predicted; where that is not known, as measured; None where neither is."""
    predicted, measured = _pair(run, quantity)
    if predicted is not None:
        return bytes_(int(predicted))
    return None if measured is None else f"as measured {bytes_(int(measured))}"


def without_formula(run: VariantRun) -> str:
    """Say whose FLOPs are not known: `a` and `b` have no formula."""
    types = run.textbook.unknown
    return f"{listed(types)} {'has' if len(types) == 1 else 'have'} no formula"


def textbook_figures(run: VariantRun, base: VariantRun) -> tuple[Figure, ...]:
    """FLOPs of a step as the walkthrough counts them, which no instrument does."""
    flops = step_flops(run)
    return (
        Figure("FLOPs of a step by the textbook", "FLOPs", flops),
        Figure(
            "FLOPs of a step by the textbook, against this network",
            "×",
            ratio(flops, step_flops(base)),
        ),
    )


def step_flops(run: VariantRun) -> int | None:
    """Forward and backward by the textbook; None where a layer's are not known."""
    total = run.textbook
    return None if total.lower_bound else total.forward_flops + total.backward_flops


def forward_flops(run: VariantRun) -> int | None:
    """Return the textbook's forward FLOPs; None where a layer's are not known."""
    return None if run.textbook.lower_bound else run.textbook.forward_flops


def remarks(run: VariantRun, figures: tuple[Figure, ...]) -> str:
    """Say whether it ran, and where the instruments found something else than was predicted."""
    if run.too_large:
        return f" It was not run: {run.too_large}."
    differing = [
        f"{figure.name} by {figure.measured - figure.predicted:+,} {figure.unit}"
        for figure in figures
        if figure.unit != "×"
        and figure.predicted is not None
        and figure.measured is not None
        and figure.measured != figure.predicted
    ]
    if differing:
        return f" Measured otherwise than predicted, and unexplained: {'; '.join(differing)}."
    return ""
