"""An explanation on the terminal: what each value was worked out to be, and what it really was."""

from collections.abc import Mapping, Sequence

import numpy as np

from layerscope.base.formatting import UNKNOWN, wrapped
from layerscope.dry_run import Shape
from layerscope.explain.explanation import Explanation, LayerExplanation
from layerscope.explain.values import Value
from layerscope.report.explain.value_block import is_noise
from layerscope.report.terminal import Screen

# Where terms cancel, a difference is large in ulp of what is left and small beside the terms.
COLUMNS = ("value", "computed", "actual", "off, ulp", "off / Σ|terms|", "terms")


def show_explanation(screen: Screen, explanation: Explanation) -> None:
    """A table per layer, then the loss and the updates."""
    settings = explanation.settings
    screen.panel(
        f"{settings.network}, explained",
        [
            ("input", f"{_sizes(settings.input_shape)}, {settings.dtype}"),
            *settings.origin,
            ("loss", f"{loss_words(explanation)}, mean of the batch"),
        ],
    )
    for layer in explanation.layers:
        if layer.is_chosen:
            _show_layer(screen, explanation, layer)
    named = [(_with_class(explanation, value), value) for value in explanation.loss.values]
    title = f"loss: {explanation.loss.kind}"
    screen.table(title, COLUMNS, [_row(name, value) for name, value in named])
    if explanation.refused_types:
        screen.say(f"not explained: {', '.join(explanation.refused_types)}")
    screen.say(wrapped(verdict(explanation)))


def verdict(explanation: Explanation) -> str:
    """Whether computed and actual agree everywhere, and what is meant by that."""
    updated = [value for update in explanation.updates for value in update.values]
    shown = [v for v in (*explanation.values, *updated) if v.actual is not None]
    exponents = _exponents(explanation.values)
    off = [value for value in shown if not _agrees(value, exponents)]
    criterion = (
        "they differ by at most 16 + √n roundings (of the network's dtype) of the sum of the "
        "absolute values of their n terms; behind a softmax by as many more as its inputs differ, "
        "since exponents are rounded too"
    )
    noise = sum(is_noise(value) for value in shown)
    cancels = (
        f" Of {noise:,} of them (`cancels`) the terms cancel, so that only rounding is left: off "
        "in ulp means nothing there."
    ) * bool(noise)
    if not off:
        return (
            f"All {len(shown):,} values that the network shows agree within rounding: {criterion}."
            f"{cancels}"
        )
    names = ", ".join(f"{value.layer} {value.name}" for value in off[:8])
    more = f" and {len(off) - 8:,} more" * (len(off) > 8)
    return (
        f"{len(off):,} of {len(shown):,} values that the network shows do not agree within "
        f"rounding: {names}{more}. The others do: {criterion}.{cancels}"
    )


def _exponents(values: Sequence[Value]) -> dict[str, float]:
    """How far the inputs of each softmax lie apart, by its layer; the loss is one too."""
    return {
        value.layer: float(np.ptp(value.products))
        for value in values
        if value.name.startswith("max[")
    }


def _agrees(value: Value, exponents: Mapping[str, float]) -> bool | None:
    """-ln p near 0 is the difference of two numbers of which the larger is 1 or more."""
    least = 1.0 if value.name == "L" and value.layer in exponents else 0.0
    return value.agrees(exponents.get(value.layer, 0.0), least)


_LOSSES = {"cross_entropy": "cross-entropy", "mse": "mean squared error"}


def loss_words(explanation: Explanation) -> str:
    """`cross-entropy with label smoothing 0.1 against class 3 (cat)`."""
    loss, names = explanation.loss, explanation.settings.class_names
    classes = ", ".join(
        f"{c} ({names[c]})" if c < len(names) else str(c) for c in dict.fromkeys(loss.target)
    )
    smoothing = f" with label smoothing {loss.label_smoothing:g}" * bool(loss.label_smoothing)
    return f"{_LOSSES[loss.kind]}{smoothing} against class {classes}"


def number(value: float | None) -> str:
    """As many digits as tell float32 values apart."""
    return UNKNOWN if value is None else f"{value:.9g}"


def _show_layer(screen: Screen, explanation: Explanation, layer: LayerExplanation) -> None:
    spec = layer.spec
    inputs = " and ".join(_sizes(shape) for shape in spec.input_shapes) or "nothing"
    title = f"{layer.key}: {spec.type}, {inputs} → {_sizes(spec.output_shape)}"
    if layer.refused is not None:
        screen.say(title)
        screen.say(f"not explained: {layer.refused}\n")
        return
    updated = [
        (f"{update.optimizer}: {value.name}", value)
        for update in explanation.updates_of(layer.key)
        for value in update.values[-1:]
    ]
    named = [*((value.name, value) for value in layer.values), *updated]
    screen.table(title, COLUMNS, [_row(name, value) for name, value in named])
    if layer.note:
        screen.say(f"{layer.note}\n")


def class_of(value: Value) -> int | None:
    """`p[0,3]` is of class 3; `L` and `Z[0]` are of none."""
    indices = value.name.partition("[")[2].rstrip("]").split(",")
    return int(indices[1]) if len(indices) > 1 else None


def _with_class(explanation: Explanation, value: Value) -> str:
    """`p[0,3] cat`, where the classes' names are known."""
    names, found = explanation.settings.class_names, class_of(value)
    return value.name if found is None or found >= len(names) else f"{value.name} {names[found]}"


def _row(name: str, value: Value) -> tuple[str, ...]:
    ulps = UNKNOWN if value.ulps is None else f"{value.ulps:.3g}"
    if is_noise(value):
        ulps = "cancels"
    share = _share_of_terms(value)
    return (
        name,
        number(value.computed),
        number(value.actual),
        ulps,
        UNKNOWN if share is None else f"{share:.2g}",
        f"{value.num_terms:,}",
    )


def _share_of_terms(value: Value) -> float | None:
    if value.actual is None:
        return None
    difference = abs(value.computed - value.actual)
    return difference / value.magnitude if difference and value.magnitude else difference


def _sizes(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "one number"
