"""The general formulas of batch, layer and group norm, for the mode that a call ran in."""

from dataclasses import dataclass
from math import prod

from layerscope.explain import notation
from layerscope.explain.explainer import GeneralFormula
from layerscope.explain.kinds.norm_schemes import channels_per_group, num_normalized, uses_batch
from layerscope.explain.notation import at, batch_sum, gradient, joined, summed
from layerscope.networks.layer_calls import DescribedCall


@dataclass(frozen=True)
class _Letters:
    """The indices of a norm's formulas.

    Args:
        input: of x and y; `statistics` of the mean and variance; `weight` of w and b.
        over_group: the sum signs over what is normalised together; over_sharing over what has the
            same weight.
        size: what m is, a sentence.
        group: what is normalised together, a noun.
    """

    input: tuple[str, ...]
    statistics: tuple[str, ...]
    weight: tuple[str, ...]
    over_group: str
    over_sharing: str
    size: str
    legend: str
    group: str = "group"

    @property
    def mean(self) -> str:
        return at(r"\mu", *self.statistics)

    @property
    def var(self) -> str:
        return at(r"\sigma^2", *self.statistics)

    @property
    def centred(self) -> str:
        return rf"({at('x', *self.input)} - {self.mean})"

    @property
    def inverse_std(self) -> str:
        return rf"\frac{{1}}{{\sqrt{{{self.var} + \epsilon}}}}"


def batch_norm_formulas(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
    """Statistics, y, dL/dx with what goes through the statistics, dL/dw and dL/db."""
    spatial, sizes = _spatial(spec)
    over = batch_sum(("n",)) + _over(spatial, sizes)
    letters = _Letters(
        input=("n", "c", *spatial),
        statistics=("c",),
        weight=("c",),
        over_group=over,
        over_sharing=over,
        size=f"$m = {' '.join(('N', *sizes))}$ is the number of values of a channel.",
        legend=notation.legend(image="n", channel="c", position=spatial),
        group="channel",
    )
    return _formulas(spec, letters, uses_batch(spec))


def layer_norm_formulas(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
    """Likewise."""
    count = num_normalized(spec)
    rows = notation.leading(spec.input_shape, count) if len(spec.input_shape) > count else ()
    inner = ("f",) if count == 1 else tuple(f"f_{number}" for number in range(1, count + 1))
    over = "".join(summed(letter, letter.replace("f", "F")) for letter in inner)
    size = prod(spec.input_shape[len(rows) :])
    letters = _Letters(
        input=(*rows, *inner),
        statistics=rows,
        weight=inner,
        over_group=over,
        over_sharing=batch_sum(rows),
        size=f"$m = {size}$ is the number of values that are normalised together.",
        legend=notation.legend(row=rows, feature=inner),
    )
    return _formulas(spec, letters, True)


def group_norm_formulas(spec: DescribedCall) -> tuple[GeneralFormula, ...]:
    """Likewise."""
    spatial, sizes = _spatial(spec)
    per_group, over = channels_per_group(spec), _over(spatial, sizes)
    size = per_group * prod(spec.input_shape[2:])
    groups = (
        rf"$g = \left\lfloor c / C_g \right\rfloor$ is the channel's group, of $C_g = {per_group}$ "
        "channels."
    )
    letters = _Letters(
        input=("n", "c", *spatial),
        statistics=("n", "g"),
        weight=("c",),
        over_group=rf"\sum_{{c = g C_g}}^{{(g+1) C_g - 1}}{over}",
        over_sharing=batch_sum(("n",)) + over,
        size=f"$m = {size}$ is the number of values that are normalised together. {groups}",
        legend=notation.legend(image="n", channel="c", position=spatial),
    )
    return _formulas(spec, letters, True)


def epsilon_of(spec: DescribedCall) -> float:
    """What is added to the variance; PyTorch's own where a function was called without."""
    return spec.geometry.get("eps", 1e-5)


def _formulas(spec: DescribedCall, letters: _Letters, batch: bool) -> tuple[GeneralFormula, ...]:
    weight = at("w", *letters.weight) if "weight" in spec.parameters else ""
    bias = at("b", *letters.weight) if "bias" in spec.parameters else ""
    parts = [*_statistics(letters)] if batch else []
    parts.append(_forward(spec, letters, weight, bias, batch))
    parts += _through_statistics(letters, weight) if batch else [_own(letters, weight)]
    dl_dy = gradient("y", *letters.input)
    if weight:
        terms = joined(letters.over_sharing, dl_dy, letters.centred, letters.inverse_std)
        parts.append(GeneralFormula("dL/dw", f"{gradient('w', *letters.weight)} = {terms}"))
    if bias:
        terms = joined(letters.over_sharing, dl_dy)
        parts.append(GeneralFormula("dL/db", f"{gradient('b', *letters.weight)} = {terms}"))
    return tuple(parts)


def _statistics(letters: _Letters) -> tuple[GeneralFormula, GeneralFormula]:
    over = rf"\frac{{1}}{{m}} {letters.over_group}"
    mean = f"{letters.mean} = {over} {at('x', *letters.input)}"
    var = f"{letters.var} = {over} {letters.centred}^2"
    return GeneralFormula("mean", mean, letters.size), GeneralFormula("var", var)


def _forward(
    spec: DescribedCall, letters: _Letters, weight: str, bias: str, batch: bool
) -> GeneralFormula:
    scaled = joined(letters.centred, letters.inverse_std, weight)
    latex = f"{at('y', *letters.input)} = {scaled}" + (f" + {bias}" if bias else "")
    epsilon = rf"Here $\epsilon = {notation.number(epsilon_of(spec))}$."
    running = "" if batch else r"$\mu$ and $\sigma^2$ are those kept from training."
    return GeneralFormula("y", latex, joined(epsilon, running, letters.legend))


def _own(letters: _Letters, weight: str) -> GeneralFormula:
    terms = joined(gradient("y", *letters.input), weight, letters.inverse_std)
    latex = f"{gradient('x', *letters.input)} = {terms}"
    return GeneralFormula("dL/dx", latex, "The statistics do not depend on the input.")


def _through_statistics(letters: _Letters, weight: str) -> tuple[GeneralFormula, ...]:
    over, centred = letters.over_group, letters.centred
    dl_dy = joined(gradient("y", *letters.input), weight)
    dl_dvar, dl_dmean = (
        rf"\frac{{\partial L}}{{\partial {symbol}}}" for symbol in (letters.var, letters.mean)
    )
    slope = rf"\frac{{1}}{{2}} ({letters.var} + \epsilon)^{{-3/2}}"
    return (
        GeneralFormula("dL/dvar", f"{dl_dvar} = -{over} {dl_dy} {centred} {slope}"),
        GeneralFormula(
            "dL/dmean",
            rf"{dl_dmean} = -{over} {dl_dy} {letters.inverse_std} - {dl_dvar} \frac{{2}}{{m}} "
            f"{over} {centred}",
            "The second sum is 0 but for rounding.",
        ),
        GeneralFormula(
            "dL/dx",
            rf"{gradient('x', *letters.input)} = {dl_dy} {letters.inverse_std} + "
            rf"{dl_dvar} \frac{{2}}{{m}} {centred} + \frac{{1}}{{m}} {dl_dmean}",
            f"Every value of the {letters.group} moves its mean and variance, and through these "
            f"every output of the {letters.group}.",
        ),
    )


def _spatial(spec: DescribedCall) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The letters behind the channel, and of their sizes."""
    dims = len(spec.input_shape) - 2
    if not dims:
        return (), ()
    return tuple(notation.output_letters(dims)), tuple(notation.size_letters(dims))


def _over(letters: tuple[str, ...], sizes: tuple[str, ...]) -> str:
    return "".join(summed(letter, size) for letter, size in zip(letters, sizes, strict=True))
