"""The general formulas of a convolution, without what its settings make drop out."""

from dataclasses import dataclass

from layerscope.explain import notation
from layerscope.explain.explainer import GeneralFormula
from layerscope.explain.kinds.convolution_settings import Settings, settings
from layerscope.explain.notation import at, batch_sum, gradient, joined, sized, summed
from layerscope.networks.layer_calls import DescribedCall


def convolution_formulas(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
    """y, dL/dx, dL/dw and, with a bias, dL/db."""
    conv = settings(spec)
    dims = notation.dimensions(
        *(conv.kernel_size, conv.stride, conv.padding, conv.dilation), wrapped=conv.mode != "zeros"
    )
    batch = notation.leading(spec.output_shape, conv.dims + 1)
    letters = channels(conv)
    made, read = notation.outputs(dims), notation.reads(dims)
    weight = at("w", "o", letters.own, *notation.cells(dims))
    own_weight = at("w", letters.output, letters.back, *notation.cells(dims))
    bias = " + b_o" if spec.geometry.get("bias") else ""
    over_cells = "".join(dim.sum_over_cells for dim in dims)
    over_readers = "".join(dim.sum_over_readers for dim in dims)
    over_outputs = batch_sum(batch) + "".join(dim.sum_over_windows for dim in dims)
    x_read = at("x", *batch, letters.read, *read)
    dl_dy = gradient("y", *batch, "o", *made)
    formulas = (
        GeneralFormula(
            "y",
            f"{at('y', *batch, 'o', *made)} = "
            + joined(letters.sum_over_inputs + over_cells, f"{x_read} {weight}{bias}"),
            joined(
                _numbers(conv),
                letters.group_of_output,
                padding_sentence(conv),
                _legend(batch, letters, dims),
            ),
        ),
        GeneralFormula(
            "dL/dx",
            f"{gradient('x', *batch, 'c', *notation.coordinates(dims))} = "
            + joined(
                letters.sum_over_outputs + over_readers,
                gradient("y", *batch, letters.output, *notation.readers(dims)),
                own_weight,
            ),
            joined(
                letters.group_of_input,
                readers_sentence(dims),
                notation.legend(input_position=notation.coordinates(dims)),
            ),
        ),
        GeneralFormula(
            "dL/dw",
            f"{gradient('w', 'o', letters.own, *notation.cells(dims))} = {over_outputs} "
            f"{dl_dy} {x_read}",
            joined(letters.group_of_output, padding_sentence(conv)),
        ),
    )
    if not bias:
        return formulas
    return (*formulas, GeneralFormula("dL/db", f"{gradient('b', 'o')} = {over_outputs} {dl_dy}"))


@dataclass(frozen=True)
class Channels:
    """The channel indices of the formulas; without groups, none of a group.

    Args:
        read: of the input, in terms of o (and of c within the group).
        own: of the weight, c.
        output: o, in the sum of the input gradient.
        back: of the weight, in terms of the input's channel.
    """

    sum_over_inputs: str = summed("c", sized("C", "in"))
    sum_over_outputs: str = summed("o", sized("C", "out"))
    read: str = "c"
    own: str = "c"
    output: str = "o"
    back: str = "c"
    group_of_output: str = ""
    group_of_input: str = ""


def channels(conv: Settings) -> Channels:
    """The indices that these groups need."""
    if conv.groups == 1:
        return Channels()
    if conv.in_per_group == conv.out_per_group == 1:
        each = (
            "Each channel is a group of its own: output channel $o$ reads input channel $o$ only."
        )
        return Channels("", "", read="o", own="0", output="c", back="0", group_of_output=each)
    sizes = f"$G = {conv.groups}$ groups of $C_g = {conv.in_per_group}$ input channels and "
    sizes += f"$O_g = {conv.out_per_group}$ output channels"
    return Channels(
        sum_over_inputs=summed("c", "C_g"),
        sum_over_outputs=r"\sum_{o = g O_g}^{(g+1) O_g - 1}",
        read="g C_g + c",
        back="c - g C_g",
        group_of_output=rf"{sizes}: $g = \left\lfloor o / O_g \right\rfloor$.",
        group_of_input=r"$g = \left\lfloor c / C_g \right\rfloor$ is the group of the channel.",
    )


def _legend(batch: tuple[str, ...], letters: Channels, dims: notation.Dimensions) -> str:
    in_group = "channel_within_the_group" if letters.group_of_output else "input_channel"
    return notation.legend(
        image=batch,
        output_channel="o",
        **{in_group: "c" if letters.own == "c" else ""},
        output_position=notation.outputs(dims),
        kernel_position=tuple(dim.cell for dim in dims),
    )


def _numbers(conv: Settings) -> str:
    return notation.window_numbers(conv.kernel_size, conv.stride, conv.padding, conv.dilation)


def padding_sentence(conv: Settings) -> str:
    """What stands beyond the input; nothing for a layer without padding."""
    if conv.mode != "zeros":
        return f"$R$ is the index of the input that stands there in the padding: {conv.mode}."
    if not any(conv.padding_after):
        return ""
    zeros = "Where an index lies outside the input, in the padding, $x$ is 0."
    if conv.padding == conv.padding_after:
        return zeros
    return f"{zeros} Behind the input the padding is {conv.padding_after}, in front {conv.padding}."


def readers_sentence(dims: notation.Dimensions) -> str:
    """Which windows the input gradient's sums run over; nothing where each input has one."""
    bounds = "; ".join(dim.reader_bounds for dim in dims if dim.reader_bounds)
    if not bounds:
        return ""
    return (
        f"Only outputs that read this input count, each with the weight it reads it by: {bounds}."
    )
