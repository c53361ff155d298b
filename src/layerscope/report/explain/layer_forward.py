"""One layer's part of the forward pass: what goes in, what comes out, what it costs, one value."""

from math import prod

from layerscope.base.formatting import bytes_exact
from layerscope.dry_run import Shape, TensorRecord
from layerscope.explain.explainer import GeneralFormula
from layerscope.explain.explanation import LayerExplanation
from layerscope.networks.layer_calls import DescribedCall
from layerscope.operations import Formula
from layerscope.report.document.escape import escaped
from layerscope.report.explain.explained_settings import settings_lines
from layerscope.report.explain.formula_lines import (
    both_lines,
    coloured,
    display,
    flops_left,
    flops_text,
    shape_latex,
    size_left,
    substituted_line,
    tensor_bytes,
    upright,
)
from layerscope.report.explain.sizes import (
    elements_formula,
    padding_sentence,
    size_names,
    size_rule,
)
from layerscope.report.explain.value_block import value_markdown
from layerscope.report.profile.formulas import number_latex, substituted_latex, symbol_latex


def forward_layer(
    layer: LayerExplanation, formulas: tuple[Formula, ...], element_size: int, level: int
) -> str:
    """Under a heading of its own.

    Args:
        formulas: the costs of its first call.
        level: of the heading.
    """
    parts = [
        f"{'#' * level} {layer_title(layer)}",
        escaped(layer.note),
        _given(layer.spec),
        _output(layer.spec),
        _memory(layer, element_size),
        _parameters(layer, element_size),
        _flops(layer, formulas),
        *general_formulas([f for f in layer.formulas if not f.quantity.startswith("dL")]),
        refusal_note(layer),
        *_values(layer),
    ]
    return "\n\n".join(part for part in parts if part)


def layer_title(layer: LayerExplanation) -> str:
    """Return `block1.conv (Conv2d)`; the type only where it is not the name."""
    key, type_ = escaped(layer.key), escaped(layer.spec.type)
    return key if key.lower() == type_.lower() else f"{key} ({type_})"


def refusal_note(layer: LayerExplanation) -> str:
    """Why there are no numbers of this layer."""
    if layer.refused is None:
        return ""
    return f"> Its values are not explained: {escaped(layer.refused)}."


def general_formulas(formulas: list[GeneralFormula]) -> list[str]:
    """For every position, with what their symbols mean."""
    if not formulas:
        return []
    parts = ["**In general**"]
    for formula in formulas:
        parts += [display(coloured(formula.latex)), upright(formula.where)]
    return parts


def channel_symbol(spec: DescribedCall, side: str) -> str:
    """Return the symbol of the second dimension of what goes `in` or comes `out`."""
    if spec.kind == "linear":
        return f"{side}_features"
    return f"C_{side}" if spec.kind.startswith("conv") else "C"


def named_shape(shape: Shape, side: str, channels: str) -> str:
    """Symbols and numbers: `(N, C, H_in, W_in) = (32, 3, 32, 32)`."""
    names = size_names(shape, side, channels)
    numbers = shape_latex(names.items())
    if not 2 <= len(shape) <= 5:
        return f"${numbers}$"
    symbols = ", ".join(symbol_latex(name) for name in names)
    return f"$({symbols}) = {numbers}$"


def _given(spec: DescribedCall) -> str:
    lines = [
        f"Input: {named_shape(shape, 'in', channel_symbol(spec, 'in'))}"
        for shape in spec.input_shapes
    ]
    filters = spec.geometry.get("out_channels")
    if filters is not None:
        lines.append(f"Filters: ${symbol_latex('C_out')} = {number_latex('C_out', filters)}$")
    lines += settings_lines(spec)
    return _list("Given", lines)


def _output(spec: DescribedCall) -> str:
    rule = size_rule(spec)
    parts = ["**Output**"]
    if rule is not None:
        parts += _size_lines(rule.formulas)
        parts.append(rule.note)
    parts.append(padding_sentence(spec))
    lines = [
        f"- Shape: {named_shape(shape, 'out', channel_symbol(spec, 'out'))}"
        for shape in spec.output_shapes
    ]
    return "\n\n".join(part for part in [*parts, "\n".join(lines)] if part)


def _size_lines(formulas: tuple[Formula, ...]) -> list[str]:
    """The formula with symbols once, then with each dimension's numbers."""
    first, *others = formulas
    lines = [both_lines(size_left(first.quantity), first)]
    lines += [substituted_line(size_left(other.quantity), other) for other in others]
    return lines


def _memory(layer: LayerExplanation, element_size: int) -> str:
    cost, spec = layer.cost, layer.spec
    if not cost.output_bytes:
        return "**Memory**\n\n- 0 B: the output is a view of the input."
    lines = []
    for shape in spec.output_shapes:
        formula = elements_formula(shape, "out", channel_symbol(spec, "out"))
        lines.append(
            f"${substituted_latex(formula, coloured=True)}$ numbers: "
            f"{tensor_bytes(formula.value, element_size)}"
        )
    if layer.num_calls > 1:
        lines.append(f"All {layer.num_calls} calls: {bytes_exact(cost.output_bytes)}")
    return _list("Memory", lines)


def _parameters(layer: LayerExplanation, element_size: int) -> str:
    spec, cost = layer.spec, layer.cost
    if not spec.parameters:
        return "**Parameters**\n\n- None."
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
    return _list("Parameters", lines)


def _parameter(spec: DescribedCall, name: str, tensor: TensorRecord) -> str:
    formula = Formula(name, _product, _parameter_sizes(spec, tensor.shape))
    count = substituted_latex(formula, coloured=True)
    if len(tensor.shape) == 1:
        (size,) = formula.arguments.items()
        count = number_latex(*size)
    return f"{escaped(name)}, shape ${shape_latex(formula.arguments.items())}$: ${count}$"


def _parameter_sizes(spec: DescribedCall, shape: Shape) -> dict[str, int]:
    if len(shape) == 1:
        return {channel_symbol(spec, "out"): shape[0]}
    if spec.kind == "linear":
        names = ("out_features", "in_features")
    elif spec.kind.startswith("conv") and len(shape) > 2:
        channels = ("C_in", "C_out_per_group") if "transpose" in spec.kind else None
        names = channels or ("C_out", "C_in_per_group")
        names += ("k_d", "k_h", "k_w")[5 - len(shape) :]
    else:
        names = tuple(f"n_{number}" for number in range(1, len(shape) + 1))
    return dict(zip(names, shape, strict=True))


def _product(**sizes: int) -> int:
    return prod(sizes.values())


def _flops(layer: LayerExplanation, formulas: tuple[Formula, ...]) -> str:
    cost = layer.cost
    if cost.forward_flops is None:
        return "**FLOPs**\n\n- Unknown: no cost is written for this kind of layer."
    if not cost.forward_flops:
        return "**FLOPs**\n\n- None: it computes nothing that is counted."
    parts = ["**FLOPs**"]
    for formula in formulas:
        if formula.quantity == "forward_flops":
            parts.append(both_lines(flops_left("forward"), formula))
    calls = f", in all {layer.num_calls} calls" * (layer.num_calls > 1)
    macs = f"; {cost.macs:,} MACs" if cost.macs else ""
    parts.append(f"- {flops_text(cost.forward_flops)}{macs}{calls}.")
    return "\n\n".join(parts)


def _values(layer: LayerExplanation) -> list[str]:
    if not layer.output_values:
        return []
    return ["**One value**", *(value_markdown(value) for value in layer.output_values)]


def _list(title: str, lines: list[str]) -> str:
    return f"**{title}**\n\n" + "\n".join(f"- {line}" for line in lines)
