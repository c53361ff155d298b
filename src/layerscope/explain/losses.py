"""The loss and its gradient of the network's outputs: cross-entropy and the mean squared error."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from layerscope.explain.explainer import GeneralFormula
from layerscope.explain.factors import (
    derived,
    derived_constant,
    every_place,
    gathered,
    one_over,
    places,
    product,
    single,
)
from layerscope.explain.families.softmax import (
    PROBABILITY,
    exponential_factor,
    largest_of,
    one_over_z,
)
from layerscope.explain.notation import plain_number
from layerscope.explain.values import Factor, Floats, Indices, Terms, Value, indexed

LAYER = "loss"


@dataclass(frozen=True, eq=False)
class CapturedLoss:
    """The loss of a step, the mean over the batch.

    Args:
        kind: `cross_entropy` or `mse`.
        outputs: (N, num_classes), the network's.
        target: (N,), the class of each image.
        label_smoothing: of cross_entropy; 0 for none.
        value: L.
        gradient: dL/d(outputs), as autograd gives it.
        probabilities: (N, num_classes), the framework's softmax of the outputs in their dtype; None
            where it is not known.
    """

    kind: str
    dtype: torch.dtype
    outputs: Floats
    target: tuple[int, ...]
    label_smoothing: float
    value: float
    gradient: Floats
    probabilities: Floats | None = None


def explain_loss(captured: CapturedLoss, image: int | None = None) -> tuple[Value, ...]:
    """What is computed on the way, then `L`, then `dL/dy[n,c]` of each class.

    Args:
        image: whose probabilities and gradients are explained; all images if not given. L is always
            explained by all images.
    """
    return _LOSSES[captured.kind].explain(captured, image)


def loss_formulas(kind: str, label_smoothing: float = 0.0) -> tuple[GeneralFormula, ...]:
    """Return L and dL/dy of `cross_entropy` or `mse`, and what is computed on the way."""
    return _LOSSES[kind].formulas(label_smoothing)


def _images(captured: CapturedLoss, image: int | None) -> tuple[int, ...]:
    return tuple(range(len(captured.outputs))) if image is None else (image,)


def _sum(
    captured: CapturedLoss,
    name: str,
    groups: tuple[Terms, ...],
    actual: float | None = None,
    note: str = "",
) -> Value:
    return Value(name, LAYER, "sum", groups, actual, captured.dtype, note)


@dataclass(frozen=True, eq=False)
class _Softmax:
    """The softmax of one image's outputs: each step as a value."""

    largest: Value
    z: Value
    probabilities: tuple[Value, ...]

    @property
    def values(self) -> tuple[Value, ...]:
        return self.largest, self.z, *self.probabilities


def _softmax(captured: CapturedLoss, image: int) -> _Softmax:
    where = places(image, np.arange(captured.outputs.shape[1]))
    scores = gathered("y", captured.outputs, where)
    name = indexed("max", (image,))
    largest = largest_of(name, LAYER, scores, captured.dtype)
    terms = product(exponential_factor("y", scores, largest.computed))
    z = _sum(captured, indexed("Z", (image,)), (terms,))
    classes = range(len(where))
    probabilities = tuple(_probability(captured, (image, c), largest, z) for c in classes)
    return _Softmax(largest, z, probabilities)


def _probability(
    captured: CapturedLoss, position: tuple[int, int], largest: Value, z: Value
) -> Value:
    score = single("y", captured.outputs, position)
    terms = product(exponential_factor("y", score, largest.computed), one_over_z(z.computed))
    seen = captured.probabilities
    actual = None if seen is None else float(seen[position])
    return _sum(captured, indexed("p", position), (terms,), actual)


def _log_probabilities(outputs: Floats) -> Floats:
    """(N, C), by the logarithm of the sum: a probability may be too small to be told from 0."""
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _cross_entropy(captured: CapturedLoss, image: int | None) -> tuple[Value, ...]:
    chosen = [(n, _softmax(captured, n)) for n in _images(captured, image)]
    gradients = [
        _cross_entropy_gradient(captured, n, c, softmax)
        for n, softmax in chosen
        for c in range(len(softmax.probabilities))
    ]
    steps = [value for _, softmax in chosen for value in softmax.values]
    return (*steps, _cross_entropy_value(captured), *gradients)


def _cross_entropy_value(captured: CapturedLoss) -> Value:
    num_images, num_classes = captured.outputs.shape
    mean = one_over(_MEAN, num_images)
    of_target = _surprise(captured, places(np.arange(num_images), _targets(captured)))
    smoothing = captured.label_smoothing
    if not smoothing:
        return _sum(captured, "L", (product(of_target, mean),), captured.value)
    text = plain_number(smoothing)
    own = derived_constant(r"(1 - \epsilon)", 1 - smoothing, f"1 − {text}")
    share = derived_constant(
        r"\frac{\epsilon}{C}", smoothing / num_classes, f"{text}/{num_classes}"
    )
    of_all = _surprise(captured, every_place(captured.outputs.shape))
    groups = (product(of_target, own, mean), product(of_all, share, mean))
    return _sum(captured, "L", groups, captured.value)


def _surprise(captured: CapturedLoss, where: Indices) -> Factor:
    """−ln p; of a probability too small for a number of its own, by what it is made of."""
    found = _log_probabilities(captured.outputs)[tuple(where.T)]
    factor, probabilities = Factor(r"-\ln p", -found, where), np.exp(found)
    if np.all(probabilities >= np.finfo(np.float64).tiny):
        return derived(factor, "−ln({})", probabilities)
    scores = captured.outputs[tuple(where.T)]
    largest = captured.outputs.max(axis=1)
    z = np.exp(captured.outputs - largest[:, None]).sum(axis=1)
    images = where[:, 0]
    return derived(factor, "ln({}) − ({} − {})", z[images], scores, largest[images])


def _cross_entropy_gradient(captured: CapturedLoss, n: int, c: int, softmax: _Softmax) -> Value:
    mean, p = one_over(_MEAN, len(captured.outputs)), softmax.probabilities[c].computed
    score = float(captured.outputs[n, c])
    share = derived(
        Factor("p", np.array([p]), np.array([[n, c]])),
        PROBABILITY,
        *(score, softmax.largest.computed, softmax.z.computed),
    )
    groups = (product(share, mean), product(_wanted(captured, n, c), mean))
    return _gradient(captured, n, c, groups)


def _wanted(captured: CapturedLoss, n: int, c: int) -> Factor:
    """What the target takes away from p."""
    smoothing, num_classes = captured.label_smoothing, captured.outputs.shape[1]
    is_own = float(c == captured.target[n])
    bracket, place = f"[{c} = {captured.target[n]}]", np.array([[n, c]])
    if not smoothing:
        factor = Factor(r"-\left[ c = t \right]", np.array([0.0 - is_own]), place)
        return derived(factor, f"−{bracket}")
    wanted = (1 - smoothing) * is_own + smoothing / num_classes
    text = f"−((1 − {plain_number(smoothing)})·{bracket} + {plain_number(smoothing)}/{num_classes})"
    return derived(Factor("-q", np.array([-wanted]), place), text)


def _gradient(captured: CapturedLoss, n: int, c: int, groups: tuple[Terms, ...]) -> Value:
    actual = float(captured.gradient[n, c])
    return _sum(captured, indexed("dL/dy", (n, c)), groups, actual)


def _targets(captured: CapturedLoss) -> np.ndarray:
    return np.array(captured.target, dtype=np.int64)


def _mse(captured: CapturedLoss, image: int | None) -> tuple[Value, ...]:
    num_images, num_classes = captured.outputs.shape
    size = f"({num_images}·{num_classes})"
    difference = _difference(captured, every_place(captured.outputs.shape))
    mean = derived_constant(r"\frac{1}{N C}", 1 / captured.outputs.size, f"1/{size}")
    value = _sum(captured, "L", (product(difference, difference, mean),), captured.value)
    slope = derived_constant(r"\frac{2}{N C}", 2 / captured.outputs.size, f"2/{size}")
    gradients = [
        _gradient(captured, n, c, (product(_difference(captured, places(n, c)), slope),))
        for n in _images(captured, image)
        for c in range(num_classes)
    ]
    return (value, *gradients)


def _difference(captured: CapturedLoss, where: Indices) -> Factor:
    """y − t at these places."""
    read = captured.outputs[tuple(where.T)]
    wanted = (where[:, 1] == _targets(captured)[where[:, 0]]).astype(np.float64)
    return derived(Factor("(y - t)", read - wanted, where), "{} − {}", read, wanted)


_MEAN = r"\frac{1}{N}"
_SOFTMAX = GeneralFormula(
    "p",
    r"p_{n, c} = \frac{e^{y_{n, c} - M_n}}{Z_n}",
    r"With $M_n = \max_{c'} y_{n, c'}$ and $Z_n = \sum_{c'=0}^{C-1} e^{y_{n, c'} - M_n}$. $M_n$ "
    "cancels out; without it, large numbers would overflow.",
)


def _cross_entropy_formulas(label_smoothing: float) -> tuple[GeneralFormula, ...]:
    if not label_smoothing:
        latex = r"L = -\frac{1}{N} \sum_{n=0}^{N-1} \ln p_{n, t_n}"
        where = "$t_n$ is the class of image $n$; the mean over the batch."
        wanted = r"\left[ c = t_n \right]"
        meaning = f"${wanted}$ is 1 for the image's own class, else 0."
    else:
        latex = r"L = -\frac{1}{N} \sum_{n=0}^{N-1} \sum_{c=0}^{C-1} q_{n, c} \ln p_{n, c}"
        where = (
            r"$q_{n, c} = (1 - \epsilon) \left[ c = t_n \right] + \epsilon / C$: label smoothing "
            rf"gives $\epsilon = {label_smoothing:g}$ of the target to all classes alike. $t_n$ is "
            "the class of image $n$."
        )
        wanted = "q_{n, c}"
        meaning = "$q_{n, c}$ is what the target gives the class, as in $L$."
    gradient = (
        r"\frac{\partial L}{\partial y_{n, c}} = "
        rf"\frac{{1}}{{N}} \left( p_{{n, c}} - {wanted} \right)"
    )
    return (_SOFTMAX, GeneralFormula("L", latex, where), GeneralFormula("dL/dy", gradient, meaning))


def _mse_formulas(label_smoothing: float) -> tuple[GeneralFormula, ...]:
    return (
        GeneralFormula(
            "L",
            r"L = \frac{1}{N C} \sum_{n=0}^{N-1} \sum_{c=0}^{C-1} (y_{n, c} - t_{n, c})^2",
            "$t_{n, c}$ is 1 for the class of image $n$, else 0; the mean over images and classes.",
        ),
        GeneralFormula(
            "dL/dy", r"\frac{\partial L}{\partial y_{n, c}} = \frac{2}{N C} (y_{n, c} - t_{n, c})"
        ),
    )


@dataclass(frozen=True)
class _ExplainedLoss:
    explain: Callable[[CapturedLoss, int | None], tuple[Value, ...]]
    formulas: Callable[[float], tuple[GeneralFormula, ...]]


_LOSSES: Mapping[str, _ExplainedLoss] = {
    "cross_entropy": _ExplainedLoss(_cross_entropy, _cross_entropy_formulas),
    "mse": _ExplainedLoss(_mse, _mse_formulas),
}
