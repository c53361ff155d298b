"""One layer's part of the backward pass: its gradients, their cost, and one of each explained."""

from layerscope.base.formatting import bytes_exact
from layerscope.explain.explanation import LayerExplanation
from layerscope.explain.values import Value
from layerscope.operations import Formula
from layerscope.report.document.escape import escaped
from layerscope.report.explain.formula_lines import (
    both_lines,
    flops_left,
    flops_text,
    same_lines,
    tensor_bytes,
)
from layerscope.report.explain.layer_forward import (
    channel_symbol,
    general_formulas,
    layer_title,
    named_shape,
    refusal_note,
)
from layerscope.report.explain.sizes import elements_formula
from layerscope.report.explain.value_block import value_markdown
from layerscope.report.profile.formulas import substituted_latex

_GRADIENTS = {
    "input_gradient_flops": "input",
    "weight_gradient_flops": "weight",
    "bias_gradient_flops": "bias",
}


def backward_layer(
    layer: LayerExplanation, formulas: tuple[Formula, ...], element_size: int, level: int
) -> str:
    """Under a heading of its own."""
    backward = [formula for formula in layer.formulas if formula.quantity.startswith("dL")]
    parts = [
        f"{'#' * level} Gradients of {layer_title(layer)}",
        _gradient(layer, element_size),
        _flops(layer, formulas),
        *general_formulas(backward),
        refusal_note(layer),
        *_values("One gradient of the input", layer.input_gradient_values),
        *_values("One gradient of the weight", layer.weight_gradient_values),
        *_values("One gradient of the bias", layer.bias_gradient_values, removed_bias(layer)),
    ]
    return "\n\n".join(part for part in parts if part)


def _gradient(layer: LayerExplanation, element_size: int) -> str:
    """Shape and bytes, of the input's gradients and of the parameters'."""
    spec, cost = layer.spec, layer.cost
    lines = []
    for shape in spec.input_shapes:
        lines.append(f"- Of the input: {named_shape(shape, 'in', channel_symbol(spec, 'in'))}")
        if cost.gradient_bytes:
            formula = elements_formula(shape, "in", channel_symbol(spec, "in"))
            lines.append(
                f"- ${substituted_latex(formula, coloured=True)}$ numbers: "
                f"{tensor_bytes(formula.value, element_size)}"
            )
    if not cost.gradient_bytes and spec.inputs:
        lines.append("- 0 B: it is a view of the output's gradient.")
    if layer.num_calls > 1:
        lines.append(f"- All {layer.num_calls} calls: {bytes_exact(cost.gradient_bytes)}")
    if cost.num_parameters:
        of_each = ", ".join(escaped(name) for name in spec.parameters)
        size = tensor_bytes(cost.num_parameters, element_size)
        lines.append(f"- Of the parameters ({of_each}), one for each: {size}")
    return "**Gradients**\n\n" + "\n".join(lines)


def _flops(layer: LayerExplanation, formulas: tuple[Formula, ...]) -> str:
    cost = layer.cost
    if cost.backward_flops is None:
        return "**FLOPs**\n\n- Unknown: no cost is written for this kind of layer."
    if not cost.backward_flops and not cost.bias_gradient_flops:
        return "**FLOPs**\n\n- None: it computes nothing that is counted."
    parts = ["**FLOPs**"]
    named = [(_GRADIENTS[f.quantity], f) for f in formulas if f.quantity in _GRADIENTS]
    for names, formula in same_lines(named):
        parts.append(both_lines(flops_left(", ".join(names)), formula))
    counts = {
        "the gradient of the input": cost.input_gradient_flops,
        "the gradient of the weight": cost.weight_gradient_flops,
    }
    listed = [f"- For {what}: {flops_text(flops)}" for what, flops in counts.items() if flops]
    if len(listed) > 1:
        listed.append(f"- Together: {flops_text(cost.backward_flops)}")
    if cost.bias_gradient_flops:
        listed.append(
            f"- For the gradient of the bias, apart: {flops_text(cost.bias_gradient_flops)}"
        )
    return "\n\n".join([*parts, "\n".join(listed)])


def removed_bias(layer: LayerExplanation) -> str:
    """Why L does not depend on the bias, where it does not."""
    if layer.bias_removed_by is None:
        return ""
    return (
        f"In mathematics this is exactly 0: {escaped(layer.bias_removed_by)} alone reads what "
        "comes out, and in train mode it subtracts each channel's mean over the batch, the bias "
        "with it. L does not depend on this bias; what stands here is rounding."
    )


def _values(title: str, values: tuple[Value, ...], remark: str = "") -> list[str]:
    if not values:
        return []
    *before, last = values
    blocks = [*(value_markdown(value) for value in before), value_markdown(last, remark=remark)]
    return [f"**{title}**", *blocks]
