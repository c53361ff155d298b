"""`layerscope.profile` and `layerscope.dry_run`: a torch user's own module and any call of it.

Neither Hydra nor Lightning is imported.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

# torch has no public way to the leaves of nested arguments that are no tensors.
from torch.utils._pytree import tree_leaves

from layerscope.base.errors import UserError
from layerscope.dry_run import DryRun
from layerscope.dry_run import dry_run as run_dry
from layerscope.dry_run.step import Loss, MakeOptimizer
from layerscope.layers.calls import require_module
from layerscope.reconcile import (
    EXACT_INSTRUMENTS,
    CallArguments,
    ProfileSettings,
    profile_network,
)
from layerscope.reconcile.measurements import check_instruments
from layerscope.reconcile.settings import check_settings, random_input
from layerscope.report.profile.report import ProfileReport

_GIVE = "give input_shape=(N, C, H, W), or the arguments of one call: args=(x, ...), kwargs={...}"


def profile(
    model: nn.Module,
    input_shape: Sequence[int] | None = None,
    *,
    args: Sequence[Any] | Tensor = (),
    kwargs: Mapping[str, Any] | None = None,
    loss: Loss | None = None,
    dtype: str | None = None,
    device: str | torch.device | None = None,
    channels_last: bool | None = None,
    train: bool | None = None,
    freeze: Sequence[str] = (),
    input_requires_grad: bool = False,
    optimizer: str | MakeOptimizer = "momentum",
    instruments: Iterable[str] = EXACT_INSTRUMENTS,
) -> ProfileReport:
    """Put theory beside measurement for every layer; print the result, or `.save(directory)` it.

    The model runs a few times and is left as it was. Where it would have to change dtype, device or
    memory format, a copy of it runs. A CUDA device that is not here is forecast: the textbook and
    what CUDA would save, without measurements.

    Args:
        input_shape: with the batch, (N, C, H, W): random numbers of this shape are the input.
        args, kwargs: instead of a shape, the arguments of one call of the model, tensors in any
            nesting; a single tensor stands for itself.
        loss: a scalar of what the model returned; default: the sum of its floating-point tensors.
        dtype: `float32`, `bfloat16`, `bf16_autocast`, ...; by default the model's own, as are
            device and memory format.
        train: None leaves every submodule in the mode that it has.
        freeze: modules by their paths, or beginnings of parameter names, that shall require no
            gradient.
        optimizer: `sgd`, `momentum`, `adam` or `adamw`, or a function of the parameters: its state
            and its step count for the largest batch that fits.
        instruments: names of layerscope.INSTRUMENTS. `time` and `machine` depend on the clock, take
            longest, and are not among the default ones.

    Raises:
        UserError: the model does not run on this input, or a setting is none.
    """
    require_module(model)
    call = _call(input_shape, args, kwargs, loss)
    chosen = check_instruments([instruments] if isinstance(instruments, str) else instruments)
    settings = ProfileSettings(
        network=type(model).__name__,
        input_shape=_described(call) if input_shape is None else _sizes(input_shape),
        dtype=dtype or own_dtype(model),
        device=str(device or _own_device(model)),
        channels_last=_is_channels_last(model) if channels_last is None else channels_last,
        train=train,
        freeze=(freeze,) if isinstance(freeze, str) else tuple(freeze),
        input_requires_grad=input_requires_grad,
        optimizer=optimizer,
        as_it_is=dtype is None and device is None and channels_last is None,
    )
    check_settings(model, settings)
    if input_shape is not None:
        call = CallArguments((random_input(settings),), loss=loss)
    with _input_mended(input_shape is not None):
        return ProfileReport(profile_network(model, settings, chosen, call))


def dry_run(
    model: nn.Module,
    input_shape: Sequence[int] | None = None,
    *,
    args: Sequence[Any] | Tensor = (),
    kwargs: Mapping[str, Any] | None = None,
    loss: Loss | None = None,
    optimizer: str | MakeOptimizer | None = None,
    device: str | torch.device | None = None,
) -> DryRun:
    """Run one training step of the model without memory and arithmetic, and return its record.

    The model stays as it was. One whose code depends on values runs on real tensors instead, and
    the record says so.

    Args:
        input_shape, args, kwargs, loss: as of `layerscope.profile`.
        optimizer: `sgd`, `momentum`, `adam` or `adamw`, or a function of the parameters; None: the
            step ends with the backward pass.
        device: where the step is to run; default: where the model is. For a CUDA device that is not
            here the forward pass alone can run.

    Raises:
        UserError: the model does not run on this input.
    """
    require_module(model)
    call = _call(input_shape, args, kwargs, loss)
    settings = ProfileSettings(
        network=type(model).__name__,
        input_shape=_described(call) if input_shape is None else _sizes(input_shape),
        dtype=own_dtype(model),
        device=str(device or _own_device(model)),
        optimizer=optimizer or "sgd",
        as_it_is=True,
    )
    check_settings(model, settings)
    make = None if optimizer is None else settings.make_optimizer
    where = torch.device(settings.device)
    with _input_mended(input_shape is not None):
        if input_shape is None:
            return run_dry(model, call.args, call.kwargs, loss=loss, optimizer=make, device=where)
        try:  # an input without memory serves all but code that depends on values
            image = torch.empty(settings.input_shape, dtype=settings.tensor_dtype, device="meta")
            return run_dry(
                model, (image,), loss=loss, optimizer=make, device=where, allow_real=False
            )
        except UserError:
            image = random_input(settings)
            return run_dry(model, (image,), loss=loss, optimizer=make, device=where)


def _sizes(input_shape: object) -> tuple[int, ...]:
    if isinstance(input_shape, Tensor):
        raise UserError("input_shape is a tensor: give the sizes, or the tensor as args=(x,)")
    if not isinstance(input_shape, Sequence) or isinstance(input_shape, str):
        raise UserError(f"input_shape={input_shape}: give all sizes, (N, C, H, W)")
    return tuple(input_shape)


def _call(input_shape: object, args: object, kwargs: object, loss: Loss | None) -> CallArguments:
    """Return the call that the arguments describe; one of a shape has no arguments yet.

    Raises:
        UserError: not exactly one of shape and arguments, or arguments that are none.
    """
    if loss is not None and not callable(loss):
        raise UserError(
            f"loss is a {type(loss).__name__}: give a function of what the model returns"
        )
    if isinstance(args, Tensor):
        args = (args,)
    if not isinstance(args, tuple | list):
        raise UserError(f"args is a {type(args).__name__}: give a tuple, args=(x, ...)")
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise UserError(f"kwargs is a {type(kwargs).__name__}: give a dict of names and values")
    given = bool(args) or bool(kwargs)
    if input_shape is None and not given:
        raise UserError(f"there is no input: {_GIVE}")
    if input_shape is not None and given:
        raise UserError("input_shape and args or kwargs exclude each other: give one of them")
    call = CallArguments(tuple(args), dict(kwargs or {}), loss)
    if given:
        _check_tensors(call)
    return call


def _check_tensors(call: CallArguments) -> None:
    leaves = tree_leaves((call.args, call.kwargs))
    for leaf in leaves:
        if type(leaf).__module__.partition(".")[0] == "numpy":
            raise UserError(
                f"args or kwargs hold a {type(leaf).__name__} of numpy: give tensors, "
                "torch.from_numpy(x)"
            )
    if not any(isinstance(leaf, Tensor) for leaf in leaves):
        raise UserError("args and kwargs hold no tensor: give those that the model is called with")


def _described(call: CallArguments) -> Any:
    """Return the shape of a call with one image; of other calls their description."""
    if len(call.args) == 1 and not call.kwargs:
        only = call.args[0]
        if isinstance(only, Tensor) and only.is_floating_point():
            return tuple(only.shape)
    return call.description


@contextmanager
def _input_mended(by_shape: bool) -> Iterator[None]:
    """Tell, where a model takes integers and got numbers, what to give."""
    try:
        yield
    except UserError as error:
        text = str(error)
        if by_shape and "complex" in text.lower():
            raise UserError(f"{text}: input_shape makes real numbers: give args=(x,)") from error
        if "Long, Int" not in text and "must be integer" not in text:
            raise
        mend = (
            "input_shape makes floating-point numbers: give token ids as "
            "args=(torch.randint(0, num_tokens, (N, length)),)"
            if by_shape
            else "give token ids and indices as integers, x.long()"
        )
        raise UserError(f"{text}: {mend}") from error


def own_dtype(model: nn.Module) -> str:
    """Return the dtype of the first floating-point parameter, without "torch."."""
    floating = (p.dtype for p in model.parameters() if p.is_floating_point())
    return str(next(floating, torch.float32)).removeprefix("torch.")


def _own_device(model: nn.Module) -> str:
    """Return the device of the first parameter; one without memory stands for a CPU."""
    first = next(model.parameters(), None)
    return "cpu" if first is None or first.is_meta else str(first.device)


def _is_channels_last(model: nn.Module) -> bool:
    """Tell whether some 4-D parameter is in this format and not in the plain one."""
    return any(
        not is_lazy(parameter)
        and parameter.dim() == 4
        and not parameter.is_contiguous()
        and parameter.is_contiguous(memory_format=torch.channels_last)
        for parameter in model.parameters()
    )
