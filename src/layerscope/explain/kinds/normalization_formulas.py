"""The general formulas of batch norm, for the mode that a call ran in."""

from layerscope.explain import notation
from layerscope.explain.explainer import GeneralFormula
from layerscope.explain.notation import at, batch_sum, gradient, joined, summed
from layerscope.layers.spec import LayerSpec

_INVERSE_STD = r"\frac{1}{\sqrt{\sigma^2_c + \epsilon}}"


def uses_batch(spec: LayerSpec) -> bool:
    """Whether it takes the batch's statistics: in train mode, or where it keeps none."""
    geometry = spec.geometry
    return bool(geometry.get("training")) or geometry.get("track_running_stats") is False


def epsilon_of(spec: LayerSpec) -> float:
    """What is added to the variance; PyTorch's own where a function was called without."""
    return spec.geometry.get("eps", 1e-5)


def batch_norm_formulas(spec: LayerSpec) -> tuple[GeneralFormula, ...]:
    """Statistics, y, dL/dx with what goes through the statistics, dL/dw and dL/db."""
    spatial = "".join(_letters(len(spec.input_shape) - 2))
    indices = ("n", "c", *spatial)
    over = batch_sum(("n",)) + "".join(
        summed(letter, f"{size}")
        for letter, size in zip(spatial, _sizes(len(spatial)), strict=True)
    )
    has_weight, has_bias = "weight" in spec.parameters, "bias" in spec.parameters
    batch = uses_batch(spec)
    parts = [*_statistics(spec, indices, over)] if batch else []
    parts.append(_forward(spec, indices, has_weight, has_bias))
    parts += _through_batch(indices, over, has_weight) if batch else [_own(indices, has_weight)]
    dl_dy, centred = gradient("y", *indices), _centred(indices)
    if has_weight:
        latex = f"{gradient('w', 'c')} = {over} {dl_dy} {centred} {_INVERSE_STD}"
        parts.append(GeneralFormula("dL/dw", latex))
    if has_bias:
        parts.append(GeneralFormula("dL/db", f"{gradient('b', 'c')} = {over} {dl_dy}"))
    return tuple(parts)


def _statistics(
    spec: LayerSpec, indices: tuple[str, ...], over: str
) -> tuple[GeneralFormula, GeneralFormula]:
    sizes = " ".join(("N", *_sizes(len(indices) - 2)))
    where = f"$m = {sizes}$ is the number of values of a channel."
    mean = rf"\mu_c = \frac{{1}}{{m}} {over} {at('x', *indices)}"
    var = rf"\sigma^2_c = \frac{{1}}{{m}} {over} {_centred(indices)}^2"
    return GeneralFormula("mean", mean, where), GeneralFormula("var", var)


def _forward(
    spec: LayerSpec, indices: tuple[str, ...], has_weight: bool, has_bias: bool
) -> GeneralFormula:
    latex = f"{at('y', *indices)} = {_centred(indices)} {_INVERSE_STD}"
    latex += " w_c" if has_weight else ""
    latex += " + b_c" if has_bias else ""
    epsilon = rf"Here $\epsilon = {notation.number(epsilon_of(spec))}$."
    running = "" if uses_batch(spec) else r"$\mu$ and $\sigma^2$ are those kept from training."
    legend = notation.legend(image="n", channel="c", position=indices[2:])
    return GeneralFormula("y", latex, joined(epsilon, running, legend))


def _own(indices: tuple[str, ...], has_weight: bool) -> GeneralFormula:
    weight = " w_c" if has_weight else ""
    latex = f"{gradient('x', *indices)} = {gradient('y', *indices)}{weight} {_INVERSE_STD}"
    return GeneralFormula("dL/dx", latex, "The statistics do not depend on the input.")


def _through_batch(
    indices: tuple[str, ...], over: str, has_weight: bool
) -> tuple[GeneralFormula, ...]:
    weight = " w_c" if has_weight else ""
    dl_dy, centred = f"{gradient('y', *indices)}{weight}", _centred(indices)
    dl_dvar, dl_dmean = (
        rf"\frac{{\partial L}}{{\partial {symbol}_c}}" for symbol in (r"\sigma^2", r"\mu")
    )
    slope = r"\frac{1}{2} (\sigma^2_c + \epsilon)^{-3/2}"
    return (
        GeneralFormula("dL/dvar", f"{dl_dvar} = -{over} {dl_dy} {centred} {slope}"),
        GeneralFormula(
            "dL/dmean",
            rf"{dl_dmean} = -{over} {dl_dy} {_INVERSE_STD} - {dl_dvar} \frac{{2}}{{m}} "
            f"{over} {centred}",
            "The second sum is 0 but for rounding.",
        ),
        GeneralFormula(
            "dL/dx",
            rf"{gradient('x', *indices)} = {dl_dy} {_INVERSE_STD} + "
            rf"{dl_dvar} \frac{{2}}{{m}} {centred} + \frac{{1}}{{m}} {dl_dmean}",
            "Every value of the channel moves its mean and variance, and through these every "
            "output of the channel.",
        ),
    )


def _centred(indices: tuple[str, ...]) -> str:
    return rf"({at('x', *indices)} - \mu_c)"


def _letters(dims: int) -> str:
    return notation.output_letters(dims) if dims else ""


def _sizes(dims: int) -> str:
    return notation.size_letters(dims) if dims else ""
