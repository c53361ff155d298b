"""Batch norm, with the batch's statistics or with the running ones.

The full chain: dL/dx goes through the values themselves, through their mean and their variance.
"""

import numpy as np

from layerscope.explain import notation
from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explainer
from layerscope.explain.factors import (
    DL_DY,
    bias_gradient,
    constant,
    derived,
    derived_constant,
    every_place,
    gathered,
    has_bias,
    input_gradient_at,
    one_over,
    output_gradient,
    parameter_gradient_at,
    places,
    product,
    single,
    total,
    weight_gradient_name,
    where_used,
)
from layerscope.explain.kinds.normalization_formulas import (
    batch_norm_formulas,
    epsilon_of,
    uses_batch,
)
from layerscope.explain.values import Factor, Indices, Position, Terms, Value, indexed
from layerscope.layers.spec import LayerSpec

_INVERSE_STD = r"\frac{1}{\sqrt{\sigma^2 + \epsilon}}"
_CENTRED = r"(x - \mu)"
_DL_DMEAN = r"\frac{\partial L}{\partial \mu}"
_DL_DVAR = r"\frac{\partial L}{\partial \sigma^2}"


class _Channel:
    """One channel of a call: its statistics, each worked out when it is asked for.

    In train mode a gradient of one position needs the statistics of all.
    """

    def __init__(self, captured: Captured, channel: int) -> None:
        self.captured = captured
        self.channel = channel
        shape = captured.spec.input_shape
        index = every_place((shape[0], *shape[2:]))
        self.places = places(index[:, :1], channel, index[:, 1:])
        self.size = len(self.places)
        self.uses_batch = uses_batch(captured.spec)

    def statistics(self) -> tuple[Value, Value, Value]:
        """Mean, variance, inverse standard deviation."""
        mean = self._mean()
        var = self._var(mean)
        return mean, var, self._inverse_std(var)

    def _mean(self) -> Value:
        name = indexed("mean", (self.channel,))
        if not self.uses_batch:
            return self._running("running_mean", r"\mu_{\text{run}}", name)
        x = gathered("x", self.captured.inputs[0], self.places)
        terms = product(x, one_over(r"\frac{1}{m}", self.size))
        return total(self.captured, name, (terms,), self._seen("mean"))

    def _var(self, mean: Value) -> Value:
        name = indexed("var", (self.channel,))
        if not self.uses_batch:
            return self._running("running_var", r"\sigma^2_{\text{run}}", name)
        centred = self.centred(self.places, mean)
        terms = product(centred, centred, one_over(r"\frac{1}{m}", self.size))
        return total(self.captured, name, (terms,), self._seen("var"))

    def _running(self, buffer: str, symbol: str, name: str) -> Value:
        array = self.captured.buffers[buffer]
        terms = product(single(symbol, array, (self.channel,)))
        actual = float(array[self.channel])
        return total(self.captured, name, (terms,), actual, "Kept from training.")

    def _inverse_std(self, var: Value) -> Value:
        name = indexed("inverse_std", (self.channel,))
        value = (var.computed + epsilon_of(self.captured.spec)) ** -0.5
        terms = product(derived(_one(_INVERSE_STD, value), f"1/{self._root}", var.computed))
        return total(self.captured, name, (terms,), self._seen("inverse_std"))

    def scale(self, var: Value, inverse_std: Value) -> Factor:
        """1/√(σ² + ε)."""
        text = f"1/{self._root}"
        return derived_constant(_INVERSE_STD, inverse_std.computed, text, var.computed)

    @property
    def _shifted_var(self) -> str:
        return f"({{}} + {notation.plain(epsilon_of(self.captured.spec))})"

    @property
    def _root(self) -> str:
        return f"√{self._shifted_var}"

    def _seen(self, name: str) -> float | None:
        array = self.captured.statistics.get(name)
        return None if array is None else float(array[self.channel])

    def centred(self, where: Indices, mean: Value) -> Factor:
        """x - μ at these places."""
        read = self.captured.inputs[0][tuple(where.T)]
        factor = Factor(_CENTRED, read - mean.computed, where)
        return derived(factor, "{} − {}", read, mean.computed)

    def weight(self) -> tuple[Factor, ...]:
        """None without a weight."""
        weight = self.captured.parameters.get("weight")
        return () if weight is None else (single("w", weight, (self.channel,)),)

    def dl_dy(self, where: Indices) -> Factor:
        """dL/dy at these places."""
        return gathered(DL_DY, output_gradient(self.captured), where)

    def var_gradient(self, mean: Value, var: Value, inverse_std: Value) -> Value:
        """Through every output of the channel."""
        slope = -0.5 * inverse_std.computed**3
        terms = product(
            self.dl_dy(self.places),
            *self.weight(),
            self.centred(self.places, mean),
            derived_constant(
                r"-\frac{1}{2} (\sigma^2 + \epsilon)^{-3/2}",
                slope,
                f"−½·{self._shifted_var}^(−3/2)",
                var.computed,
            ),
        )
        return total(self.captured, indexed("dL/dvar", (self.channel,)), (terms,))

    def mean_gradient(
        self, mean: Value, var: Value, inverse_std: Value, var_gradient: Value
    ) -> Value:
        """Through every output of the channel, and through the variance."""
        direct = product(
            self.dl_dy(self.places),
            *self.weight(),
            derived_constant(
                rf"-{_INVERSE_STD}", -inverse_std.computed, f"−1/{self._root}", var.computed
            ),
        )
        through_var = product(
            self.centred(self.places, mean),
            constant(_DL_DVAR, var_gradient.computed),
            derived_constant(r"-\frac{2}{m}", -2 / self.size, f"−2/{self.size}"),
        )
        name = indexed("dL/dmean", (self.channel,))
        note = "What goes through the variance adds up to 0, but for rounding."
        return total(self.captured, name, (direct, through_var), None, note)


def _one(symbol: str, value: float) -> Factor:
    return Factor(symbol, np.array([value]))


def _output(captured: Captured, position: Position) -> tuple[Value, ...]:
    channel = _Channel(captured, position[1])
    mean, var, inverse_std = channel.statistics()
    where = np.array([position], dtype=np.int64)
    scaled = product(
        channel.centred(where, mean),
        channel.scale(var, inverse_std),
        *channel.weight(),
    )
    groups: tuple[Terms, ...] = (scaled,)
    if has_bias(captured):
        groups += (product(single("b", captured.parameters["bias"], position[1:2])),)
    actual = float(captured.output[position])
    return mean, var, inverse_std, total(captured, indexed("y", position), groups, actual)


def _input_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    channel = _Channel(captured, position[1])
    mean, var, inverse_std = channel.statistics()
    where = np.array([position], dtype=np.int64)
    own = product(channel.dl_dy(where), *channel.weight(), channel.scale(var, inverse_std))
    name, actual = indexed("dL/dx", position), input_gradient_at(captured, position)
    if not channel.uses_batch:
        return mean, var, inverse_std, total(captured, name, (own,), actual)
    var_gradient = channel.var_gradient(mean, var, inverse_std)
    mean_gradient = channel.mean_gradient(mean, var, inverse_std, var_gradient)
    through_var = product(
        channel.centred(where, mean),
        constant(_DL_DVAR, var_gradient.computed),
        derived_constant(r"\frac{2}{m}", 2 / channel.size, f"2/{channel.size}"),
    )
    through_mean = product(
        _one(_DL_DMEAN, mean_gradient.computed), one_over(r"\frac{1}{m}", channel.size)
    )
    value = total(captured, name, (own, through_var, through_mean), actual)
    return mean, var, inverse_std, var_gradient, mean_gradient, value


def _weight_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    channel = _Channel(captured, position[0])
    mean, var, inverse_std = channel.statistics()
    terms = product(
        channel.dl_dy(channel.places),
        channel.centred(channel.places, mean),
        channel.scale(var, inverse_std),
    )
    actual = parameter_gradient_at(captured, "weight", position)
    value = total(captured, weight_gradient_name(position), (terms,), actual)
    return mean, var, inverse_std, value


def _bias_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
    return bias_gradient(captured, position, _Channel(captured, position[0]).places)


def _channel_of(spec: LayerSpec, position: Position) -> Position:
    return (position[1],)


BATCH_NORM = Explainer(
    formulas=batch_norm_formulas,
    output=_output,
    input_gradient=where_used("dL/dx", _input_gradient),
    first_input=lambda spec, position: position,
    weight_gradient=where_used("dL/dw", _weight_gradient),
    bias_gradient=where_used("dL/db", _bias_gradient),
    first_weight=_channel_of,
    bias=_channel_of,
)
