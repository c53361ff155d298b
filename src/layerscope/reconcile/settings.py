"""The settings of a profile, and the preparation of a network for it."""

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from layerscope.base.errors import UserError
from layerscope.dry_run import DryRun, dry_run
from layerscope.dry_run.records import Shape
from layerscope.dry_run.step import Loss, MakeOptimizer
from layerscope.layers.calls import unwrapped
from layerscope.layers.tensors import map_tensors
from layerscope.measure import Step
from layerscope.measure.available import available_bytes
from layerscope.operations import updates_statistics

# The dtype of the network and its input, and the dtype that autocast lowers to.
DTYPES: dict[str, tuple[torch.dtype, torch.dtype | None]] = {
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "bf16_autocast": (torch.float32, torch.bfloat16),
    "float16": (torch.float16, None),
    "float64": (torch.float64, None),
}

OPTIMIZERS: dict[str, MakeOptimizer] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters),
    "adamw": lambda parameters: torch.optim.AdamW(parameters),
}

_ON_META = (
    "the network is on the meta device, without weights: build it on a real one, or run it dry "
    "with layerscope.dry_run"
)


@dataclass(frozen=True)
class ProfileSettings:
    """The settings under which a network is profiled.

    Args:
        network: name of the network, for the reports.
        input_shape: shape of the input with N; for other calls, a description of the arguments.
        train: None leaves every submodule in its mode.
        freeze: paths of modules, or prefixes of parameter names, which get no gradient.
        as_it_is: parameters keep their dtypes, devices and memory formats, mixed or not. `dtype`
            and `channels_last` then apply to the input only.
        optimizer: a name in OPTIMIZERS, or a function that makes an optimizer of parameters. The
            dry run takes its steps; no instrument does.
    """

    network: str
    input_shape: Any
    dtype: str = "float32"
    device: str = "cpu"
    channels_last: bool = False
    train: bool | None = None
    freeze: tuple[str, ...] = ()
    input_requires_grad: bool = False
    optimizer: str | MakeOptimizer = "momentum"
    as_it_is: bool = False

    @property
    def tensor_dtype(self) -> torch.dtype:
        """The dtype of parameters and input."""
        return DTYPES[self.dtype][0]

    @property
    def autocast(self) -> torch.dtype | None:
        """The dtype that autocast lowers to; None if autocast is off."""
        return DTYPES[self.dtype][1]

    @property
    def element_size(self) -> int:
        """Bytes of one element in theory."""
        return self.tensor_dtype.itemsize

    @property
    def is_forecast(self) -> bool:
        """Tell whether the device is missing, so that only the dry run's forward pass runs."""
        return torch.device(self.device).type == "cuda" and not torch.cuda.is_available()

    @property
    def real_device(self) -> str:
        """The device of the tensors that exist."""
        return "cpu" if self.is_forecast else self.device

    @property
    def make_optimizer(self) -> MakeOptimizer:
        """The function that makes the optimizer of parameters."""
        return OPTIMIZERS[self.optimizer] if isinstance(self.optimizer, str) else self.optimizer

    @property
    def optimizer_name(self) -> str:
        """The optimizer's name for the reports."""
        if isinstance(self.optimizer, str):
            return self.optimizer
        name = getattr(self.optimizer, "__name__", type(self.optimizer).__name__)
        return name if name.isidentifier() else "custom"

    @property
    def arithmetic_dtype(self) -> torch.dtype:
        """The dtype in which convolutions and linear layers compute."""
        return self.autocast or self.tensor_dtype


@dataclass(frozen=True)
class CallArguments:
    """The arguments of one call of a network, and the loss of its result.

    Args:
        args, kwargs: tensors in any nesting.
        loss: returns a scalar from the network's result; None takes the sum of its floating-point
            tensors.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    loss: Loss | None = None

    @property
    def description(self) -> Any:
        """Shapes and dtypes of the tensors, nested like the arguments."""

        def described(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return [*value.shape, str(value.dtype).removeprefix("torch.")]
            if isinstance(value, Mapping):
                return {str(name): described(item) for name, item in value.items()}
            if isinstance(value, tuple | list):
                return [described(item) for item in value]
            return value if isinstance(value, int | float | str | bool | None) else str(value)

        return {
            "args": described(self.args),
            **({"kwargs": described(self.kwargs)} if self.kwargs else {}),
        }


@contextmanager
def prepared(
    network: nn.Module, settings: ProfileSettings, call: CallArguments | None = None
) -> Iterator[Step]:
    """Yield the network with the settings applied, and its arguments, by default a random image.

    A network that has to change its dtype, device or memory format is copied. Modes and
    `requires_grad` are set on the network itself and restored.

    Raises:
        UserError: a setting is not possible.
    """
    network = unwrapped(network)
    check_settings(network, settings)
    if not settings.is_forecast and any(parameter.is_meta for parameter in network.parameters()):
        raise UserError(_ON_META)
    kind = torch.device(settings.real_device).type
    ambient = (
        torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()
    )
    # The caller may have switched on inference mode or autocast, or gradients off.
    with torch.inference_mode(False), torch.enable_grad(), ambient:
        network = _converted(network, settings)
        with _flags_restored(network):
            if settings.train is not None:
                network.train(settings.train)
            for prefix in settings.freeze:
                for parameter in _parameters_below(network, prefix):
                    parameter.requires_grad_(False)
            call = call or CallArguments((random_input(settings),))
            args, kwargs = _converted_call(call, settings)
            yield Step(network, args, kwargs, settings.autocast, call.loss)


@contextmanager
def _flags_restored(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    flags = {parameter: parameter.requires_grad for parameter in network.parameters()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


def _converted_call(
    call: CallArguments, settings: ProfileSettings
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Move the call's tensors to the device and, unless `as_it_is`, convert them to the dtype."""

    def converted(tensor: torch.Tensor) -> torch.Tensor:
        dtype = tensor.dtype
        if tensor.is_floating_point() and not settings.as_it_is:
            dtype = settings.tensor_dtype
        moved = tensor.detach().to(settings.real_device, dtype)
        return moved.requires_grad_(tensor.requires_grad)

    args, kwargs = map_tensors((call.args, dict(call.kwargs)), converted)
    return args, kwargs


def without_side_effects(step: Step, run: DryRun, foreign: list[torch.Tensor]) -> Step:
    """Return the step on copies of the user's tensors that it overwrites, for the instruments.

    Args:
        foreign: tensors that are not the network's; the gradients of their leaves are restored.
    """
    if "parameter" in run.overwritten:
        step = replace(step, network=copy.deepcopy(step.network))
    if "input" in run.overwritten:

        def cloned(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.detach().clone().requires_grad_(tensor.requires_grad)

        args, kwargs = map_tensors((step.args, dict(step.kwargs)), cloned)
        step = replace(step, args=args, kwargs=kwargs)
    leaves = tuple(tensor for tensor in foreign if tensor.is_leaf and tensor.requires_grad)
    return replace(step, foreign_leaves=leaves)


@contextmanager
def foreign_values_restored(run: DryRun, foreign: list[torch.Tensor]) -> Iterator[None]:
    """Restore the values of tensors that are not the network's, if the step overwrites some.

    An example are the statistics of batch norms in a second network.
    """
    writes = "constant" in run.overwritten or any(map(updates_statistics, run.operations))
    before = [(t, t.detach().clone()) for t in foreign] if writes else []
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)


def dry_run_of(
    step: Step,
    settings: ProfileSettings,
    batch_factor: int = 1,
    foreign: list[torch.Tensor] | None = None,
) -> DryRun:
    """Run the step on tensors without memory.

    Args:
        batch_factor: multiplies the first dimension of each tensor.
        foreign: collects the tensors of the step that are not the network's own.
    """

    def enlarged(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dim() == 0:
            return tensor
        shape = (tensor.shape[0] * batch_factor, *tensor.shape[1:])
        strides = tensor.stride()
        larger = torch.empty_strided(shape, strides, dtype=tensor.dtype, device="meta")
        return larger.requires_grad_(tensor.requires_grad)

    args, kwargs = step.args, step.kwargs
    if batch_factor > 1:
        args, kwargs = map_tensors((args, dict(kwargs)), enlarged)
    return dry_run(
        step.network,
        args,
        kwargs,
        loss=step.loss_function,
        optimizer=settings.make_optimizer,
        device=torch.device(settings.device),
        autocast=settings.autocast,
        allow_real=batch_factor == 1,
        foreign=foreign,
    )


def check_settings(network: nn.Module, settings: ProfileSettings) -> None:
    """Check everything that can be checked before the network runs.

    Raises:
        UserError: a setting is not possible; the message names it and what to do.
    """
    if isinstance(settings.input_shape, tuple):
        _check_shape(settings.input_shape)
    if settings.dtype not in DTYPES:
        raise UserError(f"dtype={settings.dtype}: choose one of {', '.join(DTYPES)}")
    if isinstance(settings.optimizer, str) and settings.optimizer not in OPTIMIZERS:
        raise UserError(
            f"optimizer={settings.optimizer}: choose one of {', '.join(OPTIMIZERS)}, or "
            "give a class such as torch.optim.RMSprop"
        )
    if any(is_lazy(parameter) for parameter in network.parameters()):
        raise UserError("the network has lazy parameters: run it once first, so that they exist")
    for prefix in settings.freeze:
        if not _parameters_below(network, prefix):
            names = [name for name, _ in network.named_parameters()]
            example = f", as {names[0]} does" if names else ": there are no parameters"
            raise UserError(f"freeze={prefix}: no parameter's name begins so{example}")
    check_device(settings.device)


def _check_shape(shape: Shape) -> None:
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in shape):
        raise UserError(
            "input_shape is the sizes of the input, (N, C, H, W), not the input itself: give "
            "tensors as args=(x,)"
        )
    if not shape or any(size < 1 for size in shape):
        raise UserError(f"input_shape={list(shape)}: every size, the batch too, must be at least 1")


def check_device(device: str) -> None:
    """Refuse a device that cannot be profiled on; allow CUDA without a CUDA device, for forecasts.

    Raises:
        UserError: the device does not exist, or is neither a CPU nor a CUDA device.
    """
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device={device}: give cpu, cuda or cuda:0") from error
    if kind.type not in ("cpu", "cuda") or (kind.type == "cpu" and kind.index):
        raise UserError(f"device={device}: give cpu, cuda or cuda:0")
    if not torch.cuda.is_available():
        return
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={device}: there are {torch.cuda.device_count()} CUDA devices")


def _parameters_below(network: nn.Module, prefix: str) -> list[nn.Parameter]:
    """Return the parameters of the module at this path; without one, those with this prefix."""
    parameters = dict(network.named_parameters())
    path = prefix.rstrip(".")
    own = [p for name, p in parameters.items() if name == path or name.startswith(path + ".")]
    return own or [p for name, p in parameters.items() if name.startswith(prefix)]


def _converted(network: nn.Module, settings: ProfileSettings) -> nn.Module:
    if settings.as_it_is or not _needs_change(network, settings):
        return network
    try:
        network = copy.deepcopy(network)
    except Exception as error:  # A user's module may raise anything.
        raise UserError(
            f"{type(network).__name__} cannot be copied to change its dtype, device or memory "
            f"format: {' '.join(str(error).split())}"
        ) from error
    memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    return network.to(settings.real_device, settings.tensor_dtype).to(memory_format=memory_format)  # type: ignore[call-overload]


def _needs_change(network: nn.Module, settings: ProfileSettings) -> bool:
    device = torch.device(settings.real_device)
    for parameter in network.parameters():
        is_floating = parameter.is_floating_point()
        if parameter.device.type != device.type:
            return True
        if device.index is not None and parameter.device != device:
            return True
        if is_floating and parameter.dtype != settings.tensor_dtype:
            return True
        if parameter.dim() == 4:
            wanted = torch.channels_last if settings.channels_last else torch.contiguous_format
            if not parameter.is_contiguous(memory_format=wanted):
                return True
    return False


def random_input(settings: ProfileSettings) -> torch.Tensor:
    """Return a random input of the settings' shape; the global generators stay as they are."""
    num_bytes = math.prod(settings.input_shape) * torch.float32.itemsize  # It is drawn in float32.
    available = available_bytes("cpu")
    if available is not None and num_bytes > available:
        raise UserError(
            f"an input of shape {settings.input_shape} takes {num_bytes:,} B, {available:,} B are "
            "free: lower the batch size or the size of the input"
        )
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(settings.input_shape, generator=generator)
    image = image.to(settings.real_device, settings.tensor_dtype)
    if settings.channels_last and image.dim() == 4:
        image = image.contiguous(memory_format=torch.channels_last)
    return image.requires_grad_(settings.input_requires_grad)
