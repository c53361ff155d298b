"""Configurations from Hydra's files and a command line's overrides. Makes nothing on the disk."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from layerscope.errors import UserError

if not OmegaConf.has_resolver("pid"):
    OmegaConf.register_new_resolver("pid", os.getpid)

Values = dict[str, Any]


@contextmanager
def open_hydra(name: str, config_dir: Path, extra_dir: str | None = None) -> Iterator[Hydra]:
    """Hydra over the project's configurations and, before them, the user's folder."""
    search_path = create_config_search_path(str(config_dir))
    if extra_dir is not None:
        if not Path(extra_dir).is_dir():
            raise UserError(f"--config-dir {extra_dir} is no directory")
        search_path.prepend(
            provider="command-line",
            path=f"file://{Path(extra_dir).resolve()}",
            anchor=SearchPathQuery(provider="schema"),
        )
    try:
        yield Hydra.create_main_hydra2(name, search_path)
    finally:
        GlobalHydra.instance().clear()


def compose(config_dir: Path, name: str, overrides: Sequence[str] = ()) -> Values:
    """The plain configuration that a command line gives."""
    with open_hydra(name, config_dir) as hydra:
        return plain_values(compose_config(hydra, name, overrides))


def compose_config(
    hydra: Hydra, name: str, overrides: Sequence[str], mode: RunMode = RunMode.RUN
) -> DictConfig:
    """With Hydra's own part; a key that does not exist is a UserError that suggests one."""
    try:
        return hydra.compose_config(name, list(overrides), mode)
    except HydraException as error:
        unknown = re.match(r"Could not override '([^']+)'", str(error))
        if unknown is None:
            raise
        choices = [override for override in overrides if "." not in key_of(override)]
        raise UserError(_unknown_key(unknown[1], _known_keys(hydra, name, choices))) from error


def plain_values(config: DictConfig) -> Values:
    """Interpolations resolved, Hydra's own part left out; a value still missing is a UserError."""
    missing = sorted(OmegaConf.missing_keys(_own(config)))
    if missing:
        raise UserError(f"{missing[0]} is missing: give it, {missing[0]}=...")
    return _values(config)


def sweep_jobs(hydra: Hydra, config: DictConfig, overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job; of one without what is swept, where the sweeper decides later."""
    parser = OverridesParser.create(config_loader=hydra.config_loader)
    parsed = parser.parse_overrides(list(overrides))
    if not config.hydra.sweeper._target_.endswith(BasicSweeper.__name__):
        return [[str(o.input_line) for o in parsed if not o.is_sweep_override()]]
    return [list(job) for job in BasicSweeper.split_arguments(parsed, None)[0]]


def key_of(override: str) -> str:
    """Of `+a.b=1`: a.b."""
    return override.partition("=")[0].lstrip("+~")


def refuse_repeated_keys(overrides: Sequence[str]) -> None:
    """Hydra takes the last one and says nothing."""
    for key, count in Counter(key_of(override) for override in overrides).items():
        if count > 1:
            raise UserError(f"{key} is given {count} times: give it once")


def assignment(key: str, path: Path) -> str:
    """An override, quoted so that any path is taken as it is."""
    quoted = str(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{quoted}'"


def _known_keys(hydra: Hydra, name: str, choices: list[str]) -> list[str]:
    """Of the configuration with these groups chosen; with the default ones if these are wrong."""
    try:
        return _keys(_values(hydra.compose_config(name, choices, RunMode.RUN)))
    except HydraException:
        return _keys(_values(hydra.compose_config(name, [], RunMode.RUN)))


def _unknown_key(key: str, known: list[str]) -> str:
    close = get_close_matches(key, known, n=1) or [
        name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]
    ]
    if close:
        return f"{key} is not a key: did you mean {close[0]}?"
    return f"{key} is not a key: --cfg job lists the keys there are"


def _keys(values: Values, prefix: str = "") -> list[str]:
    names: list[str] = []
    for key, value in values.items():
        names.append(f"{prefix}{key}")
        if isinstance(value, dict):
            names += _keys(value, f"{prefix}{key}.")
    return names


def _values(config: DictConfig) -> Values:
    return OmegaConf.to_container(_own(config), resolve=True)  # type: ignore[return-value]


def _own(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
