"""One layer: what goes in, what comes out, what it costs, and one value of each kind worked out."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from layerscope.base.formatting import bytes_exact, count_short
from layerscope.dry_run import Shape, TensorRecord
from layerscope.explain.explainer import GeneralFormula
from layerscope.explain.explanation import LayerExplanation
from layerscope.explain.values import Value
from layerscope.networks.layer_calls import DescribedCall
from layerscope.operations import CostFormula
from layerscope.operations.family import Number, per_dimension
from layerscope.operations.shapes import (
    conv_output_size,
    conv_transpose_output_size,
    overhanging_windows,
)
from layerscope.operations.words import group_of
from layerscope.report.document import (
    Block,
    Bullets,
    Formula,
    Heading,
    Math,
    Paragraph,
    Strong,
    Text,
    joined,
    markup,
)
from layerscope.report.explain.values import value_blocks
from layerscope.report.latex import (
    coloured,
    general_latex,
    latex_count,
    number_latex,
    shape_latex,
    substituted_latex,
    symbol_latex,
    upright,
)

# Forward --------------------------------------------------------------------------------------


def forward_layer(
    layer: LayerExplanation, formulas: tuple[CostFormula, ...], element_size: int, level: int
) -> Iterator[Block]:
    """Yield the layer's part of the forward pass.

    Args:
        formulas: the costs of its first call.
        level: of its heading.
    """
    yield Heading(level, layer_title(layer))
    if layer.note:
        yield Paragraph(layer.note)
    yield from _given(layer.spec)
    yield from _output(layer.spec)
    yield from _memory(layer, element_size)
    yield from _parameters(layer, element_size)
    yield from _forward_flops(layer, formulas)
    yield from general_formulas([f for f in layer.formulas if not f.quantity.startswith("dL")])
    yield from _refusal(layer)
    yield from _values("One value", layer.output_values)


def layer_title(layer: LayerExplanation) -> str:
    """Return `block1.conv (Conv2d)`; the type only where it is not the name."""
    key, type_ = layer.key, layer.spec.type
    return key if key.lower() == type_.lower() else f"{key} ({type_})"


def general_formulas(formulas: Sequence[GeneralFormula]) -> Iterator[Block]:
    """Yield formulas for every position, with what their symbols mean."""
    if formulas:
        yield _title("In general")
    for formula in formulas:
        yield Formula(coloured(formula.latex))
        if formula.where:
            yield Paragraph(markup(upright(formula.where)))


def _title(words: str) -> Paragraph:
    return Paragraph((Strong(words),))


def _list(title: str, items: Iterable[Text]) -> Iterator[Block]:
    yield _title(title)
    yield Bullets(tuple(items))


def _refusal(layer: LayerExplanation) -> Iterator[Block]:
    if layer.refused is not None:
        yield Paragraph(f"Its values are not explained: {layer.refused}.", "note")


def _given(spec: DescribedCall) -> Iterator[Block]:
    lines: list[Text] = [
        joined(("Input: ", named_shape(shape, "in", channel_symbol(spec, "in"))))
        for shape in spec.input_shapes
    ]
    filters = spec.geometry.get("out_channels")
    if filters is not None:
        lines.append(("Filters: ", _equals("C_out", filters)))
    yield from _list("Given", (*lines, *settings_lines(spec)))


def _output(spec: DescribedCall) -> Iterator[Block]:
    rule = size_rule(spec)
    yield _title("Output")
    if rule is not None:
        first, *others = rule.formulas
        yield from _both_lines(symbol_latex(first.quantity), first)
        for other in others:
            yield _substituted_line(symbol_latex(other.quantity), other)
    for sentence in (rule.note if rule else "", padding_sentence(spec)):
        if sentence:
            yield Paragraph(markup(sentence))
    shapes = (named_shape(s, "out", channel_symbol(spec, "out")) for s in spec.output_shapes)
    yield Bullets(tuple(joined(("Shape: ", shape)) for shape in shapes))


def _memory(layer: LayerExplanation, element_size: int) -> Iterator[Block]:
    cost, spec = layer.cost, layer.spec
    if not cost.output_bytes:
        yield from _list("Memory", ["0 B: the output is a view of the input."])
        return
    lines = [
        _tensor(s, "out", channel_symbol(spec, "out"), element_size) for s in spec.output_shapes
    ]
    if layer.num_calls > 1:
        lines.append(f"All {layer.num_calls} calls: {bytes_exact(cost.output_bytes)}")
    yield from _list("Memory", lines)


def _parameters(layer: LayerExplanation, element_size: int) -> Iterator[Block]:
    spec, cost = layer.spec, layer.cost
    if not spec.parameters:
        yield from _list("Parameters", ["None."])
        return
    lines = [_parameter(spec, name, tensor) for name, tensor in spec.parameters.items()]
    total = f"Together {cost.num_parameters:,}: {tensor_bytes(cost.num_parameters, element_size)}"
    if cost.num_parameters != sum(prod(t.shape) for t in spec.parameters.values()):
        total += "; a parameter that another layer has too is counted once, with the first of them"
    lines.append(total)
    if cost.buffer_bytes:
        lines.append(
            f"Buffers (statistics and counters, not learned): {cost.num_buffer_elements:,} "
            f"numbers, {bytes_exact(cost.buffer_bytes)}"
        )
    yield from _list("Parameters", lines)


def _parameter(spec: DescribedCall, name: str, tensor: TensorRecord) -> Text:
    formula = CostFormula(name, _product, _parameter_sizes(spec, tensor.shape))
    sizes = formula.arguments.items()
    count = (
        number_latex(*next(iter(sizes)))
        if len(tensor.shape) == 1
        else substituted_latex(formula, coloured=True)
    )
    return (f"{name}, shape ", Math(shape_latex(sizes)), ": ", Math(count))


def _parameter_sizes(spec: DescribedCall, shape: Shape) -> dict[str, int]:
    geometry = spec.geometry
    if len(shape) == 1:
        return {channel_symbol(spec, "out"): shape[0]}
    if "in_features" in geometry:
        names = ("out_features", "in_features")
    elif "out_channels" in geometry and len(shape) > 2:
        transposed = ("C_in", "C_out_per_group")
        names = transposed if _is_transposed(spec) else ("C_out", "C_in_per_group")
        names += ("k_d", "k_h", "k_w")[5 - len(shape) :]
    else:
        names = tuple(f"n_{number}" for number in range(1, len(shape) + 1))
    return dict(zip(names, shape, strict=True))


def _forward_flops(layer: LayerExplanation, formulas: Sequence[CostFormula]) -> Iterator[Block]:
    cost = layer.cost
    yield _title("FLOPs")
    if cost.forward_flops is None:
        yield Bullets(("Unknown: no cost is written for this kind of layer.",))
    elif not cost.forward_flops:
        yield Bullets(("None: it computes nothing that is counted.",))
    else:
        for formula in formulas:
            if formula.quantity == "forward_flops":
                yield from _both_lines(_flops_left("forward"), formula)
        calls = f", in all {layer.num_calls} calls" * (layer.num_calls > 1)
        macs = f"; {cost.macs:,} MACs" if cost.macs else ""
        yield Bullets((f"{_flops_text(cost.forward_flops)}{macs}{calls}.",))


def _values(title: str, values: Sequence[Value], remark: str = "") -> Iterator[Block]:
    """Yield values worked out; the remark stands with the last one."""
    if values:
        yield _title(title)
    for number, value in enumerate(values, 1):
        yield from value_blocks(value, remark=remark if number == len(values) else "")


# Backward -------------------------------------------------------------------------------------

_GRADIENTS = {
    "input_gradient_flops": "input",
    "weight_gradient_flops": "weight",
    "bias_gradient_flops": "bias",
}


def backward_layer(
    layer: LayerExplanation, formulas: tuple[CostFormula, ...], element_size: int, level: int
) -> Iterator[Block]:
    """Yield the layer's part of the backward pass: its gradients, and what they cost."""
    yield Heading(level, f"Gradients of {layer_title(layer)}")
    yield from _list("Gradients", _gradients(layer, element_size))
    yield from _backward_flops(layer, formulas)
    yield from general_formulas([f for f in layer.formulas if f.quantity.startswith("dL")])
    yield from _refusal(layer)
    yield from _values("One gradient of the input", layer.input_gradient_values)
    yield from _values("One gradient of the weight", layer.weight_gradient_values)
    remark = removed_bias(layer)
    yield from _values("One gradient of the bias", layer.bias_gradient_values, remark)


def _gradients(layer: LayerExplanation, element_size: int) -> Iterator[Text]:
    """Yield shape and bytes, of the input's gradients and of the parameters'."""
    spec, cost = layer.spec, layer.cost
    channels = channel_symbol(spec, "in")
    for shape in spec.input_shapes:
        yield joined(("Of the input: ", named_shape(shape, "in", channels)))
        if cost.gradient_bytes:
            yield _tensor(shape, "in", channels, element_size)
    if not cost.gradient_bytes and spec.inputs:
        yield "0 B: it is a view of the output's gradient."
    if layer.num_calls > 1:
        yield f"All {layer.num_calls} calls: {bytes_exact(cost.gradient_bytes)}"
    if cost.num_parameters:
        size = tensor_bytes(cost.num_parameters, element_size)
        yield f"Of the parameters ({', '.join(spec.parameters)}), one for each: {size}"


def _backward_flops(layer: LayerExplanation, formulas: Sequence[CostFormula]) -> Iterator[Block]:
    cost = layer.cost
    yield _title("FLOPs")
    if cost.backward_flops is None:
        yield Bullets(("Unknown: no cost is written for this kind of layer.",))
        return
    if not cost.backward_flops and not cost.bias_gradient_flops:
        yield Bullets(("None: it computes nothing that is counted.",))
        return
    named = [(_GRADIENTS[f.quantity], f) for f in formulas if f.quantity in _GRADIENTS]
    for names, formula in _same_lines(named):
        yield from _both_lines(_flops_left(", ".join(names)), formula)
    counts = {"input": cost.input_gradient_flops, "weight": cost.weight_gradient_flops}
    lines = [f"For the gradient of the {what}: {_flops_text(n)}" for what, n in counts.items() if n]
    if len(lines) > 1:
        lines.append(f"Together: {_flops_text(cost.backward_flops)}")
    if cost.bias_gradient_flops:
        flops = _flops_text(cost.bias_gradient_flops)
        lines.append(f"For the gradient of the bias, apart: {flops}")
    yield Bullets(tuple(lines))


def _same_lines(
    formulas: Iterable[tuple[str, CostFormula]],
) -> Iterable[tuple[list[str], CostFormula]]:
    """Return formulas that are the same, with the same numbers, under all names they have."""
    found: dict[object, tuple[list[str], CostFormula]] = {}
    for name, formula in formulas:
        key = (general_latex(formula), tuple(formula.arguments.items()))
        found.setdefault(key, ([], formula))[0].append(name)
    return found.values()


def removed_bias(layer: LayerExplanation) -> str:
    """Return why L does not depend on the bias, where it does not."""
    if layer.bias_removed_by is None:
        return ""
    return (
        f"In mathematics this is exactly 0: {layer.bias_removed_by} alone reads what comes out, "
        "and in train mode it subtracts each channel's mean over the batch, the bias with it. L "
        "does not depend on this bias; what stands here is rounding."
    )


# Shapes, sizes and bytes ----------------------------------------------------------------------

AXES = ("D", "H", "W")


def channel_symbol(spec: DescribedCall, side: str) -> str:
    """Return the symbol of the second dimension of what goes `in` or comes `out`."""
    if "in_features" in spec.geometry:
        return f"{side}_features"
    return f"C_{side}" if "out_channels" in spec.geometry else "C"


def named_shape(shape: Shape, side: str, channels: str) -> Text:
    """Return symbols and numbers: `(N, C, H_in, W_in) = (32, 3, 32, 32)`."""
    names = size_names(shape, side, channels)
    numbers = shape_latex(names.items())
    if not 2 <= len(shape) <= 5:
        return (Math(numbers),)
    symbols = ", ".join(symbol_latex(name) for name in names)
    return (Math(f"({symbols}) = {numbers}"),)


def size_names(shape: Shape, suffix: str, channels: str) -> dict[str, int]:
    """Return each dimension under its symbol.

    Args:
        suffix: `in` or `out`, of the spatial ones.
        channels: the symbol of the second dimension.
    """
    if not 2 <= len(shape) <= 5:
        return {f"n_{number}": size for number, size in enumerate(shape, 1)}
    spatial = [f"{axis}_{suffix}" for axis in AXES[5 - len(shape) :]]
    return dict(zip(("N", channels, *spatial), shape, strict=True))


def tensor_bytes(elements: int, element_size: int) -> str:
    """Return `98,304 × 4 B = 393,216 B (384 KiB)`."""
    return f"{elements:,} × {element_size} B = {bytes_exact(elements * element_size)}"


def _tensor(shape: Shape, suffix: str, channels: str, element_size: int) -> Text:
    """Return how many numbers a tensor has, and their bytes."""
    formula = CostFormula("elements", _product, size_names(shape, suffix, channels))
    product = Math(substituted_latex(formula, coloured=True))
    return (product, f" numbers: {tensor_bytes(formula.value, element_size)}")


def _product(**sizes: Number) -> Number:
    return prod(sizes.values())


def _flops_left(index: str) -> str:
    """Return `FLOPs` with what they are of below."""
    return rf"\text{{FLOPs}}_{{\text{{{index}}}}}"


def _flops_text(flops: int) -> str:
    """Return `56,623,104 FLOPs (56.6 M)`."""
    exact = f"{flops:,} FLOPs"
    return exact if flops < 1000 else f"{exact} ({count_short(flops)})"


def _both_lines(left: str, formula: CostFormula) -> Iterator[Formula]:
    """Yield the formula with its symbols, then with its numbers.

    Args:
        left: LaTeX of what the formula gives.
    """
    yield Formula(f"{left} = {general_latex(formula, coloured=True)}")
    yield _substituted_line(left, formula)


def _substituted_line(left: str, formula: CostFormula) -> Formula:
    if len(formula.arguments) == 1:
        return Formula(f"{left} = {latex_count(formula.value)}")
    return Formula(f"{left} = {substituted_latex(formula, coloured=True)}")


# Where an output's size comes from ------------------------------------------------------------

SizeFunction = Callable[..., Number]


@dataclass(frozen=True)
class SizeRule:
    """Rule by which the output's size along some dimensions is found.

    Args:
        formulas: one per dimension; `quantity` is the symbol of the size.
        note: what the formulas do not say.
    """

    formulas: tuple[CostFormula, ...]
    note: str = ""


def size_rule(spec: DescribedCall) -> SizeRule | None:
    """Return the rule of a convolution or pooling; None where the size is not worked out so."""
    geometry = spec.geometry
    if "kernel_size" not in geometry:
        return None
    if "out_channels" in geometry:
        if geometry["padding"] == "same":
            return None
        function = conv_transpose_output_size if _is_transposed(spec) else conv_output_size
        return SizeRule(_size_formulas(spec, function))
    return _pooling_rule(spec) if group_of(spec.kind) == "pool" else None


def padding_sentence(spec: DescribedCall) -> str:
    """Return what a convolution's padding does to the size; empty for another layer."""
    geometry = spec.geometry
    if "out_channels" not in geometry or _is_transposed(spec) or "padding" not in geometry:
        return ""
    dims, padding = _dims(spec), geometry["padding"]
    if padding == "same":
        return (
            "Same padding, by name: as many zeros are added as keep the size, $d(k-1)$ in each "
            "dimension. It needs stride 1."
        )
    names = ("kernel_size", "stride", "dilation")
    kernel, stride, dilation = (per_dimension(geometry[name], dims) for name in names)
    padded = (0,) * dims if padding == "valid" else per_dimension(padding, dims)
    if not any(padded):
        return "Valid padding, $p = 0$: the kernel stays inside of the input."
    halves = tuple((k - 1) // 2 for k in kernel)
    if padded != halves or set(dilation) != {1}:
        return ""
    if spec.input_shape[-dims:] == spec.output_shape[-dims:]:
        return (
            "Same padding, $p = \\left\\lfloor (k-1)/2 \\right\\rfloor$: with an odd $k$ and "
            "stride 1 the size stays as it is."
        )
    if set(stride) != {1}:
        return (
            "$p = \\left\\lfloor (k-1)/2 \\right\\rfloor$, but the stride is not 1: the size "
            "does not stay."
        )
    return (
        "$p = \\left\\lfloor (k-1)/2 \\right\\rfloor$, but an even $k$ has no middle: the size "
        "shrinks by 1."
    )


def _is_transposed(spec: DescribedCall) -> bool:
    return "output_padding" in spec.geometry


def _dims(spec: DescribedCall) -> int:
    kernel = spec.geometry["kernel_size"]
    return len(spec.output_shape) - 2 if isinstance(kernel, int) else len(kernel)


def _pooling_rule(spec: DescribedCall) -> SizeRule | None:
    if not spec.geometry.get("ceil_mode"):
        formulas = _size_formulas(spec, conv_output_size)
        sizes = tuple(formula.value for formula in formulas)
        return SizeRule(formulas) if sizes == spec.output_shape[-len(sizes) :] else None
    formulas = _size_formulas(spec, overhanging_windows)
    note = "With `ceil_mode` the division is rounded up: a last window may hang over the end."
    for formula, size in zip(formulas, spec.output_shape[-_dims(spec) :], strict=True):
        if formula.value != size:
            note += (
                f" The last of the {formula.value} windows of ${formula.quantity[0]}$ would begin "
                f"in the padding behind the input, and is left out: {formula.value} - 1 = {size}."
            )
    return SizeRule(formulas, note)


def _size_formulas(spec: DescribedCall, function: SizeFunction) -> tuple[CostFormula, ...]:
    return tuple(
        CostFormula(f"{axis}_out", _renamed(function, axis), _size_settings(spec, number, axis))
        for number, axis in enumerate(AXES[-_dims(spec) :])
    )


def _size_settings(spec: DescribedCall, number: int, axis: str) -> dict[str, int]:
    """Return the settings by their symbols; one that changes nothing (p = 0) is left out."""
    geometry, dims = spec.geometry, _dims(spec)
    kernel = per_dimension(geometry["kernel_size"], dims)
    padding = geometry.get("padding", 0)
    named = {
        f"{axis}_in": spec.input_shape[-dims:][number],
        "p": 0 if padding == "valid" else per_dimension(padding, dims)[number],
        f"k_{axis.lower()}": kernel[number],
        "s": per_dimension(geometry.get("stride") or kernel, dims)[number],
        "d": per_dimension(geometry.get("dilation", 1), dims)[number],
        "p_out": per_dimension(geometry.get("output_padding", 0), dims)[number],
    }
    neutral = {"p": 0, "d": 1, "p_out": 0}
    return {name: value for name, value in named.items() if neutral.get(name) != value}


@lru_cache(maxsize=64)
def _renamed(function: SizeFunction, axis: str) -> SizeFunction:
    """Return a size function that takes its settings as H_in, k_h, s, p, d and p_out."""

    def renamed(**n: Number) -> Number:
        further = {"output_padding": n["p_out"]} if "p_out" in n else {}
        size, kernel = n[f"{axis}_in"], n[f"k_{axis.lower()}"]
        return function(size, kernel, n["s"], n.get("p", 0), dilation=n.get("d", 1), **further)

    return renamed


# Settings in words ----------------------------------------------------------------------------

_SYMBOLS = {"kernel_size": "k", "stride": "s", "padding": "p", "dilation": "d", "groups": "groups"}
_NEUTRAL = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_WORDS = {
    "kernel_size": "Kernel",
    "stride": "Stride",
    "padding": "Padding",
    "dilation": "Dilation",
    "eps": "Epsilon, added to the variance",
    "p": "Probability of dropping",
}
# Said elsewhere: the channels in the shapes, the bias among the parameters.
_SHOWN_ELSEWHERE = (
    *("bias", "in_channels", "out_channels", "in_features", "out_features", "num_features"),
    *("affine", "track_running_stats", "return_indices"),
)
_USUAL = {
    "padding_mode": "zeros",
    "ceil_mode": False,
    "count_include_pad": True,
    "groups": 1,
    "dilation": 1,
    "output_padding": 0,
}


def settings_short(spec: DescribedCall) -> str:
    """Return `Conv2d, k 3, p 1`; what changes nothing is left out."""
    parts = [spec.type]
    for name, symbol in _SYMBOLS.items():
        value = spec.geometry.get(name)
        if value is not None and _plain(value) != _NEUTRAL.get(name):
            parts.append(f"{symbol} {_plain(value)}")
    return ", ".join(parts)


def settings_lines(spec: DescribedCall) -> Iterator[Text]:
    """Yield the settings, but those with which a layer does the usual thing."""
    for name, value in spec.geometry.items():
        plain = _plain(value)
        usual = name in _USUAL and plain == _USUAL[name]
        if name in _SHOWN_ELSEWHERE or value is None or usual:
            continue
        if name == "training":
            yield "Train mode" if value else "Eval mode"
            continue
        words = _WORDS.get(name, name.replace("_", " ").capitalize())
        symbol = _SYMBOLS.get(name)
        if symbol is None or symbol == name or isinstance(value, str):
            yield f"{words}: {plain}"
        else:
            yield (f"{words}: ", _equals(symbol, plain))


def _equals(name: str, value: object) -> Math:
    return Math(f"{symbol_latex(name)} = {number_latex(name, value)}")


def _plain(value: Any) -> Any:
    """Return (3, 3) as 3, (3, 5) as 3×5."""
    if isinstance(value, tuple | list):
        return value[0] if len(set(value)) == 1 else "×".join(map(str, value))
    return value
