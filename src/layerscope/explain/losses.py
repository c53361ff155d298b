"""The loss and its gradient of the network's outputs: cross-entropy and the mean squared error."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from layerscope.explain.captured import CapturedLoss
from layerscope.explain.explainer import GeneralFormula
from layerscope.explain.factors import constant, every_place, gathered, places, product, single
from layerscope.explain.kinds.softmax import MAXIMUM_NOTE, shifted_exponentials
from layerscope.explain.values import Factor, Floats, Terms, Value, indexed

LAYER = "loss"


def explain_loss(captured: CapturedLoss, image: int | None = None) -> tuple[Value, ...]:
    """What is computed on the way, then `L`, then `dL/dy[n,c]` of each class.

    Args:
        image: whose probabilities and gradients are explained; all images if not given. L is always
            explained by all images.
    """
    return _LOSSES[captured.kind].explain(captured, image)


def loss_formulas(kind: str, label_smoothing: float = 0.0) -> tuple[GeneralFormula, ...]:
    """Of `cross_entropy` or `mse`: L and dL/dy, and what is computed on the way."""
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
    """Of one image's outputs: each step as a value."""

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
    largest = Value(name, LAYER, "max", (product(scores),), None, captured.dtype, MAXIMUM_NOTE)
    exponentials = shifted_exponentials(scores.values, largest.computed)
    terms = product(Factor("e^{y - M}", exponentials, where))
    z = _sum(captured, indexed("Z", (image,)), (terms,))
    return _Softmax(
        largest,
        z,
        tuple(
            _sum(
                captured,
                indexed("p", (image, c)),
                (
                    product(
                        Factor("e^{y - M}", exponentials[c : c + 1], where[c : c + 1]),
                        constant(r"\frac{1}{Z}", 1 / z.computed),
                    ),
                ),
            )
            for c in range(len(where))
        ),
    )


def _log_probabilities(outputs: Floats) -> Floats:
    """(N, C), by the logarithm of the sum: a probability may be too small to be told from 0."""
    shifted = outputs - outputs.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _cross_entropy(captured: CapturedLoss, image: int | None) -> tuple[Value, ...]:
    chosen = [(n, _softmax(captured, n)) for n in _images(captured, image)]
    gradients = [
        _cross_entropy_gradient(captured, n, c, p.computed)
        for n, softmax in chosen
        for c, p in enumerate(softmax.probabilities)
    ]
    steps = [value for _, softmax in chosen for value in softmax.values]
    return (*steps, _cross_entropy_value(captured), *gradients)


def _cross_entropy_value(captured: CapturedLoss) -> Value:
    num_images, num_classes = captured.outputs.shape
    surprise = -_log_probabilities(captured.outputs)
    mean = constant(r"\frac{1}{N}", 1 / num_images)
    of_target = gathered(r"-\ln p", surprise, places(np.arange(num_images), _targets(captured)))
    smoothing = captured.label_smoothing
    if not smoothing:
        return _sum(captured, "L", (product(of_target, mean),), captured.value)
    groups = (
        product(of_target, constant(r"(1 - \epsilon)", 1 - smoothing), mean),
        product(
            gathered(r"-\ln p", surprise, every_place(surprise.shape)),
            constant(r"\frac{\epsilon}{C}", smoothing / num_classes),
            mean,
        ),
    )
    return _sum(captured, "L", groups, captured.value)


def _cross_entropy_gradient(captured: CapturedLoss, n: int, c: int, share: float) -> Value:
    num_images, num_classes = captured.outputs.shape
    smoothing = captured.label_smoothing
    wanted = (1 - smoothing) * (c == captured.target[n]) + smoothing / num_classes
    mean = constant(r"\frac{1}{N}", 1 / num_images)
    place = np.array([[n, c]])
    groups = (
        product(Factor("p", np.array([share]), place), mean),
        product(Factor("-q", np.array([0.0 - wanted]), place), mean),
    )
    return _gradient(captured, n, c, groups)


def _gradient(captured: CapturedLoss, n: int, c: int, groups: tuple[Terms, ...]) -> Value:
    actual = float(captured.gradient[n, c])
    return _sum(captured, indexed("dL/dy", (n, c)), groups, actual)


def _targets(captured: CapturedLoss) -> np.ndarray:
    return np.array(captured.target, dtype=np.int64)


def _mse(captured: CapturedLoss, image: int | None) -> tuple[Value, ...]:
    outputs = captured.outputs
    wanted = np.eye(outputs.shape[1])[_targets(captured)]
    where = every_place(outputs.shape)
    difference = gathered("(y - t)", outputs - wanted, where)
    mean = constant(r"\frac{1}{N C}", 1 / outputs.size)
    value = _sum(captured, "L", (product(difference, difference, mean),), captured.value)
    gradients = [
        _gradient(
            captured,
            n,
            c,
            (
                product(
                    single("(y - t)", outputs - wanted, (n, c)),
                    constant(r"\frac{2}{N C}", 2 / outputs.size),
                ),
            ),
        )
        for n in _images(captured, image)
        for c in range(outputs.shape[1])
    ]
    return (value, *gradients)


_SOFTMAX = GeneralFormula(
    "p",
    r"p_{n, c} = \frac{e^{y_{n, c} - M_n}}{Z_n}",
    r"With $M_n = \max_k y_{n, k}$ and $Z_n = \sum_{k=0}^{C-1} e^{y_{n, k} - M_n}$. $M_n$ cancels "
    "out; without it, large numbers would overflow.",
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
        wanted, meaning = "q_{n, c}", ""
    gradient = (
        r"\frac{\partial L}{\partial y_{n, c}} = "
        rf"\frac{{1}}{{N}} \left( p_{{n, c}} - {wanted} \right)"
    )
    return (
        _SOFTMAX,
        GeneralFormula("L", latex, where),
        GeneralFormula("dL/dy", gradient, meaning),
    )


def _mse_formulas(label_smoothing: float) -> tuple[GeneralFormula, ...]:
    return (
        GeneralFormula(
            "L",
            r"L = \frac{1}{N C} \sum_{n=0}^{N-1} \sum_{c=0}^{C-1} (y_{n, c} - t_{n, c})^2",
            "$t_{n, c}$ is 1 for the class of image $n$, else 0; the mean over images and classes.",
        ),
        GeneralFormula(
            "dL/dy",
            r"\frac{\partial L}{\partial y_{n, c}} = \frac{2}{N C} (y_{n, c} - t_{n, c})",
        ),
    )


@dataclass(frozen=True)
class _Loss:
    explain: Callable[[CapturedLoss, int | None], tuple[Value, ...]]
    formulas: Callable[[float], tuple[GeneralFormula, ...]]


_LOSSES: Mapping[str, _Loss] = {
    "cross_entropy": _Loss(_cross_entropy, _cross_entropy_formulas),
    "mse": _Loss(_mse, _mse_formulas),
}
