"""explain.md: the network's arithmetic from the first layer to the update of a weight."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import prod

from layerscope.explain.explanation import Explanation, LayerExplanation
from layerscope.explain.values import Value
from layerscope.report.document import Table
from layerscope.report.document.escape import escaped
from layerscope.report.document.headings import with_contents
from layerscope.report.document.tables import table_markdown
from layerscope.report.explain.all_numbers import numbers_section
from layerscope.report.explain.analysis_section import analysis_section
from layerscope.report.explain.corrections import corrections_section
from layerscope.report.explain.features import features_section
from layerscope.report.explain.formula_lines import tensor_bytes
from layerscope.report.explain.layer_backward import backward_layer
from layerscope.report.explain.layer_forward import forward_layer, general_formulas, named_shape
from layerscope.report.explain.notation import key_formulas_section, notation_section
from layerscope.report.explain.pattern_line import is_in_a_row, pattern_line
from layerscope.report.explain.summary import class_of, loss_words
from layerscope.report.explain.updates import updates_section
from layerscope.report.explain.value_block import value_markdown
from layerscope.report.profile.tables import (
    backward_of_block,
    forward_of_block,
    summary_tables,
)
from layerscope.theory.table import Total

_MOST_CLASSES = 12  # whose probabilities and gradients are shown
_MOST_NAMES = 100  # of classes
_WriteLayer = Callable[[LayerExplanation, int], str]


def explanation_markdown(
    explanation: Explanation, drawing: str, picture: str = "explain.png"
) -> str:
    """The whole document.

    Args:
        drawing: the file that the overview shows.
        picture: the file of the photo, where one is explained.
    """
    head = [f"# {escaped(explanation.network_name)}: the arithmetic of every layer"]
    head += [_settings(explanation), *_refused(explanation)]
    sections = [
        _overview(explanation, drawing),
        notation_section(explanation),
        key_formulas_section(),
        features_section(explanation.specs),
        *_forward(explanation, picture),
        *_backward(explanation),
        *updates_section(explanation),
        numbers_section(explanation.numbers),
        *_summary(explanation),
        analysis_section(explanation.analysis),
        corrections_section(explanation),
    ]
    parts = [*head, *(section for section in sections if section)]
    return with_contents(parts, "Contents", after=len(head), deepest=4)


def _settings(explanation: Explanation) -> str:
    settings = explanation.settings
    modes = {None: "each layer in the mode that it has", True: "train mode", False: "eval mode"}
    facts = [
        f"input {tuple(explanation.input_shape)}",
        settings.dtype,
        modes[settings.train],
        f"loss: {loss_words(explanation)}",
        f"learning rate {settings.learning_rate:g}",
        *(f"{name}: {value}" for name, value in settings.origin),
    ]
    if settings.layer is not None:
        facts.append(f"values of {settings.layer} only")
    return f"One training step, followed by hand: {'; '.join(escaped(f) for f in facts)}."


def _refused(explanation: Explanation) -> list[str]:
    if not explanation.refused_types:
        return []
    refused = [layer for layer in explanation.layers if layer.refused is not None]
    lines = [f"> - {escaped(layer.key)}: {escaped(layer.refused or '')}" for layer in refused]
    return ["> The values of these layers are not explained; the rest is.\n>\n" + "\n".join(lines)]


def _overview(explanation: Explanation, drawing: str) -> str:
    specs = explanation.specs.layers
    line = escaped(pattern_line(specs))
    if not is_in_a_row(specs):
        line += "\n\nThis is the order in which the layers run; branches are not shown."
    total = explanation.costs.total()
    bound = "at least " * total.lower_bound
    return "\n\n".join(
        [
            "## Overview",
            line,
            f"{total.num_layers:,} layers, {total.num_parameters:,} parameters; "
            f"{bound}{total.forward_flops:,} FLOPs forward and {bound}{total.backward_flops:,} "
            f"FLOPs backward for a batch of {explanation.input_shape[0]:,}.",
            f"![The layers, from top to bottom]({drawing})",
            "A solid stands where the size changes. It is what the layer returns for one image: "
            "its height stands for the side of the map, its width for the number of channels, both "
            "on a logarithmic scale. The layers stand in the order in which they run; branches are "
            "not drawn.",
        ]
    )


def _forward(explanation: Explanation, picture: str) -> Iterator[str]:
    costs = explanation.costs
    shape, elements = explanation.input_shape, prod(explanation.input_shape)
    yield "## Forward pass"
    yield "\n\n".join(
        [
            "### Input",
            f"- Shape: {named_shape(shape, 'in', 'C_in')}",
            f"- Memory: {elements:,} numbers, {tensor_bytes(elements, costs.element_size)}",
            "- No parameters, no FLOPs: the input is only read.",
            *([_photo(picture)] if explanation.picture is not None else []),
        ]
    )

    def write(layer: LayerExplanation, level: int) -> str:
        return forward_layer(layer, costs.formulas[layer.key], costs.element_size, level)

    for block, layers in _blocks(explanation):
        yield from _written(block, layers, write)
        if block is not None:
            members = tuple(layer.cost for layer in layers)
            yield _block_summary(block, forward_of_block(block, members), "forward")


def _backward(explanation: Explanation) -> Iterator[str]:
    costs = explanation.costs
    yield (
        "## Backward pass\n\nFrom the loss back to the image: each layer gets the gradient of its "
        "output, and computes those of its input and of its parameters."
    )
    yield _loss(explanation)

    def write(layer: LayerExplanation, level: int) -> str:
        return backward_layer(layer, costs.formulas[layer.key], costs.element_size, level)

    for block, layers in reversed(_blocks(explanation)):
        yield from _written(block, layers[::-1], write, "Gradients of ")
        if block is not None:
            members = tuple(layer.cost for layer in layers)
            yield _block_summary(block, backward_of_block(block, members), "backward")


def _photo(picture: str) -> str:
    return (
        "The photo, cropped and scaled; the network reads it normalised:\n\n"
        f"![The input]({picture})"
    )


_Block = tuple[Total | None, tuple[LayerExplanation, ...]]


def _blocks(explanation: Explanation) -> list[_Block]:
    """Layers by block, in order; a layer that stands for itself has none."""
    of_layer = {c.layer: block for block, members in explanation.costs.blocks() for c in members}
    found: list[_Block] = []
    seen: set[str] = set()
    for layer in explanation.layers:
        block = of_layer.get(layer.key)
        if block is None:
            found.append((None, (layer,)))
        elif block.name not in seen:
            seen.add(block.name)
            members = tuple(m for m in explanation.layers if of_layer.get(m.key) is block)
            found.append((block, members))
    return found


def _written(
    block: Total | None, layers: tuple[LayerExplanation, ...], write: _WriteLayer, title: str = ""
) -> Iterator[str]:
    if block is not None:
        words = f"{title}{block.name}"
        yield f"### {escaped(words[0].upper() + words[1:] if title else words)}"
    yield from (write(layer, 3 if block is None else 4) for layer in layers)


def _block_summary(block: Total, table: Table, direction: str) -> str:
    return f"#### Summary of {escaped(block.name)}, {direction}\n\n{table_markdown(table)}"


def _loss(explanation: Explanation) -> str:
    loss = explanation.loss
    of_what = "images and classes" if loss.kind == "mse" else "the batch"
    words = escaped(f"{loss_words(explanation)}; the mean over {of_what}.")
    shown, num_hidden = _few_classes(explanation)
    parts = [
        "### Loss",
        words[0].upper() + words[1:],
        _class_list(explanation.settings.class_names),
        *general_formulas(list(loss.formulas)),
        *(value_markdown(value) for value in shown),
        _hidden_values(num_hidden),
    ]
    return "\n\n".join(part for part in parts if part)


def _class_list(names: tuple[str, ...]) -> str:
    if not names:
        return ""
    shown = [f"{number} {escaped(name)}" for number, name in enumerate(names[:_MOST_NAMES])]
    more = f" and {len(names) - _MOST_NAMES:,} more" * (len(names) > _MOST_NAMES)
    return f"The classes: {', '.join(shown)}{more}."


def _hidden_values(num_hidden: int) -> str:
    if not num_hidden:
        return ""
    return f"… {num_hidden:,} more values, of other classes, in explain.json."


def _few_classes(explanation: Explanation) -> tuple[list[Value], int]:
    """Values of the first classes and of the image's own, the others counted."""
    loss = explanation.loss
    values = [
        value
        for value in loss.values
        if (found := class_of(value)) is None or found < _MOST_CLASSES or found in loss.target
    ]
    return values, len(loss.values) - len(values)


_NOTES = {
    "backward": "The gradient is that of the layer's input. Every layer computes one here, the "
    "first too, as in the textbook.",
    "memory": "All that is ever written, as the textbook adds it up; the gradients of activations "
    "stand in the backward column. No step holds it at one time: gradients are freed as they are "
    "used, and not every output is kept.",
}


def _summary(explanation: Explanation) -> Iterator[str]:
    yield "## Summary tables"
    for table in summary_tables(explanation.costs):
        title = f"{table.title[0].lower()}{table.title[1:]}"
        shown = replace(table, note=_NOTES.get(table.key, table.note))
        yield f"### Summary: {escaped(title)}\n\n{table_markdown(shown)}"
