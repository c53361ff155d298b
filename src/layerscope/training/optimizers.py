"""Optimizers by name, Muon for convolutions, and classes of the user's own."""

import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from layerscope.base.errors import UserError
from layerscope.base.targets import NO_TARGETS, Targets, call_target, import_target, typed_target
from layerscope.config.schema import (
    AdamConfig,
    CustomOptimizerConfig,
    MuonConfig,
    OptimizerConfig,
    SGDConfig,
)
from layerscope.training.plain_data import not_plain

# Coefficients of the quintic iteration: Jordan et al., Muon, 2024.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Muon for convolution weights, SGD with Nesterov momentum for all other parameters.

    torch.optim.Muon takes matrices only. Here a convolution's weight (C_out, C_in, k, k) is treated
    as the matrix (C_out, C_in * k * k). Every group names its `algorithm`. With G the gradient:

    - "muon": M = momentum * M + G; U = orthogonal(G + momentum * M);
      W -= lr * weight_decay * W + lr * max(1, sqrt(rows / columns)) * U
    - "sgd": M = momentum * M + G; W -= lr * weight_decay * W + lr * (G + momentum * M)
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, defaults={})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        momentum: Tensor = state["momentum_buffer"]
        momentum.mul_(group["momentum"]).add_(gradient)
        update = gradient.add(momentum, alpha=group["momentum"])
        scale = 1.0
        if group["algorithm"] == "muon":
            matrix = update.flatten(1)
            scale = math.sqrt(max(1.0, matrix.shape[0] / matrix.shape[1]))
            update = orthogonal(matrix, group["newton_schulz_steps"]).view(parameter.shape)
        if group["weight_decay"]:
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update, alpha=-group["lr"] * scale)


def orthogonal(matrix: Tensor, steps: int) -> Tensor:
    """Return the matrix with its singular values brought near 1 (about 0.7 to 1.2).

    Each step of the Newton-Schulz iteration replaces X by p(X X') X, with a quadratic p. Here the
    steps run on the small square matrix G = X X' alone, which becomes p(G) G p(G). X is multiplied
    once, by the product of all p(G). For the usual shapes of a convolution this takes a fifth of
    the arithmetic.
    """
    first, second, third = NEWTON_SCHULZ
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    scaled = wide / (wide.norm() + 1e-7)
    gram = scaled @ scaled.T
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    product = identity
    for _ in range(steps):
        factor = first * identity + second * gram + third * gram @ gram
        product = factor @ product
        gram = factor @ gram @ factor
    result = product @ scaled
    return result if wide is matrix else result.T


def _sgd(parameters: Sequence[nn.Parameter], config: SGDConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )


def _adam(parameters: Sequence[nn.Parameter], config: AdamConfig) -> torch.optim.Optimizer:
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(
        parameters,
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def _muon(parameters: Sequence[nn.Parameter], config: MuonConfig) -> torch.optim.Optimizer:
    convolutions = {
        "params": [parameter for parameter in parameters if parameter.ndim > 2],
        "algorithm": "muon",
        "lr": config.lr,
        "momentum": config.momentum,
        "weight_decay": config.weight_decay,
        "newton_schulz_steps": config.newton_schulz_steps,
    }
    rest = {
        "params": [parameter for parameter in parameters if parameter.ndim <= 2],
        "algorithm": "sgd",
        "lr": config.sgd_lr,
        "momentum": config.sgd_momentum,
        "weight_decay": config.sgd_weight_decay,
    }
    return Muon(group for group in (convolutions, rest) if group["params"])


OPTIMIZERS: dict[str, Callable[[Sequence[nn.Parameter], Any], torch.optim.Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
    "adamw": _adam,
    "muon": _muon,
}


def build_optimizer(
    network: nn.Module, config: OptimizerConfig, targets: Targets = NO_TARGETS
) -> torch.optim.Optimizer:
    """Return the optimizer of all parameters that require a gradient.

    Each group has its full learning rate, before the schedule, as `base_lr`.

    Args:
        targets: what the user typed, see base/targets.py.

    Raises:
        UserError: a class of the user's own cannot be imported or called, or is no optimizer.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = optimizer_maker(config, targets)(trained)
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
    return optimizer


def optimizer_maker(
    config: OptimizerConfig, targets: Targets = NO_TARGETS
) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    """Return a function that makes this optimizer of parameters; it has the optimizer's name.

    Args:
        targets: what the user typed, see base/targets.py.

    Raises:
        UserError: a class of the user's own cannot be imported; the function, that it cannot be
            called, or is no optimizer.
    """
    if isinstance(config, CustomOptimizerConfig):
        return _maker_of_own(config, targets)

    def make(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return OPTIMIZERS[config.name](list(parameters), config)

    make.__name__ = config.name
    return make


def _maker_of_own(
    config: CustomOptimizerConfig, targets: Targets
) -> Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]:
    target = typed_target(targets, "optimizer._target_", config.target)
    found = import_target("optimizer._target_", target)
    keys = config.arguments if config.lr is None else {**config.arguments, "lr": config.lr}

    def make(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        optimizer = call_target(target, found, "optimizer", list(parameters), **keys)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise UserError(
                f"optimizer._target_={target} makes a {type(optimizer).__name__}, not a "
                "torch.optim.Optimizer"
            )
        if any("lr" not in group for group in optimizer.param_groups):
            raise UserError(
                f"optimizer._target_={target}: its parameter groups have no lr, which the schedule "
                "sets: give it one"
            )
        _refuse_needed_closure(optimizer, target)
        return optimizer

    make.__name__ = target.rpartition(".")[2]
    return make


def state_after_a_step(
    network: nn.Module, config: CustomOptimizerConfig, targets: Targets
) -> dict[int, dict[str, Any]]:
    """Take one step on copies of the parameters; return the state of each, by its index.

    This tells, before a run makes anything, whether a user's own optimizer can be run and saved.

    Raises:
        UserError: it cannot; the message says why.
    """
    trained = (parameter for parameter in network.parameters() if parameter.requires_grad)
    copies = [nn.Parameter(parameter.detach().clone()) for parameter in trained]
    for copy in copies:
        copy.grad = torch.full_like(copy, 1e-3)
    optimizer = optimizer_maker(config, targets)(copies)
    try:
        optimizer.step(closure=_no_loss)  # as Lightning calls it
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        raise UserError(
            f"optimizer._target_={config.target} cannot take a step: {type(error).__name__}: "
            f"{error}"
        ) from error
    problem = not_plain(optimizer.state_dict())
    if problem:
        raise UserError(
            f"optimizer._target_={config.target} keeps a value of type {problem} in its state: "
            "keep tensors and numbers, since a checkpoint holds nothing else"
        )
    return optimizer.state_dict()["state"]


def _no_loss() -> float:
    """Stand in for a closure, which Lightning passes in manual optimization too."""
    return 0.0


def _refuse_needed_closure(optimizer: torch.optim.Optimizer, target: str) -> None:
    """Refuse LBFGS and its like, which compute the loss several times in a step."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise UserError(
            f"optimizer._target_={target} computes the loss several times in a step (its closure), "
            "and a step here computes it once: choose another optimizer"
        )
