"""Batch, instance, layer, group and RMS norm.

The full chain: dL/dx goes through the values themselves, through their mean and their variance.
Batch and instance norm may take the running statistics instead.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from layerscope.explain import notation
from layerscope.explain.explainer import Explainer, GeneralFormula, where_used
from layerscope.explain.factors import (
    constant,
    derived,
    derived_constant,
    gathered,
    grid,
    one_over,
    product,
    single,
    sum_value,
)
from layerscope.explain.notation import DL_DY, at, batch_sum, gradient, spaced, summed
from layerscope.explain.operation import Captured, Operation
from layerscope.explain.values import (
    Factor,
    Floats,
    Indices,
    Position,
    Terms,
    Value,
    indexed,
    summing_eps,
)

_DL_DMEAN = r"\frac{\partial L}{\partial \mu}"


@dataclass(frozen=True)
class _Scheme:
    """Which numbers are normalised together, and which of them share a weight.

    Args:
        blocks: for each dimension of x, how many indices that follow each other have the same
            statistics; None where all have.
        weight_dims: the dimensions of x that the weight and the bias have.
        is_centred: the mean is subtracted.
        uses_batch: the statistics are those of the input, not running ones.
    """

    shape: tuple[int, ...]
    blocks: tuple[int | None, ...]
    weight_dims: tuple[int, ...]
    is_centred: bool = True
    uses_batch: bool = True

    def index(self, where: Indices) -> Indices:
        """(num, k), of the statistics of inputs at (num, num_dims) places."""
        columns = [where[:, d] // block for d, block in enumerate(self.blocks) if block is not None]
        return np.stack(columns, axis=-1) if columns else np.zeros((len(where), 0), dtype=np.int64)

    def members(self, index: Position) -> Indices:
        """(m, num_dims), the places of all inputs with the statistics of this index."""
        left = iter(index)
        return grid(
            *(
                np.arange(size) if block is None else next(left) * block + np.arange(block)
                for size, block in zip(self.shape, self.blocks, strict=True)
            )
        )

    def weight_position(self, position: Position) -> Position:
        """Return the place of the weight that an input is scaled by."""
        return tuple(position[dim] for dim in self.weight_dims)

    def sharing(self, weight: Position) -> Indices:
        """(num, num_dims), the places of all inputs that are scaled by this weight."""
        fixed = dict(zip(self.weight_dims, weight, strict=True))
        sizes = enumerate(self.shape)
        return grid(*(np.array([fixed[d]]) if d in fixed else np.arange(size) for d, size in sizes))

    @property
    def variance(self) -> tuple[str, str]:
        """Name and symbol of the variance; of the mean square where no mean is subtracted."""
        return ("var", r"\sigma^2") if self.is_centred else ("mean_square", r"\overline{x^2}")

    @property
    def size(self) -> int:
        """How many numbers are normalised together."""
        return prod(
            size if block is None else block
            for size, block in zip(self.shape, self.blocks, strict=True)
        )


_SchemeOf = Callable[[Operation], _Scheme]


def _batch(operation: Operation) -> _Scheme:
    shape = operation.shapes["x"]
    blocks = (None, 1, *(None,) * (len(shape) - 2))
    return _Scheme(shape, blocks, (1,), uses_batch=bool(operation.get("training", False)))


def _instance(operation: Operation) -> _Scheme:
    shape = operation.shapes["x"]
    blocks = (1, 1, *(None,) * (len(shape) - 2))
    return _Scheme(shape, blocks, (1,), uses_batch=bool(operation.get("use_input_stats", True)))


def _group(operation: Operation) -> _Scheme:
    shape = operation.shapes["x"]
    channels = shape[1] // operation.arguments["num_groups"]
    return _Scheme(shape, (1, channels, *(None,) * (len(shape) - 2)), (1,))


def _num_normalized(operation: Operation) -> int:
    shape = operation.arguments["normalized_shape"]
    return 1 if isinstance(shape, int) else len(shape)


def _layer(operation: Operation, *, is_centred: bool = True) -> _Scheme:
    shape, count = operation.shapes["x"], _num_normalized(operation)
    rows = len(shape) - count
    blocks = (*(1,) * rows, *(None,) * count)
    return _Scheme(shape, blocks, tuple(range(rows, len(shape))), is_centred)


def _rms(operation: Operation) -> _Scheme:
    return _layer(operation, is_centred=False)


def _epsilon(operation: Operation) -> float:
    """Return what is added to the variance; RMS norm's own is that of the dtype it computes in."""
    epsilon = operation.get("eps", None if "rms" in operation.name else 1e-5)
    return summing_eps(operation.arguments["input"].dtype) if epsilon is None else epsilon


class _NormGroup:
    """Numbers that are normalised together: their statistics, each worked out when asked for.

    A gradient of one position needs the statistics of all.
    """

    def __init__(self, captured: Captured, scheme: _Scheme, position: Position) -> None:
        self.captured = captured
        self.scheme = scheme
        (index,) = scheme.index(np.array([position], dtype=np.int64)).tolist()
        self.index = tuple(index)
        self.places = scheme.members(self.index)
        self.size = len(self.places)
        self.epsilon = notation.plain_number(_epsilon(captured.operation))

    def statistics(self) -> tuple[Value, ...]:
        """Return mean, variance, inverse standard deviation; no mean where none is subtracted."""
        means = (self._mean(),) if self.scheme.is_centred else ()
        var = self._var(_mean_of(means))
        return *means, var, self._inverse_root(var)

    def _mean(self) -> Value:
        name = indexed("mean", self.index)
        if not self.scheme.uses_batch:
            return self._running("running_mean", r"\mu_{\text{run}}", name)
        x = gathered("x", self.captured.operands["x"], self.places)
        terms = product(x, one_over(r"\frac{1}{m}", self.size))
        return sum_value(self.captured, name, (terms,), self._seen("mean"))

    def _var(self, mean: float) -> Value:
        own, _ = self.scheme.variance
        name = indexed(own, self.index)
        if not self.scheme.uses_batch:
            return self._running("running_var", r"\sigma^2_{\text{run}}", name)
        centred = self.centred(self.places, mean)
        terms = product(centred, centred, one_over(r"\frac{1}{m}", self.size))
        return sum_value(self.captured, name, (terms,), self._seen(own))

    def _running(self, buffer: str, symbol: str, name: str) -> Value:
        array, channel = self.captured.operands[buffer], self.index[-1:]
        terms = product(single(symbol, array, channel))
        return sum_value(
            self.captured, name, (terms,), float(array[channel]), "Kept from training."
        )

    def _inverse_root(self, var: Value) -> Value:
        name = "inverse_std" if self.scheme.is_centred else "inverse_rms"
        value = np.array([(var.computed + _epsilon(self.captured.operation)) ** -0.5])
        terms = product(self.scale(var.computed, value))
        return sum_value(self.captured, indexed(name, self.index), (terms,), self._seen(name))

    def scale(self, var: Floats | float, inverse_std: Floats | float) -> Factor:
        """Return 1/√(σ² + ε)."""
        factor = Factor(self._inverse_symbol, np.asarray(inverse_std, dtype=np.float64))
        return derived(factor, f"1/{self._root}", var)

    @property
    def _inverse_symbol(self) -> str:
        return rf"\frac{{1}}{{\sqrt{{{self.scheme.variance[1]} + \epsilon}}}}"

    @property
    def _root(self) -> str:
        return f"√({{}} + {self.epsilon})"

    def _seen(self, name: str) -> float | None:
        array = self.captured.statistics.get(name)
        return None if array is None else float(array[self.index])

    def centred(self, where: Indices, mean: Floats | float) -> Factor:
        """Return x - μ at these places; x where no mean is subtracted."""
        read = self.captured.operands["x"][tuple(where.T)]
        if not self.scheme.is_centred:
            return Factor("x", read, where)
        return derived(Factor(r"(x - \mu)", read - mean, where), "{} − {}", read, mean)

    def weight(self, where: Indices) -> tuple[Factor, ...]:
        """Return the weight of the numbers at these places; nothing without one."""
        weight = self.captured.operands.get("w")
        dims = list(self.scheme.weight_dims)
        return () if weight is None else (gathered("w", weight, where[:, dims]),)

    def dl_dy(self, where: Indices) -> Factor:
        """Return dL/dy at these places."""
        return gathered(DL_DY, self.captured.dl_dy, where)

    def input_gradient(self, position: Position) -> tuple[Value, ...]:
        """Return the statistics, their gradients, and dL/dx."""
        *means, var, inverse_std = statistics = self.statistics()
        mean, where = _mean_of(means), np.array([position], dtype=np.int64)
        scale = self.scale(var.computed, inverse_std.computed)
        groups = [product(self.dl_dy(where), *self.weight(where), scale)]
        steps: list[Value] = []
        if self.scheme.uses_batch:
            steps.append(self._var_gradient(mean, var, inverse_std))
            groups.append(self._through_var(where, mean, steps[0], 2))
        if self.scheme.uses_batch and self.scheme.is_centred:
            steps.append(self._mean_gradient(mean, var, inverse_std, steps[0]))
            own = _one(_DL_DMEAN, steps[1].computed)
            groups.append(product(own, one_over(r"\frac{1}{m}", self.size)))
        name, actual = indexed("dL/dx", position), self.captured.gradient_at("x", position)
        return (*statistics, *steps, sum_value(self.captured, name, tuple(groups), actual))

    def _var_gradient(self, mean: float, var: Value, inverse_std: Value) -> Value:
        """Return dL/d(variance), through every output of the group."""
        name, symbol = self.scheme.variance
        slope = derived_constant(
            rf"-\frac{{1}}{{2}} ({symbol} + \epsilon)^{{-3/2}}",
            -0.5 * inverse_std.computed**3,
            f"−½·({{}} + {self.epsilon})^(−3/2)",
            var.computed,
        )
        read = (*self.weight(self.places), self.centred(self.places, mean))
        terms = product(self.dl_dy(self.places), *read, slope)
        return sum_value(self.captured, indexed(f"dL/d{name}", self.index), (terms,))

    def _mean_gradient(
        self, mean: float, var: Value, inverse_std: Value, var_gradient: Value
    ) -> Value:
        """Return dL/d(mean), through every output of the group, and through the variance."""
        slope = derived_constant(
            f"-{self._inverse_symbol}", -inverse_std.computed, f"−1/{self._root}", var.computed
        )
        direct = product(self.dl_dy(self.places), *self.weight(self.places), slope)
        through_var = self._through_var(self.places, mean, var_gradient, -2)
        note = "What goes through the variance adds up to 0, but for rounding."
        name = indexed("dL/dmean", self.index)
        return sum_value(self.captured, name, (direct, through_var), None, note)

    def _through_var(self, where: Indices, mean: float, gradient: Value, times: int) -> Terms:
        """Return what reaches x at these places, or the mean, by the variance."""
        sign, text = ("-", "−2") if times < 0 else ("", "2")
        return product(
            self.centred(where, mean),
            constant(
                rf"\frac{{\partial L}}{{\partial {self.scheme.variance[1]}}}", gradient.computed
            ),
            derived_constant(rf"{sign}\frac{{2}}{{m}}", times / self.size, f"{text}/{self.size}"),
        )


def _mean_of(means: Sequence[Value]) -> float:
    return means[0].computed if means else 0.0


def _one(symbol: str, value: float) -> Factor:
    return Factor(symbol, np.array([value]))


def _explainer(scheme_of: _SchemeOf, letters_of: "_LettersOf") -> Explainer:
    def output(captured: Captured, position: Position) -> tuple[Value, ...]:
        scheme = scheme_of(captured.operation)
        group = _NormGroup(captured, scheme, position)
        *means, var, inverse_std = statistics = group.statistics()
        where = np.array([position], dtype=np.int64)
        centred = group.centred(where, _mean_of(means))
        scale = group.scale(var.computed, inverse_std.computed)
        groups = (product(centred, scale, *group.weight(where)),)
        if "b" in captured.operands:
            own = scheme.weight_position(position)
            groups += (product(single("b", captured.operands["b"], own)),)
        actual = float(captured.output[position])
        return *statistics, sum_value(captured, indexed("y", position), groups, actual)

    def gradient_of(captured: Captured, symbol: str, position: Position) -> tuple[Value, ...]:
        scheme = scheme_of(captured.operation)
        if symbol == "x":
            return _NormGroup(captured, scheme, position).input_gradient(position)
        if symbol == "w":
            return _weight_gradient(captured, scheme, position)
        terms = product(gathered(DL_DY, captured.dl_dy, scheme.sharing(position)))
        actual = captured.gradient_at("b", position)
        return (sum_value(captured, indexed("dL/db", position), (terms,), actual),)

    def first(operation: Operation, symbol: str, position: Position) -> Position:
        return position if symbol == "x" else scheme_of(operation).weight_position(position)

    def formulas(operation: Operation) -> tuple[GeneralFormula, ...]:
        scheme = scheme_of(operation)
        return _formulas(operation, scheme, letters_of(operation, scheme))

    def removes_shift(operation: Operation) -> bool:
        scheme = scheme_of(operation)
        rest = (scheme.blocks[0], *scheme.blocks[2:])
        return scheme.uses_batch and scheme.is_centred and set(rest) == {None}

    return Explainer(formulas, output, where_used(gradient_of), first, removes_shift=removes_shift)


def _weight_gradient(captured: Captured, scheme: _Scheme, position: Position) -> tuple[Value, ...]:
    """Return dL/dw, through every number that is scaled by this weight.

    Where these are of several groups, each term has the statistics of its own.
    """
    where = scheme.sharing(position)
    _, first, own = np.unique(scheme.index(where), axis=0, return_index=True, return_inverse=True)
    groups = [_NormGroup(captured, scheme, tuple(where[number])) for number in first]
    statistics = [group.statistics() for group in groups]
    columns = [
        np.array([value.computed for value in values])[own.reshape(-1) if len(groups) > 1 else 0]
        for values in zip(*statistics, strict=True)
    ]
    *means, var, inverse_std = columns
    terms = product(
        groups[0].dl_dy(where),
        groups[0].centred(where, means[0] if means else 0.0),
        groups[0].scale(var, inverse_std),
    )
    before = statistics[0] if len(groups) == 1 else ()
    actual = captured.gradient_at("w", position)
    return (*before, sum_value(captured, indexed("dL/dw", position), (terms,), actual))


# The formulas -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _NormLetters:
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


_LettersOf = Callable[[Operation, _Scheme], _NormLetters]


def _channel_letters(operation: Operation, scheme: _Scheme) -> _NormLetters:
    """Return those of a norm whose weight has one number a channel."""
    dims = len(scheme.shape) - 2
    spatial = tuple(notation.output_letters(dims)) if dims else ()
    sizes = tuple(notation.size_letters(dims)) if dims else ()
    over = "".join(summed(letter, size) for letter, size in zip(spatial, sizes, strict=True))
    over_images = batch_sum(("n",)) + over
    legend = notation.index_legend(image="n", channel="c", position=spatial)
    block = scheme.blocks[1]
    if scheme.blocks[0] is None:
        size = f"$m = {' '.join(('N', *sizes))}$ is the number of values of a channel."
        statistics, over_group, group = ("c",), over_images, "channel"
    elif "num_groups" not in operation.arguments:
        size = f"$m = {' '.join(sizes)}$ is the number of values of an image's channel."
        statistics, over_group, group = ("n", "c"), over, "channel"
    else:
        groups = (
            rf"$g = \left\lfloor c / C_g \right\rfloor$ is the channel's group, of $C_g = {block}$"
        )
        size = f"$m = {scheme.size}$ is the number of values that are normalised together. "
        size += f"{groups} channels."
        statistics, group = ("n", "g"), "group"
        over_group = rf"\sum_{{c = g C_g}}^{{(g+1) C_g - 1}}{over}"
    return _NormLetters(
        ("n", "c", *spatial), statistics, ("c",), over_group, over_images, size, legend, group
    )


def _row_letters(operation: Operation, scheme: _Scheme) -> _NormLetters:
    """Return those of a norm over the last dimensions."""
    count = len(scheme.weight_dims)
    rows = notation.leading(scheme.shape, count) if len(scheme.shape) > count else ()
    inner = ("f",) if count == 1 else tuple(f"f_{number}" for number in range(1, count + 1))
    return _NormLetters(
        input=(*rows, *inner),
        statistics=rows,
        weight=inner,
        over_group="".join(summed(letter, letter.replace("f", "F")) for letter in inner),
        over_sharing=batch_sum(rows),
        size=f"$m = {scheme.size}$ is the number of values that are normalised together.",
        legend=notation.index_legend(row=rows, feature=inner),
    )


def _formulas(
    operation: Operation, scheme: _Scheme, letters: _NormLetters
) -> tuple[GeneralFormula, ...]:
    mean = at(r"\mu", *letters.statistics)
    x = at("x", *letters.input)
    name, symbol = scheme.variance
    var, centred = at(symbol, *letters.statistics), f"({x} - {mean})" if scheme.is_centred else x
    inverse_std = rf"\frac{{1}}{{\sqrt{{{var} + \epsilon}}}}"
    weight = at("w", *letters.weight) if "w" in operation.shapes else ""
    bias = at("b", *letters.weight) if "b" in operation.shapes else ""
    dl_dy, over = gradient("y", *letters.input), letters.over_group
    parts: list[GeneralFormula] = []
    average = rf"\frac{{1}}{{m}} {over}"
    if scheme.uses_batch:
        if scheme.is_centred:
            parts.append(GeneralFormula("mean", f"{mean} = {average} {x}", letters.size))
        size = "" if parts else letters.size
        parts.append(GeneralFormula(name, f"{var} = {average} {centred}^2", size))
    y = f"{at('y', *letters.input)} = {spaced(centred, inverse_std, weight)}"
    where = spaced(
        rf"Here $\epsilon = {notation.latex_number(_epsilon(operation))}$.",
        "" if scheme.uses_batch else r"$\mu$ and $\sigma^2$ are those kept from training.",
        letters.legend,
    )
    parts.append(GeneralFormula("y", y + (f" + {bias}" if bias else ""), where))
    own, scaled = gradient("x", *letters.input), spaced(dl_dy, weight)
    if not scheme.uses_batch:
        latex = f"{own} = {spaced(scaled, inverse_std)}"
        parts.append(GeneralFormula("dL/dx", latex, "The statistics do not depend on the input."))
    else:
        parts += _through_statistics(scheme, letters, (scaled, centred, inverse_std), mean, var)
    of_weight = spaced(letters.over_sharing, dl_dy, centred, inverse_std)
    of_bias = spaced(letters.over_sharing, dl_dy)
    for symbol, is_there, right in (("w", weight, of_weight), ("b", bias, of_bias)):
        if is_there:
            latex = f"{gradient(symbol, *letters.weight)} = {right}"
            parts.append(GeneralFormula(f"dL/d{symbol}", latex))
    return tuple(parts)


def _through_statistics(
    scheme: _Scheme, letters: _NormLetters, terms: tuple[str, str, str], mean: str, var: str
) -> tuple[GeneralFormula, ...]:
    dl_dy, centred, inverse_std = terms
    over = letters.over_group
    dl_dvar, dl_dmean = (rf"\frac{{\partial L}}{{\partial {symbol}}}" for symbol in (var, mean))
    slope = rf"\frac{{1}}{{2}} ({var} + \epsilon)^{{-3/2}}"
    latex = f"{dl_dvar} = -{over} {dl_dy} {centred} {slope}"
    dl_dx = rf"{gradient('x', *letters.input)} = {dl_dy} {inverse_std} + "
    dl_dx += rf"{dl_dvar} \frac{{2}}{{m}} {centred}"
    if not scheme.is_centred:
        where = (
            "Every value of the row moves its mean square, and through it every output of the row."
        )
        return GeneralFormula("dL/dmean_square", latex), GeneralFormula("dL/dx", dl_dx, where)
    return (
        GeneralFormula("dL/dvar", latex),
        GeneralFormula(
            "dL/dmean",
            rf"{dl_dmean} = -{over} {dl_dy} {inverse_std} - {dl_dvar} \frac{{2}}{{m}} "
            f"{over} {centred}",
            "The second sum is 0 but for rounding.",
        ),
        GeneralFormula(
            "dL/dx",
            rf"{dl_dx} + \frac{{1}}{{m}} {dl_dmean}",
            f"Every value of the {letters.group} moves its mean and variance, and through these "
            f"every output of the {letters.group}.",
        ),
    )


BATCH_NORM = _explainer(_batch, _channel_letters)
INSTANCE_NORM = _explainer(_instance, _channel_letters)
GROUP_NORM = _explainer(_group, _channel_letters)
LAYER_NORM = _explainer(_layer, _row_letters)
RMS_NORM = _explainer(_rms, _row_letters)
