"""What an analysis is made of, and how its numbers are written."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from layerscope.explain.analysis.variant_runs import Totals, VariantRun
from layerscope.explain.analysis.variants import skeleton
from layerscope.formatting import bytes_exact
from layerscope.layers import LayerSpec, Shape
from layerscope.theory.kinds import KINDS

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
        return VariantRun(variant, input_shape or self.input_shape, self.device)

    @cached_property
    def last(self) -> LayerSpec | None:
        """The last layer that multiplies by weights."""
        found = None
        for spec in self.base.spec.layers:
            if _multiplies(spec):
                found = spec
        return found

    @cached_property
    def classifiers(self) -> frozenset[str]:
        """The layers with weights that are the last on the way to an output."""
        layers = self.base.spec.layers
        makers = {tensor.value: spec for spec in layers for tensor in spec.outputs}
        found: set[str] = set()
        wanted = [tensor.value for tensor in self.base.spec.outputs]
        seen = set(wanted)
        while wanted:
            spec = makers.get(wanted.pop())
            if spec is None:
                continue
            if _multiplies(spec):
                found.add(spec.key)
                continue
            before = [tensor.value for tensor in spec.inputs if tensor.value not in seen]
            seen.update(before)
            wanted += before
        return frozenset(found)


def _multiplies(spec: LayerSpec) -> bool:
    kind = KINDS.get(spec.kind)
    return kind is not None and kind.macs is not None


def code(name: str) -> str:
    """A name from outside, as Markdown's code."""
    name = " ".join(name.split())
    longest = max((len(run) for run in _runs(name, "`")), default=0)
    fence = "`" * (longest + 1)
    space = " " if longest else ""
    return f"{fence}{space}{name}{space}{fence}"


def as_text(reason: str) -> str:
    """A sentence that may hold names from outside: none of it is Markdown's."""
    marked = re.sub(r"([\\`*_\[\]|~$#<>&])", r"\\\1", " ".join(reason.split()))
    return marked.rstrip(".")


def _runs(text: str, character: str) -> Iterable[str]:
    return "".join(c if c == character else " " for c in text).split()


def listed(names: Iterable[str]) -> str:
    """Names as code, `a`, `b` and `c`; of many the first and the last."""
    shown = [code(name) for name in names]
    if len(shown) > 6:
        return f"{', '.join(shown[:3])} … {shown[-1]} ({len(shown)} of them)"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def pieces(network: nn.Module, variant: nn.Module, paths: Sequence[str]) -> str:
    """Modules of a variant; of those that are not the network's own, which layers they hold."""
    own = dict(network.named_modules())
    if all(path in own for path in paths):
        return listed(paths)
    runs = {path: list(dict(variant.get_submodule(path).named_children())) for path in paths}
    texts = [
        f"{code(path)} ({code(names[0])}" + (f" to {code(names[-1])})" if names[1:] else ")")
        for path, names in runs.items()
    ]
    return f"runs of its layers, {', '.join(texts)}"


def count(number: Number) -> str:
    """With thousands; `unknown` where it is not known."""
    return "unknown" if number is None else f"{number:,}"


def bytes_(number: Number) -> str:
    """As the tables have them, `4,194,304 B (4.00 MiB)`."""
    return "an unknown number of bytes" if number is None else bytes_exact(int(number))


def ratio(over: Number, under: Number) -> float | None:
    """None where either is not known."""
    return None if over is None or not under else over / under


def times(over: Number, under: Number) -> str:
    """A ratio, with as many digits as tell it from a whole number."""
    factor = ratio(over, under)
    if factor is None:
        return "an unknown multiple"
    for digits in (2, 3):
        written = f"{factor:.{digits}f}"
        if factor == round(factor) or float(written) != round(factor):
            return written + "×"
    return f"{factor:.4f}×"


def percent(part: Number, whole: Number) -> str:
    """Of the whole."""
    share = ratio(part, whole)
    return "an unknown share" if share is None else f"{100 * share:.1f}%"


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
    """By the textbook; None where a layer's are not known."""
    return None if run.textbook.lower_bound else run.textbook.forward_flops


def remarks(run: VariantRun, figures: tuple[Figure, ...]) -> str:
    """Whether it ran, and where the instruments found something else than was predicted."""
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
