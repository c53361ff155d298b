"""How a network is profiled, and the network made ready for it."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from layerscope.errors import UserError
from layerscope.layers import NetworkSpec, Shape, describe
from layerscope.layers.calls import unwrapped
from layerscope.measure import Step
from layerscope.measure.available import available_bytes
from layerscope.theory.capacity import OPTIMIZERS

# Of the network and its input, and what autocast lowers to.
DTYPES: dict[str, tuple[torch.dtype, torch.dtype | None]] = {
    "float32": (torch.float32, None),
    "bfloat16": (torch.bfloat16, None),
    "bf16_autocast": (torch.float32, torch.bfloat16),
    "float16": (torch.float16, None),
    "float64": (torch.float64, None),
}

_ON_META = "the network is on the meta device, without weights: build it on a real one"


@dataclass(frozen=True)
class Settings:
    """What a profile is of.

    Args:
        network: its name, for the reports.
        input_shape: with N.
        train: None leaves every submodule in the mode that it has.
        freeze: modules by their paths, or beginnings of parameter names, that shall require no
            gradient.
        as_it_is: dtypes, device and memory formats of the parameters stay what they are, mixed or
            not; `dtype` and `channels_last` are the input's.
        optimizer: whose state counts for the largest batch that fits; no instrument runs it.
    """

    network: str
    input_shape: Shape
    dtype: str = "float32"
    device: str = "cpu"
    channels_last: bool = False
    train: bool | None = None
    freeze: tuple[str, ...] = ()
    input_requires_grad: bool = False
    optimizer: str = "momentum"
    as_it_is: bool = False

    @property
    def tensor_dtype(self) -> torch.dtype:
        """Of parameters and input."""
        return DTYPES[self.dtype][0]

    @property
    def autocast(self) -> torch.dtype | None:
        """What autocast lowers to; None where it is off."""
        return DTYPES[self.dtype][1]

    @property
    def element_size(self) -> int:
        """Bytes of one element in theory."""
        return self.tensor_dtype.itemsize

    @property
    def arithmetic_dtype(self) -> torch.dtype:
        """What convolutions and linear layers compute in."""
        return self.autocast or self.tensor_dtype


@contextmanager
def prepared(network: nn.Module, settings: Settings) -> Iterator[Step]:
    """The network as the settings ask for it, with an input of random values.

    A network that has to change its dtype, device or memory format is copied; modes and
    `requires_grad` are set on the network itself and put back.

    Raises:
        UserError: a setting that cannot be.
    """
    network = unwrapped(network)
    check_settings(network, settings)
    with torch.inference_mode(False), torch.enable_grad():  # whatever is on or off around it
        network = _converted(network, settings)
        with _flags_put_back(network):
            if settings.train is not None:
                network.train(settings.train)
            for prefix in settings.freeze:
                for parameter in _parameters_below(network, prefix):
                    parameter.requires_grad_(False)
            yield Step(network, _image(settings), settings.autocast)


@contextmanager
def _flags_put_back(network: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in network.modules()}
    flags = {parameter: parameter.requires_grad for parameter in network.parameters()}
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, flag in flags.items():
            parameter.requires_grad_(flag)


def described(step: Step, settings: Settings) -> NetworkSpec:
    """The step's network on paper."""
    return describe(
        step.network,
        settings.input_shape,
        settings.tensor_dtype,
        autocast=settings.autocast,
        input_requires_grad=settings.input_requires_grad,
        channels_last=settings.channels_last,
    )


def check_settings(network: nn.Module, settings: Settings) -> None:
    """Everything that can be told before the network runs.

    Raises:
        UserError: naming the setting and the mend.
    """
    shape = settings.input_shape
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in shape):
        raise UserError("input_shape is the sizes of the input, (N, C, H, W), not the input itself")
    if not shape or any(size < 1 for size in shape):
        raise UserError(f"input_shape={list(shape)}: every size, the batch too, must be at least 1")
    if settings.dtype not in DTYPES:
        raise UserError(f"dtype={settings.dtype}: choose one of {', '.join(DTYPES)}")
    if settings.optimizer not in OPTIMIZERS:
        raise UserError(f"optimizer={settings.optimizer}: choose one of {', '.join(OPTIMIZERS)}")
    if any(is_lazy(parameter) for parameter in network.parameters()):
        raise UserError(
            "the network has lazy parameters: run it once before, so that they are made"
        )
    for prefix in settings.freeze:
        if not _parameters_below(network, prefix):
            names = [name for name, _ in network.named_parameters()]
            example = f", as {names[0]} does" if names else ": there are no parameters"
            raise UserError(f"freeze={prefix}: no parameter's name begins so{example}")
    check_device(settings.device)


def check_device(device: str) -> None:
    """Whether it is there.

    Raises:
        UserError: it is not, or is none that can be profiled on.
    """
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise UserError(f"device={device}: give cpu, cuda or cuda:0") from error
    if kind.type not in ("cpu", "cuda") or (kind.type == "cpu" and kind.index):
        raise UserError(f"device={device}: give cpu, cuda or cuda:0")
    if kind.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={device}: torch sees no CUDA device here, use device=cpu")
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={device}: there are {torch.cuda.device_count()} CUDA devices")


def _parameters_below(network: nn.Module, prefix: str) -> list[nn.Parameter]:
    """Those of the module of this path; where there is none, those whose names begin so."""
    parameters = dict(network.named_parameters())
    path = prefix.rstrip(".")
    own = [p for name, p in parameters.items() if name == path or name.startswith(path + ".")]
    return own or [p for name, p in parameters.items() if name.startswith(prefix)]


def _converted(network: nn.Module, settings: Settings) -> nn.Module:
    if settings.as_it_is or not _needs_change(network, settings):
        return network
    try:
        network = copy.deepcopy(network)
    except Exception as error:  # a user's module may forbid it in any way
        raise UserError(
            f"{type(network).__name__} cannot be copied to change its dtype, device or memory "
            f"format: {' '.join(str(error).split())}"
        ) from error
    memory_format = torch.channels_last if settings.channels_last else torch.contiguous_format
    if any(parameter.is_meta for parameter in network.parameters()):
        raise UserError(_ON_META)
    return network.to(settings.device, settings.tensor_dtype).to(memory_format=memory_format)  # type: ignore[call-overload]


def _needs_change(network: nn.Module, settings: Settings) -> bool:
    device = torch.device(settings.device)
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


def _image(settings: Settings) -> torch.Tensor:
    """Random values that leave the global generators alone."""
    num_bytes = math.prod(settings.input_shape) * torch.float32.itemsize  # as it is drawn
    available = available_bytes("cpu")
    if available is not None and num_bytes > available:
        raise UserError(
            f"an input of shape {settings.input_shape} takes {num_bytes:,} B, {available:,} B are "
            "free: lower the batch size or the size of the input"
        )
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(settings.input_shape, generator=generator)
    image = image.to(settings.device, settings.tensor_dtype)
    if settings.channels_last and image.dim() == 4:
        image = image.contiguous(memory_format=torch.channels_last)
    return image.requires_grad_(settings.input_requires_grad)
