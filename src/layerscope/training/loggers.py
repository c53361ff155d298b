"""Experiment trackers beside metrics.csv."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch.loggers import Logger

from layerscope.config import LoggerConfig
from layerscope.errors import UserError


def _tensorboard(directory: Path) -> Logger:
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(directory, name=None, version="tensorboard")


def _wandb(directory: Path) -> Logger:
    from lightning.pytorch.loggers import WandbLogger

    return WandbLogger(project="layerscope", name=directory.name, save_dir=directory)


def _mlflow(directory: Path) -> Logger:
    from lightning.pytorch.loggers import MLFlowLogger

    return MLFlowLogger("layerscope", directory.name, save_dir=str(directory / "mlruns"))


LOGGERS: dict[str, tuple[str, Callable[[Path], Logger]]] = {
    "tensorboard": ("tensorboard", _tensorboard),
    "wandb": ("wandb", _wandb),
    "mlflow": ("mlflow", _mlflow),
}


def check_logger(config: LoggerConfig) -> None:
    """A UserError if the tracker's package is not installed."""
    if config.name in LOGGERS and importlib.util.find_spec(LOGGERS[config.name][0]) is None:
        package = LOGGERS[config.name][0]
        raise UserError(f"logger={config.name} needs a package: pip install {package}")


def make_loggers(config: LoggerConfig, directory: Path) -> list[Logger]:
    """None for csv: metrics.csv is written in any case."""
    return [LOGGERS[config.name][1](directory)] if config.name in LOGGERS else []
