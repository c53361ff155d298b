"""Open a checkpoint with its own configuration and the user's changes to it."""

from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerscope.base.errors import UserError
from layerscope.base.targets import Targets, target_of
from layerscope.commands.network import warning_of_random_buffers
from layerscope.commands.runner import Request
from layerscope.config.compose import CONFIG_DIR
from layerscope.config.overrides import key_of, override_plain
from layerscope.config.problems import as_typed, parse
from layerscope.config.schema import (
    Cifar10Config,
    Cifar100Config,
    DataConfig,
    ImageFolderConfig,
    TrainConfig,
)
from layerscope.data.cifar100 import Cifar100
from layerscope.data.store import load_cifar10
from layerscope.networks import build_network, check_network
from layerscope.report.terminal import complain
from layerscope.training.checkpoints import RunFacts, load_weights, read_checkpoint
from layerscope.training.hardware import resolved_precision
from layerscope.training.preprocessing import preprocessing_of


@dataclass(frozen=True)
class Opened:
    """A checkpoint that has passed every check, and the configuration to use it with."""

    path: Path
    checkpoint: dict[str, Any]
    config: TrainConfig
    targets: Targets


def open_checkpoint(request: Request) -> Opened:
    """Open the checkpoint that the request names."""
    path = Path(request.config.ckpt_path)
    checkpoint = read_checkpoint(path)
    preprocessing_of(checkpoint)
    values = RunFacts.of(checkpoint).config
    config = parse(TrainConfig, override_plain(values, request.foreign, CONFIG_DIR))
    _refuse_another_view(parse(TrainConfig, values), config)
    config = config.model_copy(update={"trainer": resolved_precision(config.trainer)})
    typed = frozenset(map(key_of, request.foreign))
    config = config.model_copy(update={"data": _without_writing(config.data, typed)})
    target = target_of(request.targets)
    network = build_network(config.model, target)
    check_network(network, config.model)
    warning = warning_of_random_buffers(network, config.model, target)
    if warning:
        complain(f"warning: {warning}")
    load_weights(network, checkpoint)
    return Opened(path, checkpoint, config, request.targets)


def _without_writing(data: DataConfig, typed: Set[str]) -> DataConfig:
    """Take the checkpoint's data directory only if the data is there.

    A file does not say where data is put.

    Args:
        typed: the keys that the user gives himself.
    """
    if isinstance(data, ImageFolderConfig) and "data.cache" not in typed:
        return data.model_copy(update={"cache": None})
    is_stored = isinstance(data, Cifar10Config | Cifar100Config)
    if not is_stored or data.dir is None or "data.dir" in typed or _is_stored_in(data):
        return data
    return data.model_copy(update={"dir": None})


def _is_stored_in(data: Cifar10Config | Cifar100Config) -> bool:
    """Tell whether the decoded arrays are in `data.dir`, so that nothing will be written there."""
    if isinstance(data, Cifar100Config):
        return Cifar100(data).is_decoded
    assert data.dir is not None
    try:
        load_cifar10(Path(data.dir))
    except UserError:
        return False
    return True


def _refuse_another_view(trained: TrainConfig, asked: TrainConfig) -> None:
    """Refuse to change what the network was trained to see."""
    of_data = ["image_size", "grayscale"]
    if _source(trained.data) == _source(asked.data):  # else groups say which classes are which
        of_data.append("groups")
    for section, names in (("model", None), ("data", of_data)):
        old, new = getattr(trained, section), getattr(asked, section)
        for name in names or type(old).model_fields:
            value = getattr(new, name)
            if value != getattr(old, name) and value is not None and name != "target":
                raise UserError(
                    f"{section}.{name}={as_typed(value)}: the checkpoint's network was trained "
                    f"with {as_typed(getattr(old, name))}, and that stays: leave it out"
                )


def _source(data: DataConfig) -> tuple[Any, ...]:
    """Return what says which images these are."""
    values = data.model_dump(by_alias=True)
    return tuple(values.get(key) for key in ("name", "dir", "_target_"))
