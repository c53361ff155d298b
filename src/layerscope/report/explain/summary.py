"""An explanation on the terminal: what each value was worked out to be, and what it really was."""

from collections.abc import Sequence

from layerscope.explain.explanation import Explanation, LayerExplanation
from layerscope.explain.values import Value
from layerscope.formatting import UNKNOWN
from layerscope.layers.spec import Shape
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
            ("loss", f"{explanation.loss.kind} against class {settings.target}, mean of the batch"),
        ],
    )
    for layer in explanation.layers:
        if layer.is_chosen:
            _show_layer(screen, explanation, layer)
    _show_values(screen, f"loss: {explanation.loss.kind}", explanation.loss.values)
    if explanation.refused_kinds:
        screen.say(f"not explained: {', '.join(explanation.refused_kinds)}")


def number(value: float | None) -> str:
    """As many digits as tell float32 values apart."""
    return UNKNOWN if value is None else f"{value:.9g}"


def _show_layer(screen: Screen, explanation: Explanation, layer: LayerExplanation) -> None:
    spec = layer.spec
    inputs = " and ".join(_sizes(shape) for shape in spec.input_shapes) or "nothing"
    title = f"{layer.key}: {spec.kind}, {inputs} → {_sizes(spec.output_shape)}"
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


def _show_values(screen: Screen, title: str, values: Sequence[Value]) -> None:
    screen.table(title, COLUMNS, [_row(value.name, value) for value in values])


def _row(name: str, value: Value) -> tuple[str, ...]:
    ulps = UNKNOWN if value.ulps is None else f"{value.ulps:.3g}"
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
