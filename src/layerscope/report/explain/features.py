"""How many numbers the first fully connected layer reads, step by step."""

from itertools import pairwise
from math import prod

from layerscope.networks.derivation import DerivationStep, derivation
from layerscope.networks.layer_calls import DescribedCall, NetworkCalls
from layerscope.report.document.escape import escaped
from layerscope.report.document.tables import pipes
from layerscope.report.explain.formula_lines import size_left
from layerscope.report.explain.layer_forward import channel_symbol, named_shape
from layerscope.report.explain.sizes import size_rule
from layerscope.report.profile.formulas import latex_count, number_latex, substituted_latex


def features_section(network: NetworkCalls) -> str:
    """Empty where no linear layer comes behind others, or the layers are not in a row."""
    layers = network.layers
    steps = derivation(network) if _are_in_a_row(layers) else ()
    if len(steps) < 2 or layers[len(steps) - 1].kind != "linear":
        return ""
    last = layers[len(steps) - 1]
    columns = [("layer", False), ("how", False), ("shape", False)]
    rows = [_row(step, spec) for step, spec in zip(steps, layers, strict=False)]
    return "\n\n".join(
        [
            "### Into the first fully connected layer",
            f"`in_features` of {escaped(last.key)} is what the layers before leave of one image, "
            f"$C \\times H \\times W$ once it is flattened: {last.input_shape[-1]:,}.",
            pipes(columns, rows),
        ]
    )


def _are_in_a_row(layers: tuple[DescribedCall, ...]) -> bool:
    """Each reads what the one before returned, and nothing else."""
    return all(
        len(after.inputs) == 1 and after.inputs[0].is_same_memory(before.outputs[0])
        for before, after in pairwise(layers)
        if before.outputs
    )


def _row(step: DerivationStep, spec: DescribedCall) -> list[str]:
    shape = named_shape(spec.output_shape, "out", channel_symbol(spec, "out"))
    return [escaped(spec.key), "; ".join(_how(step, spec)), shape]


def _how(step: DerivationStep, spec: DescribedCall) -> list[str]:
    """In formulas, each size in its colour."""
    before, after = spec.input_shape, spec.output_shape
    if spec.kind == "linear":
        number = number_latex("in_features", before[-1])
        return [f"${size_left('in_features')} = {number}$"]
    rule = size_rule(spec)
    if rule is not None and tuple(f.value for f in rule.formulas) == after[2:]:
        sides: dict[str, list[str]] = {}
        for formula in rule.formulas:
            found = substituted_latex(formula, coloured=True)
            sides.setdefault(found, []).append(size_left(formula.quantity))
        return [f"${' = '.join([*left, found])}$" for found, left in sides.items()]
    if len(after) == 2 and len(before) > 2 and prod(before[1:]) == after[1]:
        names = ("C", *("D_in", "H_in", "W_in")[-len(before[2:]) :])
        sizes = (number_latex(name, size) for name, size in zip(names, before[1:], strict=True))
        product = r" \times ".join(sizes)
        return [f"${product} = {latex_count(after[1])}$"]
    return [escaped(step.formula)]
