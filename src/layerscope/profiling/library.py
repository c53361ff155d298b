"""`layerscope.profile`: a torch user's own module, without Hydra and Lightning."""

from collections.abc import Iterable, Sequence

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from layerscope.errors import UserError
from layerscope.reconcile import (
    EXACT_INSTRUMENTS,
    INSTRUMENTS,
    Settings,
    profile_network,
)
from layerscope.report.profile.report import ProfileReport


def profile(
    model: nn.Module,
    input_shape: Sequence[int],
    *,
    dtype: str | None = None,
    device: str | torch.device | None = None,
    channels_last: bool | None = None,
    train: bool | None = None,
    freeze: Sequence[str] = (),
    input_requires_grad: bool = False,
    optimizer: str = "momentum",
    instruments: Iterable[str] = EXACT_INSTRUMENTS,
) -> ProfileReport:
    """Theory beside measurement, for every layer; print it, or `.save(directory)` it.

    The model runs a few times on random input and is left as it was. Where it would have to change
    dtype, device or memory format, a copy of it runs.

    Args:
        input_shape: with the batch, (N, C, H, W).
        dtype: `float32`, `bfloat16` or `bf16_autocast`; by default the model's own, as are device
            and memory format.
        train: None leaves every submodule in the mode that it has.
        freeze: modules by their paths, or beginnings of parameter names, that shall require no
            gradient.
        optimizer: `sgd`, `momentum` or `adam`: whose state counts for the largest batch that fits.
        instruments: names of layerscope.reconcile.INSTRUMENTS. `time` and `machine` depend on the
            clock, take longest, and are not among the default ones.

    Raises:
        UserError: the model does not run on this shape, or a setting is none.
    """
    if not isinstance(model, nn.Module):
        raise UserError(f"model is a {type(model).__name__}, not an nn.Module")
    if isinstance(input_shape, int):
        raise UserError(f"input_shape={input_shape}: give all sizes, (N, C, H, W)")
    chosen = frozenset([instruments] if isinstance(instruments, str) else instruments)
    unknown = sorted(chosen - set(INSTRUMENTS))
    if unknown:
        raise UserError(f"instruments: {unknown[0]} is none of {', '.join(INSTRUMENTS)}")
    settings = Settings(
        network=type(model).__name__,
        input_shape=tuple(input_shape),
        dtype=dtype or _own_dtype(model),
        device=str(device or _own_device(model)),
        channels_last=_is_channels_last(model) if channels_last is None else channels_last,
        train=train,
        freeze=(freeze,) if isinstance(freeze, str) else tuple(freeze),
        input_requires_grad=input_requires_grad,
        optimizer=optimizer,
        as_it_is=dtype is None and device is None and channels_last is None,
    )
    return ProfileReport(profile_network(model, settings, chosen))


def _own_dtype(model: nn.Module) -> str:
    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    return str(next(floating, torch.float32)).removeprefix("torch.")


def _own_device(model: nn.Module) -> str:
    first = next(model.parameters(), None)
    return "cpu" if first is None else str(first.device)


def _is_channels_last(model: nn.Module) -> bool:
    """Whether some 4-D parameter is in this format and not in the plain one."""
    return any(
        not is_lazy(parameter)
        and parameter.dim() == 4
        and not parameter.is_contiguous()
        and parameter.is_contiguous(memory_format=torch.channels_last)
        for parameter in model.parameters()
    )
