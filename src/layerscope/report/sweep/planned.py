"""The jobs that a sweep set out to run, from the multirun.yaml that Hydra leaves."""

from pathlib import Path

from pydantic import BaseModel, Field, ValidationError

from layerscope.base.errors import UserError
from layerscope.config.compose import jobs_of
from layerscope.config.yaml_files import load_yaml

_FILE = "multirun.yaml"


class _Sweeper(BaseModel):
    target: str = Field(alias="_target_")
    params: dict[str, str | int | float | bool] | None = None


class _Overrides(BaseModel):
    task: list[str]


class _Hydra(BaseModel):
    sweeper: _Sweeper
    overrides: _Overrides


class _Multirun(BaseModel):
    hydra: _Hydra


def planned_jobs(directory: Path) -> list[list[str]]:
    """Return the overrides of each job.

    Empty where nobody can say: the file is missing or no sweep's, or another sweeper than Hydra's
    own decides as it goes.
    """
    path = directory / _FILE
    if not path.is_file():
        return []
    try:
        told = _Multirun.model_validate(load_yaml(path)).hydra
        if not told.sweeper.target.endswith(".BasicSweeper"):
            return []
        of_files = [f"{key}={value}" for key, value in (told.sweeper.params or {}).items()]
        return jobs_of([*of_files, *told.overrides.task])
    except (UserError, ValidationError):
        return []
