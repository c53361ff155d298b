"""Check what a configuration says to Hydra, which calls by name what stands there."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from layerscope.base.errors import UserError
from layerscope.config.problems import as_typed

# These name what Hydra calls or imports: not needed, and never taken from a file.
_UNUSED = {"callbacks": {}, "searchpath": []}
# Engines of a sweep that are packages of their own.
_PACKAGES = {
    "hydra/launcher=joblib": "hydra-joblib-launcher",
    "hydra/launcher=submitit_local": "hydra-submitit-launcher",
    "hydra/launcher=submitit_slurm": "hydra-submitit-launcher",
}
MOST_BYTES_OF_A_NAME = 255  # of a file or directory, in any file system that is in use
_LOGGING = {"version": 1, "root": None, "disable_existing_loggers": False}


def check_hydra_section(config: DictConfig, mode: RunMode) -> None:
    """Refuse keys by which Hydra would call or import something, whoever wrote them."""
    for key, value in _UNUSED.items():
        if config.get(key) != value:
            raise UserError(f"hydra.{key} is not used here: leave it out")
    for key in ("job_logging", "hydra_logging"):
        if OmegaConf.to_container(config[key]) != _LOGGING:
            raise UserError(f"hydra/{key} is not used here: leave it out")
    if config.job.env_set or config.job.env_copy:
        raise UserError("hydra.job.env_set and env_copy are not used here: set them in your shell")
    if config.mode not in (None, RunMode.RUN):
        raise UserError("hydra.mode is not used here: -m makes a sweep")
    for key in ("launcher", "sweeper"):
        target = OmegaConf.select(config, f"{key}._target_")
        if target not in Plugins.instance().class_name_to_class:
            raise UserError(f"hydra.{key}._target_={target} is no {key} of Hydra's: choose another")
    is_slurm = config.launcher._target_.endswith(".SlurmLauncher")
    if mode == RunMode.MULTIRUN and is_slurm and shutil.which("srun") is None:
        raise UserError(
            "hydra/launcher=submitit_slurm: there is no srun here: use a machine that submits to "
            "SLURM, or hydra/launcher=submitit_local"
        )
    for key in _unknown_in(config, "hydra"):
        if key == "hydra.env":  # Hydra's own, of which its class does not know
            continue
        raise UserError(f"{key} is not a key: remove it or correct its name")
    key = "run.dir" if mode == RunMode.RUN else "sweep.dir"
    with interpolations_named():
        _check_directory(f"hydra.{key}", OmegaConf.select(config, key))


def _unknown_in(section: DictConfig, name: str) -> Iterator[str]:
    """Find keys that Hydra's own classes do not have; `+` adds them all the same."""
    kind = OmegaConf.get_type(section)
    known = {field.name for field in fields(kind)} if is_dataclass(kind) else None
    for key in section:
        if known is not None and key not in known:
            yield f"{name}.{key}"
        if OmegaConf.is_missing(section, key) or OmegaConf.is_interpolation(section, str(key)):
            continue
        if isinstance(section[key], DictConfig):
            yield from _unknown_in(section[key], f"{name}.{key}")


def package_of_engine(choice: str) -> str | None:
    """Return the package of an engine that is not installed, `hydra/launcher=joblib`."""
    return _PACKAGES.get(choice)


def check_places(config: DictConfig) -> None:
    """Check what stands in no command's schema: where files go, and the name of a recipe."""
    with interpolations_named():
        places = OmegaConf.to_container(config.get("paths") or OmegaConf.create(), resolve=True)
    for key, value in places.items() if isinstance(places, dict) else ():
        if key != "outputs":
            raise UserError(f"paths.{key} is not a key: remove it or correct its name")
        _check_directory("paths.outputs", value)
    for key in config.get("experiment") or ():
        raise UserError(
            f"experiment.{key} is not a key: an experiment's file begins with # @package _global_"
        )


def _check_directory(key: str, value: Any) -> None:
    if not isinstance(value, str | int) or isinstance(value, bool) or not str(value).strip():
        raise UserError(f"{key}={as_typed(value)} names no directory: give one")
    if "://" in str(value) or "\0" in str(value):
        raise UserError(f"{key}={value} names no local directory: give one")
    if any(len(os.fsencode(part)) > MOST_BYTES_OF_A_NAME for part in Path(str(value)).parts):
        raise UserError(f"{key}={as_typed(value)} is too long for a file system: shorten it")


@contextmanager
def interpolations_named() -> Iterator[None]:
    """Report an unresolved interpolation as a UserError that names its key."""
    try:
        yield
    except InterpolationResolutionError as error:
        problem = str(error.msg or error).split("\n", 1)[0]
        raise UserError(f"{error.full_key}: {problem}: write the value itself") from error
