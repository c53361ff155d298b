"""What an explanation says: the network's arithmetic from the first layer to a weight's update."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from math import prod

import numpy as np

from layerscope.explain.all_numbers import Numbers
from layerscope.explain.explanation import Explanation, LayerExplanation, Update
from layerscope.explain.values import Floats, Value
from layerscope.networks.derivation import DerivationStep, derivation
from layerscope.networks.layer_calls import DescribedCall, NetworkCalls
from layerscope.operations import CostFormula
from layerscope.operations.convolution import bias_sum_flops, conv_flops
from layerscope.operations.family import Number, elementwise_flops
from layerscope.operations.normalization import norm_flops
from layerscope.operations.pooling import max_pool_flops
from layerscope.operations.products import linear_flops
from layerscope.operations.shapes import conv_output_size
from layerscope.operations.words import short_name
from layerscope.report.document import (
    Beside,
    Block,
    Bullets,
    Code,
    Contents,
    Document,
    Figure,
    Folded,
    Formula,
    Heading,
    Math,
    Paragraph,
    Strong,
    Table,
    Text,
    columns_in,
    joined,
    markup,
)
from layerscope.report.explain.analysis_section import analysis_section
from layerscope.report.explain.corrections import corrections_section
from layerscope.report.explain.layers import (
    backward_layer,
    channel_symbol,
    forward_layer,
    general_formulas,
    named_shape,
    size_rule,
    tensor_bytes,
)
from layerscope.report.explain.overview import overview_drawing
from layerscope.report.explain.values import (
    DIGITS,
    FIRST_SHOWN,
    MOST_SHOWN,
    grid_place,
    is_noise,
    short,
    value_blocks,
)
from layerscope.report.latex import (
    general_latex,
    latex_count,
    number_latex,
    substituted_latex,
    symbol_latex,
)
from layerscope.report.profile.tables import (
    backward_of_block,
    forward_of_block,
    summary_tables,
)
from layerscope.theory.table import Total

DRAWING, PICTURE = "explain.svg", "explain.png"
_MOST_CLASSES = 12  # whose probabilities and gradients are shown
_MOST_NAMES = 100  # of classes


def explanation_document(explanation: Explanation) -> Document:
    """Return the whole document."""
    title = f"{explanation.network_name}: the arithmetic of every layer"
    return Document(
        title,
        (
            Heading(1, title),
            Paragraph(_settings(explanation)),
            *_refused(explanation),
            Contents("Contents", 4),
            *_overview(explanation),
            *_notation(explanation),
            *_key_formulas(),
            *_features(explanation.specs),
            *_forward(explanation),
            *_backward(explanation),
            *_updates(explanation),
            *_all_numbers(explanation.numbers),
            *_summary(explanation),
            *analysis_section(explanation.analysis),
            *corrections_section(explanation),
        ),
    )


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
    return f"One training step, followed by hand: {'; '.join(facts)}."


def _refused(explanation: Explanation) -> Iterator[Block]:
    if explanation.refused_types:
        yield Paragraph("The values of these layers are not explained; the rest is.", "note")
        refused = [layer for layer in explanation.layers if layer.refused is not None]
        yield Bullets(tuple(f"{layer.key}: {layer.refused}" for layer in refused))


# Overview -------------------------------------------------------------------------------------


def _overview(explanation: Explanation) -> Iterator[Block]:
    specs = explanation.specs.layers
    total = explanation.costs.total()
    bound = "at least " * total.lower_bound
    yield Heading(2, "Overview")
    yield Paragraph(pattern_line(specs))
    if not is_in_a_row(specs):
        yield Paragraph("This is the order in which the layers run; branches are not shown.")
    yield Paragraph(
        f"{total.num_layers:,} layers, {total.num_parameters:,} parameters; "
        f"{bound}{total.forward_flops:,} FLOPs forward and {bound}{total.backward_flops:,} "
        f"FLOPs backward for a batch of {explanation.input_shape[0]:,}."
    )
    drawing = overview_drawing(explanation.costs, specs, explanation.network_name)
    yield Figure("The layers, from top to bottom", drawing, DRAWING)
    yield Paragraph(
        "A solid stands where the size changes. It is what the layer returns for one image: its "
        "height stands for the side of the map, its width for the number of channels, both on a "
        "logarithmic scale. The layers stand in the order in which they run; branches are not "
        "drawn."
    )


_LONGEST_RUN = 24  # layers of one repeated part


def pattern_line(specs: Sequence[DescribedCall]) -> str:
    """Return `Input → (Conv → ReLU → MaxPool) × 2 → FC`, in the order in which the layers run."""
    names = [short_name(spec.kind, spec.output_shape) or spec.type for spec in specs]
    return " → ".join(["Input", *_runs_once(names)])


def is_in_a_row(specs: Sequence[DescribedCall]) -> bool:
    """Tell whether each layer reads what the one before it has made, and nothing else."""
    return all(
        len(after.inputs) == 1
        and bool(before.outputs)
        and after.inputs[0].is_same_memory(before.outputs[0])
        for before, after in pairwise(specs)
    )


def _runs_once(names: Sequence[str]) -> list[str]:
    """Return the names from left to right; at each place the repetition that covers most."""
    parts = []
    start = 0
    while start < len(names):
        length, times = _best_run(names, start)
        run = list(names[start : start + length])
        parts += [f"({' → '.join(_runs_once(run))}) × {times}"] if times > 1 else run
        start += length * times
    return parts


def _best_run(names: Sequence[str], start: int) -> tuple[int, int]:
    """Return length and times of the run that covers most; the shortest among equals."""
    best = (1, 1)
    for length in range(1, min(_LONGEST_RUN, (len(names) - start) // 2) + 1):
        run = names[start : start + length]
        times = 1
        while names[start + length * times : start + length * (times + 1)] == run:
            times += 1
        if times > 1 and length * times > best[0] * best[1]:
            best = (length, times)
    return best


# Notation and key formulas --------------------------------------------------------------------

_SYMBOLS = (
    (("N",), "images in the batch", "magenta"),
    (("C_in",), "channels that go in", "blue"),
    (("H_in", "W_in"), "height and width that go in", "orange"),
    (("C_out", "C"), "channels that come out; C where a layer keeps their number", "green"),
    (("H_out", "W_out"), "height and width that come out", "red"),
    (("k_h", "k_w"), "height and width of the kernel; k where both are the same", "purple"),
    (("s",), "stride: how far the kernel moves", "black"),
    (("p",), "padding: rows and columns of zeros on each side", "black"),
    (("d",), "dilation: the distance between two cells of the kernel", "black"),
)


def _notation(explanation: Explanation) -> Iterator[Block]:
    """Yield the symbols in their colours, and what the numbers mean."""
    yield Heading(2, "Notation and conventions")
    rows = [
        (joined(((Math(symbol_latex(name)),) for name in names), ", "), meaning, colour)
        for names, meaning, colour in _SYMBOLS
    ]
    yield Table(columns_in("text", "symbol", "meaning", "colour"), tuple(rows))
    yield Paragraph(
        markup(
            "The network's input is $x$ of the first layer. Every layer reads $x$, returns $y$, "
            "and may have a weight $w$ and a bias $b$. $L$ is the loss. Indices count from 0."
        )
    )
    yield Heading(3, "Conventions")
    yield Bullets(tuple(map(markup, _conventions(explanation))))


def _conventions(explanation: Explanation) -> Iterator[str]:
    size, dtype = explanation.costs.element_size, explanation.settings.dtype
    num_images = explanation.input_shape[0]
    yield (
        f"Everything is of one training step with the whole batch, {num_images:,} "
        f"image{'s' * (num_images != 1)}, in {dtype}: one number takes {size} B."
    )
    yield (
        "1 KiB is 1,024 B and 1 MiB is 1,024 KiB. k, M and G before FLOPs are 10^3, 10^6 and 10^9."
    )
    yield (
        "FLOPs count a multiplication and an addition as one each; a MAC (multiply-accumulate) is "
        "one of both. A convolution or linear layer takes 2 FLOPs per MAC; adding its bias is not "
        "counted."
    )
    yield (
        "In the backward pass a convolution or linear layer takes 2 FLOPs per MAC for the gradient "
        "of its input and the same for that of its weight. The additions that give a bias its "
        "gradient stand apart, and in no total."
    )
    yield (
        "The tables follow the textbook: every output is stored, and every layer computes the "
        "gradient of its input, the first one too, although an image needs none. A view of another "
        "tensor takes no memory."
    )
    yield (
        f"Real numbers are printed with {DIGITS} decimals and at least {DIGITS} digits that count, "
        "the numbers of a sum with as many as its printed result takes; they are calculated with "
        "all their digits. `computed` is the sum of the terms in float64, from the network's own "
        "numbers; `actual` is what the network, or autograd, really made. They differ by rounding "
        "only, which is told in ulp: units in the last place of the actual value, in its own "
        "dtype. Where the terms cancel, nothing is left but the terms' own rounding; that is said "
        "there, and an ulp of it means nothing."
    )
    yield (
        "Beside a grid of numbers stand the row and the column: in the grid of `x[0,1,·,·]`, row 2 "
        "and column 3 are `x[0,1,2,3]`."
    )
    yield (
        f"A sum of up to {MOST_SHOWN} terms of one form is written out; terms that are 0 and "
        f"follow each other are counted. A longer one shows its first {FIRST_SHOWN} terms that are "
        "not 0, and how many others there are, how many of these are 0 and what they add up to. "
        "`explain.json` has every term."
    )


def _key_formulas() -> Iterator[Block]:
    """Yield sizes, memory and FLOPs: from the functions that count."""
    left = symbol_latex("H_out")
    example, fitting = _example(kernel_size=3), _SIZE["H_in"]
    yield Heading(2, "Key formulas")
    yield Heading(3, "Size of the output")
    yield Formula(f"{left} = {_general(_size_of_height, _SIZE)}")
    yield Paragraph(
        markup(
            "The fraction counts how often the kernel can move on by the stride after its first "
            "position. The + 1 is that first position: without it the formula gives one too few. "
            f"An input of {fitting}, $k = 3$, $s = 1$, $p = 1$: the kernel moves on {example - 1} "
            f"times, so there are {example} positions. The width follows the same formula. With a "
            "dilation $d$, the kernel reaches over $d(k-1)+1$ cells:"
        )
    )
    yield Formula(f"{left} = {_general(_dilated_size, {**_SIZE, 'd': 1})}")
    sentences = (
        "**Valid padding** is $p = 0$: the kernel stays inside of the input, and at stride 1 the "
        "output is smaller by $k - 1$.",
        "**Same padding** keeps the size. At stride 1, $p = \\left\\lfloor \\frac{k-1}{2} "
        "\\right\\rfloor$ does so exactly where $k$ is odd; for an even $k$ the output is smaller "
        f"by 1 (an input of {fitting}, $k = 4$, $p = 1$: {_example(kernel_size=4)}). At another "
        "stride it does not keep the size.",
    )
    yield Bullets(tuple(map(markup, sentences)))
    yield Heading(3, "Memory")
    count = _general(_count, _SHAPE)
    yield Formula(rf"\text{{bytes}} = {count} \times \text{{bytes of one number}}")
    yield Heading(3, "FLOPs")
    yield Paragraph(
        "Forward, of the whole batch. For an average pooling the sizes are those of its input."
    )
    rows = [(name, (Math(_general(f, names)),)) for name, f, names in _costs()]
    yield Table(columns_in("text", "layer", "FLOPs"), tuple(rows))


def _general(function: object, sizes: dict[str, int]) -> str:
    return general_latex(CostFormula("", function, sizes), coloured=True)  # pyright: ignore[reportArgumentType]


def _size_of_height(H_in: Number, p: Number, k: Number, s: Number) -> Number:
    return conv_output_size(H_in, k, s, p)


def _dilated_size(H_in: Number, p: Number, d: Number, k: Number, s: Number) -> Number:
    return conv_output_size(H_in, k, s, p, d)


def _count(**sizes: Number) -> Number:
    return prod(sizes.values())


_SIZE = {"H_in": 32, "p": 1, "k": 3, "s": 1}
_SHAPE: dict[str, int] = dict.fromkeys(("N", "C_out", "H_out", "W_out"), 1)


def _example(kernel_size: int) -> int:
    return conv_output_size(_SIZE["H_in"], kernel_size, stride=1, padding=(kernel_size - 1) // 2)


def _costs() -> Iterator[tuple[str, object, dict[str, int]]]:
    names = ("N", "C_out", "C_in_per_group", "H_out", "k_h", "W_out", "k_w")
    shape: dict[str, int] = dict.fromkeys(("N", "C", "H_out", "W_out"), 1)
    yield "convolution", conv_flops, dict.fromkeys(names, 1)
    yield "linear", linear_flops, dict.fromkeys(("rows", "in_features", "out_features"), 1)
    yield "batch norm", norm_flops, shape
    yield "ReLU and other activations", elementwise_flops, shape
    yield "max pooling", max_pool_flops, {**shape, "k_h": 1, "k_w": 1}
    yield "average pooling", elementwise_flops, dict.fromkeys(("N", "C", "H_in", "W_in"), 1)
    yield "gradient of a convolution's bias, apart", bias_sum_flops, _SHAPE


# Into the first fully connected layer ---------------------------------------------------------


def _features(network: NetworkCalls) -> Iterator[Block]:
    """Yield how many numbers the first linear layer reads, step by step.

    Nothing where none comes behind other layers, or the layers are not in a row.
    """
    layers = network.layers
    steps = derivation(network) if is_in_a_row(layers) else ()
    if len(steps) < 2 or "in_features" not in layers[len(steps) - 1].geometry:
        return
    last = layers[len(steps) - 1]
    yield Heading(3, "Into the first fully connected layer")
    yield Paragraph(
        joined(
            (
                Code("in_features"),
                f" of {last.key} is what the layers before leave of one image, ",
                Math(r"C \times H \times W"),
                f" once it is flattened: {last.input_shape[-1]:,}.",
            )
        )
    )
    rows = [
        (
            spec.key,
            joined(_how(step, spec), "; "),
            named_shape(spec.output_shape, "out", channel_symbol(spec, "out")),
        )
        for step, spec in zip(steps, layers, strict=False)
    ]
    yield Table(columns_in("text", "layer", "how", "shape"), tuple(rows))


def _how(step: DerivationStep, spec: DescribedCall) -> list[Text]:
    """Return formulas, each size in its colour."""
    before, after = spec.input_shape, spec.output_shape
    if "in_features" in spec.geometry:
        number = number_latex("in_features", before[-1])
        return [(Math(f"{symbol_latex('in_features')} = {number}"),)]
    rule = size_rule(spec)
    if rule is not None and tuple(f.value for f in rule.formulas) == after[2:]:
        sides: dict[str, list[str]] = {}
        for formula in rule.formulas:
            found = substituted_latex(formula, coloured=True)
            sides.setdefault(found, []).append(symbol_latex(formula.quantity))
        return [(Math(" = ".join([*left, found])),) for found, left in sides.items()]
    if len(after) == 2 and len(before) > 2 and prod(before[1:]) == after[1]:
        names = ("C", *("D_in", "H_in", "W_in")[-len(before[2:]) :])
        sizes = (number_latex(name, size) for name, size in zip(names, before[1:], strict=True))
        product = r" \times ".join(sizes)
        return [(Math(f"{product} = {latex_count(after[1])}"),)]
    return [step.formula]


# Forward and backward -------------------------------------------------------------------------


def _forward(explanation: Explanation) -> Iterator[Block]:
    costs = explanation.costs
    shape, elements = explanation.input_shape, prod(explanation.input_shape)
    yield Heading(2, "Forward pass")
    yield Heading(3, "Input")
    yield Bullets(
        (
            joined(("Shape: ", named_shape(shape, "in", "C_in"))),
            f"Memory: {elements:,} numbers, {tensor_bytes(elements, costs.element_size)}",
            "No parameters, no FLOPs: the input is only read.",
        )
    )
    if explanation.picture is not None:
        yield Paragraph("The photo, cropped and scaled; the network reads it normalised:")
        yield Figure("The input", explanation.picture, PICTURE)
    for block, layers in _blocks(explanation):
        if block is not None:
            yield Heading(3, block.name)
        for layer in layers:
            formulas = costs.formulas[layer.key]
            yield from forward_layer(layer, formulas, costs.element_size, 3 if block is None else 4)
        if block is not None:
            table = forward_of_block(block, tuple(layer.cost for layer in layers))
            yield Heading(4, f"Summary of {block.name}, forward")
            yield replace(table, title="")


def _backward(explanation: Explanation) -> Iterator[Block]:
    costs = explanation.costs
    yield Heading(2, "Backward pass")
    yield Paragraph(
        "From the loss back to the image: each layer gets the gradient of its output, and computes "
        "those of its input and of its parameters."
    )
    yield from _loss(explanation)
    for block, layers in reversed(_blocks(explanation)):
        if block is not None:
            yield Heading(3, f"Gradients of {block.name}")
        for layer in layers[::-1]:
            formulas = costs.formulas[layer.key]
            level = 3 if block is None else 4
            yield from backward_layer(layer, formulas, costs.element_size, level)
        if block is not None:
            table = backward_of_block(block, tuple(layer.cost for layer in layers))
            yield Heading(4, f"Summary of {block.name}, backward")
            yield replace(table, title="")


def _blocks(
    explanation: Explanation,
) -> list[tuple[Total | None, tuple[LayerExplanation, ...]]]:
    """Return layers by block, in order; a layer that stands for itself has none."""
    of_layer = {c.layer: block for block, members in explanation.costs.blocks() for c in members}
    found: list[tuple[Total | None, tuple[LayerExplanation, ...]]] = []
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


# The loss -------------------------------------------------------------------------------------

_LOSSES = {
    "cross_entropy": ("cross-entropy", "the batch"),
    "mse": ("mean squared error", "images and classes"),
}


def loss_words(explanation: Explanation) -> str:
    """Return `cross-entropy with label smoothing 0.1 against class 3 (cat)`."""
    loss, names = explanation.loss, explanation.settings.class_names
    classes = ", ".join(
        f"{c} ({names[c]})" if c < len(names) else str(c) for c in dict.fromkeys(loss.target)
    )
    smoothing = f" with label smoothing {loss.label_smoothing:g}" * bool(loss.label_smoothing)
    return f"{_LOSSES[loss.kind][0]}{smoothing} against class {classes}"


def _loss(explanation: Explanation) -> Iterator[Block]:
    loss = explanation.loss
    words = f"{loss_words(explanation)}; the mean over {_LOSSES[loss.kind][1]}."
    yield Heading(3, "Loss")
    yield Paragraph(words[0].upper() + words[1:])
    names = explanation.settings.class_names
    if names:
        shown = [f"{number} {name}" for number, name in enumerate(names[:_MOST_NAMES])]
        more = f" and {len(names) - _MOST_NAMES:,} more" * (len(names) > _MOST_NAMES)
        yield Paragraph(f"The classes: {', '.join(shown)}{more}.")
    yield from general_formulas(loss.formulas)
    # Values of the first classes and of the image's own; the others are counted.
    values = [
        value
        for value in loss.values
        if (found := class_of(value)) is None or found < _MOST_CLASSES or found in loss.target
    ]
    for value in values:
        yield from value_blocks(value)
    hidden = len(loss.values) - len(values)
    if hidden:
        yield Paragraph(f"… {hidden:,} more values, of other classes, in explain.json.")


def class_of(value: Value) -> int | None:
    """Return the class of a value: `p[0,3]` is of class 3; `L` and `Z[0]` are of none."""
    indices = value.name.partition("[")[2].rstrip("]").split(",")
    return int(indices[1]) if len(indices) > 1 else None


# Updates --------------------------------------------------------------------------------------

_OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}


def _updates(explanation: Explanation) -> Iterator[Block]:
    """Yield what a step of an optimizer makes of the parameters whose gradients are explained."""
    if not explanation.updates:
        return
    yield Heading(2, "Updates")
    yield Paragraph(
        "What one step of an optimizer makes of the weights and biases whose gradients stand above."
    )
    for optimizer in dict.fromkeys(update.optimizer for update in explanation.updates):
        updates = [update for update in explanation.updates if update.optimizer == optimizer]
        yield Heading(3, f"One step of {_OPTIMIZERS[optimizer]}")
        yield from general_formulas(updates[0].formulas)
        for update in updates:
            yield Paragraph((Strong(f"{update.layer}, {update.parameter}"),))
            for value in update.values:
                yield from value_blocks(value, "torch.optim's")
            noise = _noise(explanation.layer(update.layer), update)
            if noise:
                yield Paragraph(markup(noise))


def _noise(layer: LayerExplanation, update: Update) -> str:
    """Return that the gradient is no more than rounding, and what the optimizer makes of it."""
    removed = update.parameter == "bias" and layer.bias_removed_by is not None
    values = {"weight": layer.weight_gradient_values, "bias": layer.bias_gradient_values}
    gradients = values[update.parameter]
    if not gradients or not (removed or is_noise(gradients[-1])):
        return ""
    why = "exactly 0 in mathematics" if removed else "a sum whose terms cancel"
    sentence = f"This gradient is {why}: the number that goes into the step is rounding."
    if update.optimizer == "sgd":
        return f"{sentence} SGD moves the {update.parameter} by as little."
    (*_, after) = update.values
    (before, *_) = after.products
    moved = short(after.computed - float(before))
    return (
        f"{sentence} Adam divides it by its own size: where it is not much smaller than "
        rf"$\epsilon$, the step is about the learning rate however small the gradient is. Here "
        f"{moved}, out of noise."
    )


# All numbers, and the tables ------------------------------------------------------------------


def _all_numbers(numbers: Sequence[Numbers]) -> Iterator[Block]:
    """Yield every number of a small network, to work out another position by hand."""
    if not numbers:
        return
    yield Heading(2, "All numbers")
    yield Paragraph(
        markup(
            "The image, every layer's weights, what it returns and the gradient of that (a view "
            "has no numbers of its own): with these any other position can be worked out as above. "
            "`layer=`, `position=`, `input_position=` and `weight_position=` choose which one the "
            "program works out."
        )
    )
    for each in numbers:
        shape = "×".join(map(str, each.array.shape))
        of_image = f" of image {each.image}" if each.image is not None else ""
        title = f"{each.layer or 'The input'}: {each.name}{of_image}, {shape}"
        grids = _grids(each.name, each.array, each.image or 0)
        yield Folded(title, (Beside(tuple(grids)) if len(grids) > 1 else grids[0],))


def _grids(name: str, array: Floats, image: int) -> list[Table]:
    """Return a grid for each channel, or filter and channel.

    Args:
        image: the first index of the first number, where that is the image.
    """
    if array.ndim > 2 and array.shape[2:] == (1,) * (array.ndim - 2):
        ones = ",".join("0" * (array.ndim - 2))
        return [_grid(f"{name}[·,·,{ones}]", array.reshape(array.shape[:2]), image)]
    if array.ndim < 3:
        corner = f"{name}[·]" if array.ndim == 1 else f"{name}{grid_place(())}"
        return [_grid(corner, np.atleast_2d(array), image, array.ndim > 1)]
    return [
        _grid(f"{name}{grid_place((lead[0] + image, *lead[1:]))}", array[lead], 0)
        for lead in np.ndindex(array.shape[:-2])
    ]


def _grid(corner: str, matrix: Floats, first_row: int, has_rows: bool = True) -> Table:
    rows = [
        (str(row) if has_rows else "", *(short(float(number), DIGITS + 1) for number in numbers))
        for row, numbers in enumerate(matrix, first_row)
    ]
    return Table(columns_in("number", corner, *map(str, range(matrix.shape[1]))), tuple(rows))


_NOTES = {
    "backward": "The gradient is that of the layer's input. Every layer computes one here, the "
    "first too, as in the textbook.",
    "memory": "All that is ever written, as the textbook adds it up; the gradients of activations "
    "stand in the backward column. No step holds it at one time: gradients are freed as they are "
    "used, and not every output is kept.",
}


def _summary(explanation: Explanation) -> Iterator[Block]:
    yield Heading(2, "Summary tables")
    for table in summary_tables(explanation.costs):
        yield Heading(3, f"Summary: {table.title[0].lower()}{table.title[1:]}")
        yield replace(table, title="", note=_NOTES.get(table.key, table.note))
