"""Experiment trackers beside metrics.csv."""

import importlib.util
import threading
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch.loggers import Logger

from layerscope.base.errors import UserError
from layerscope.config.schema import LoggerConfig

_print_traceback = threading.excepthook


def _print_unless_stored(end: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread, except of an OSError in TensorBoard's writer thread.

    TensorBoard stores that error, a full disk for example, and raises it at the next write.
    """
    of_tensorboard = type(end.thread).__module__.startswith("tensorboard.")
    if not (of_tensorboard and issubclass(end.exc_type, OSError)):
        _print_traceback(end)


def _tensorboard(directory: Path) -> Logger:
    from lightning.pytorch.loggers import TensorBoardLogger

    threading.excepthook = _print_unless_stored
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
    """Raise a UserError if the tracker's package is not installed."""
    if config.name in LOGGERS and importlib.util.find_spec(LOGGERS[config.name][0]) is None:
        package = LOGGERS[config.name][0]
        raise UserError(f"logger={config.name} needs a package: pip install {package}")


def make_loggers(config: LoggerConfig, directory: Path) -> list[Logger]:
    """Return the configured logger; an empty list for csv, since metrics.csv is always written."""
    return [LOGGERS[config.name][1](directory)] if config.name in LOGGERS else []
