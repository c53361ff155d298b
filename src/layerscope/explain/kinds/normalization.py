"""Batch norm, with the batch's statistics or with the running ones; layer and group norm.

The full chain: dL/dx goes through the values themselves, through their mean and their variance.
"""

from collections.abc import Callable

import numpy as np

from layerscope.explain import notation
from layerscope.explain.captured import Captured
from layerscope.explain.explainer import Explainer, GeneralFormula
from layerscope.explain.factors import (
    DL_DY,
    bias_gradient,
    constant,
    derived,
    derived_constant,
    gathered,
    has_bias,
    input_gradient_at,
    one_over,
    output_gradient,
    parameter_gradient_at,
    product,
    single,
    total,
    weight_gradient_name,
    where_used,
)
from layerscope.explain.kinds.norm_schemes import BATCH, GROUP, LAYER, NormScheme
from layerscope.explain.kinds.normalization_formulas import (
    batch_norm_formulas,
    epsilon_of,
    group_norm_formulas,
    layer_norm_formulas,
)
from layerscope.explain.values import Factor, Floats, Indices, Position, Value, indexed
from layerscope.networks.layer_calls import DescribedCall

_INVERSE_STD = r"\frac{1}{\sqrt{\sigma^2 + \epsilon}}"
_CENTRED = r"(x - \mu)"
_DL_DMEAN = r"\frac{\partial L}{\partial \mu}"
_DL_DVAR = r"\frac{\partial L}{\partial \sigma^2}"


class _Group:
    """Numbers that are normalised together: their statistics, each worked out when asked for.

    A gradient of one position needs the statistics of all.
    """

    def __init__(self, captured: Captured, scheme: NormScheme, position: Position) -> None:
        spec = captured.spec
        self.captured = captured
        (index,) = scheme.index(spec, np.array([position], dtype=np.int64)).tolist()
        self.index = tuple(index)
        self.places = scheme.members(spec, self.index)
        self.size = len(self.places)
        self.uses_batch = scheme.uses_batch(spec)
        self._weight_dims = list(scheme.weight_dims(spec))

    def statistics(self) -> tuple[Value, Value, Value]:
        """Mean, variance, inverse standard deviation."""
        mean = self._mean()
        var = self._var(mean)
        return mean, var, self._inverse_std(var)

    def _mean(self) -> Value:
        name = indexed("mean", self.index)
        if not self.uses_batch:
            return self._running("running_mean", r"\mu_{\text{run}}", name)
        x = gathered("x", self.captured.inputs[0], self.places)
        terms = product(x, one_over(r"\frac{1}{m}", self.size))
        return total(self.captured, name, (terms,), self._seen("mean"))

    def _var(self, mean: Value) -> Value:
        name = indexed("var", self.index)
        if not self.uses_batch:
            return self._running("running_var", r"\sigma^2_{\text{run}}", name)
        centred = self.centred(self.places, mean.computed)
        terms = product(centred, centred, one_over(r"\frac{1}{m}", self.size))
        return total(self.captured, name, (terms,), self._seen("var"))

    def _running(self, buffer: str, symbol: str, name: str) -> Value:
        array = self.captured.buffers[buffer]
        terms = product(single(symbol, array, self.index))
        actual = float(array[self.index])
        return total(self.captured, name, (terms,), actual, "Kept from training.")

    def _inverse_std(self, var: Value) -> Value:
        name = indexed("inverse_std", self.index)
        value = (var.computed + epsilon_of(self.captured.spec)) ** -0.5
        terms = product(derived(_one(_INVERSE_STD, value), f"1/{self._root}", var.computed))
        return total(self.captured, name, (terms,), self._seen("inverse_std"))

    def scale(self, var: Floats | float, inverse_std: Floats | float) -> Factor:
        """1/√(σ² + ε)."""
        factor = Factor(_INVERSE_STD, np.asarray(inverse_std, dtype=np.float64))
        return derived(factor, f"1/{self._root}", var)

    @property
    def _shifted_var(self) -> str:
        return f"({{}} + {notation.plain(epsilon_of(self.captured.spec))})"

    @property
    def _root(self) -> str:
        return f"√{self._shifted_var}"

    def _seen(self, name: str) -> float | None:
        array = self.captured.statistics.get(name)
        return None if array is None else float(array[self.index])

    def centred(self, where: Indices, mean: Floats | float) -> Factor:
        """x - μ at these places."""
        read = self.captured.inputs[0][tuple(where.T)]
        return derived(Factor(_CENTRED, read - mean, where), "{} − {}", read, mean)

    def weight(self, where: Indices) -> tuple[Factor, ...]:
        """Of the numbers at these places; none without a weight."""
        weight = self.captured.parameters.get("weight")
        return () if weight is None else (gathered("w", weight, where[:, self._weight_dims]),)

    def dl_dy(self, where: Indices) -> Factor:
        """dL/dy at these places."""
        return gathered(DL_DY, output_gradient(self.captured), where)

    def var_gradient(self, mean: Value, var: Value, inverse_std: Value) -> Value:
        """Through every output of the group."""
        slope = -0.5 * inverse_std.computed**3
        terms = product(
            self.dl_dy(self.places),
            *self.weight(self.places),
            self.centred(self.places, mean.computed),
            derived_constant(
                r"-\frac{1}{2} (\sigma^2 + \epsilon)^{-3/2}",
                slope,
                f"−½·{self._shifted_var}^(−3/2)",
                var.computed,
            ),
        )
        return total(self.captured, indexed("dL/dvar", self.index), (terms,))

    def mean_gradient(
        self, mean: Value, var: Value, inverse_std: Value, var_gradient: Value
    ) -> Value:
        """Through every output of the group, and through the variance."""
        direct = product(
            self.dl_dy(self.places),
            *self.weight(self.places),
            derived_constant(
                rf"-{_INVERSE_STD}", -inverse_std.computed, f"−1/{self._root}", var.computed
            ),
        )
        through_var = product(
            self.centred(self.places, mean.computed),
            constant(_DL_DVAR, var_gradient.computed),
            derived_constant(r"-\frac{2}{m}", -2 / self.size, f"−2/{self.size}"),
        )
        name = indexed("dL/dmean", self.index)
        note = "What goes through the variance adds up to 0, but for rounding."
        return total(self.captured, name, (direct, through_var), None, note)


def _one(symbol: str, value: float) -> Factor:
    return Factor(symbol, np.array([value]))


def _explainer(
    scheme: NormScheme, formulas: Callable[[DescribedCall], tuple[GeneralFormula, ...]]
) -> Explainer:
    def output(captured: Captured, position: Position) -> tuple[Value, ...]:
        group = _Group(captured, scheme, position)
        mean, var, inverse_std = group.statistics()
        where = np.array([position], dtype=np.int64)
        scale = group.scale(var.computed, inverse_std.computed)
        groups = (product(group.centred(where, mean.computed), scale, *group.weight(where)),)
        if has_bias(captured):
            own = scheme.weight_position(captured.spec, position)
            groups += (product(single("b", captured.parameters["bias"], own)),)
        actual = float(captured.output[position])
        return mean, var, inverse_std, total(captured, indexed("y", position), groups, actual)

    def input_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
        return _input_gradient(_Group(captured, scheme, position), position)

    def weight_gradient(captured: Captured, position: Position) -> tuple[Value, ...]:
        return _weight_gradient(captured, scheme, position)

    def bias_gradient_at(captured: Captured, position: Position) -> tuple[Value, ...]:
        return bias_gradient(captured, position, scheme.sharing(captured.spec, position))

    return Explainer(
        formulas=formulas,
        output=output,
        input_gradient=where_used("dL/dx", input_gradient),
        first_input=lambda spec, position: position,
        weight_gradient=where_used("dL/dw", weight_gradient),
        bias_gradient=where_used("dL/db", bias_gradient_at),
        first_weight=scheme.weight_position,
        bias=scheme.weight_position,
    )


def _input_gradient(group: _Group, position: Position) -> tuple[Value, ...]:
    captured = group.captured
    mean, var, inverse_std = group.statistics()
    where = np.array([position], dtype=np.int64)
    own = product(
        group.dl_dy(where), *group.weight(where), group.scale(var.computed, inverse_std.computed)
    )
    name, actual = indexed("dL/dx", position), input_gradient_at(captured, position)
    if not group.uses_batch:
        return mean, var, inverse_std, total(captured, name, (own,), actual)
    var_gradient = group.var_gradient(mean, var, inverse_std)
    mean_gradient = group.mean_gradient(mean, var, inverse_std, var_gradient)
    through_var = product(
        group.centred(where, mean.computed),
        constant(_DL_DVAR, var_gradient.computed),
        derived_constant(r"\frac{2}{m}", 2 / group.size, f"2/{group.size}"),
    )
    through_mean = product(
        _one(_DL_DMEAN, mean_gradient.computed), one_over(r"\frac{1}{m}", group.size)
    )
    value = total(captured, name, (own, through_var, through_mean), actual)
    return mean, var, inverse_std, var_gradient, mean_gradient, value


def _weight_gradient(
    captured: Captured, scheme: NormScheme, position: Position
) -> tuple[Value, ...]:
    """Through every number that is scaled by this weight.

    Where these are of several groups, each term has the statistics of its own.
    """
    where = scheme.sharing(captured.spec, position)
    groups, own = _groups_of(captured, scheme, where)
    statistics = [group.statistics() for group in groups]
    before = statistics[0] if len(groups) == 1 else ()
    mean, var, inverse_std = (
        np.array([value.computed for value in values])[own if len(groups) > 1 else 0]
        for values in zip(*statistics, strict=True)
    )
    terms = product(
        groups[0].dl_dy(where),
        groups[0].centred(where, mean),
        groups[0].scale(var, inverse_std),
    )
    actual = parameter_gradient_at(captured, "weight", position)
    return (*before, total(captured, weight_gradient_name(position), (terms,), actual))


def _groups_of(
    captured: Captured, scheme: NormScheme, where: Indices
) -> tuple[list[_Group], Indices]:
    """Those of the numbers at these places, and of each number which of them it is."""
    index = scheme.index(captured.spec, where)
    if not index.shape[1]:
        return [_Group(captured, scheme, tuple(where[0]))], np.zeros(len(where), dtype=np.int64)
    _, first, own = np.unique(index, axis=0, return_index=True, return_inverse=True)
    return [_Group(captured, scheme, tuple(where[i])) for i in first], own.reshape(-1)


BATCH_NORM = _explainer(BATCH, batch_norm_formulas)
LAYER_NORM = _explainer(LAYER, layer_norm_formulas)
GROUP_NORM = _explainer(GROUP, group_norm_formulas)
