"""One optimizer step of a parameter as its formula says, element by element; dw is dL/dw.

With torch.optim's conventions: the learning rate is not part of the momentum, and weight decay is
added to the gradient.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def sgd_step(
    w: Floats,
    dw: Floats,
    learning_rate: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    nesterov: bool = False,
    velocity: Floats | None = None,
) -> tuple[Floats, Floats]:
    """w' = w − learning_rate · u, with g = dw + weight_decay · w and v' = momentum · v + g.

    u is v', or g + momentum · v' with `nesterov`.

    Args:
        velocity: v, of the step before; None in the first step, as 0.

    Returns:
        w' and v'.
    """
    g = dw + weight_decay * w
    v = g if velocity is None else momentum * velocity + g
    u = g + momentum * v if nesterov else v
    return w - learning_rate * u, v


class AdamState(NamedTuple):
    """The gradient's and the squared gradient's running means, after so many steps."""

    m: Floats
    v: Floats
    num_steps: int


def adam_step(
    w: Floats,
    dw: Floats,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    state: AdamState | None = None,
) -> tuple[Floats, AdamState]:
    """w' = w − learning_rate · m̂ / (√v̂ + eps), with g = dw + weight_decay · w.

    m' = β₁ · m + (1 − β₁) · g,    m̂ = m' / (1 − β₁^t)
    v' = β₂ · v + (1 − β₂) · g²,   v̂ = v' / (1 − β₂^t)     in step t = 1, 2, …

    Args:
        state: after the step before; None in the first step, as m = v = 0.

    Returns:
        w' and the state after this step.
    """
    before = state or AdamState(np.zeros(w.shape), np.zeros(w.shape), 0)
    beta1, beta2 = betas
    t = before.num_steps + 1
    g = dw + weight_decay * w
    m = beta1 * before.m + (1 - beta1) * g
    v = beta2 * before.v + (1 - beta2) * g**2
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return w - learning_rate * m_hat / (np.sqrt(v_hat) + eps), AdamState(m, v, t)
