"""Configurations from Hydra's files and a command line's overrides. Makes nothing on the disk."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.base import Container
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from layerscope.errors import UserError
from layerscope.yaml_files import load_yaml

if not OmegaConf.has_resolver("pid"):
    OmegaConf.register_new_resolver("pid", os.getpid)

Values = dict[str, Any]

MAX_JOBS = 10_000  # of a sweep
MAX_INTERPOLATIONS = 1_000  # resolved, of one configuration
# Of Hydra's own part, these name what is called or imported: never taken from a file, nor needed.
_UNUSED = {"callbacks": {}, "searchpath": []}
_LOGGING = {"version": 1, "root": None, "disable_existing_loggers": False}


@contextmanager
def open_hydra(name: str, config_dir: Path, extra_dir: str | None = None) -> Iterator[Hydra]:
    """Hydra over the project's configurations and, before them, the user's folder."""
    Plugins.instance()  # which registers Hydra's own reader of files, if it has not yet
    SourcesRegistry.instance().types[_BoundedFiles.scheme()] = _BoundedFiles
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
    for override in overrides:
        if key_of(override) == "hydra.searchpath":
            raise UserError(f"{override}: not used here, see --config-dir")
    try:
        config = hydra.compose_config(name, list(overrides), mode)
    except (UserError, OmegaConfBaseException):
        raise
    except HydraException as error:
        unknown = re.match(r"Could not override '([^']+)'", str(error))
        if unknown is None:
            if str(error):
                raise
            raise UserError(f"the configuration cannot be composed: {error.__cause__}") from error
        choices = [override for override in overrides if "." not in key_of(override)]
        raise UserError(_unknown_key(unknown[1], _known_keys(hydra, name, choices))) from error
    except RecursionError as error:
        raise UserError("the configuration refers to itself: see its defaults lists") from error
    except (ValueError, TypeError, AttributeError, AssertionError, OSError) as error:
        # What Hydra's own code raises for a value of a kind that it has not thought of.
        raise UserError(f"the configuration cannot be composed: {error}") from error
    _bound_interpolations(config)
    _check_hydras_part(config.hydra, mode)
    return config


def plain_values(config: DictConfig) -> Values:
    """Interpolations resolved, Hydra's own part left out; a value still missing is a UserError."""
    with _interpolations_named():
        missing = sorted(OmegaConf.missing_keys(_own(config)))
        if missing:
            raise UserError(f"{missing[0]} is missing: give it, {missing[0]}=...")
        return _values(config)


@contextmanager
def _interpolations_named() -> Iterator[None]:
    """By the key that has one which leads nowhere."""
    try:
        yield
    except InterpolationResolutionError as error:
        problem = str(error.msg or error).split("\n", 1)[0]
        raise UserError(f"{error.full_key}: {problem}: write the value itself") from error


def path_value(values: Values, key: str) -> Path:
    """Of a key that names a file; a UserError where it does not."""
    value = values[key]
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise UserError(f"{key}={value!r} names no file: give its path, {key}=FILE")
    if "://" in value:
        raise UserError(f"{key}={value}: only local files are opened; download it first")
    return Path(value)


def sweep_jobs(hydra: Hydra, config: DictConfig, overrides: Sequence[str]) -> list[list[str]]:
    """The overrides of each job; of one without what is swept, where the sweeper decides later."""
    parser = OverridesParser.create(config_loader=hydra.config_loader)
    if not config.hydra.sweeper._target_.endswith(BasicSweeper.__name__):
        parsed = parser.parse_overrides(list(overrides))
        return [[str(o.input_line) for o in parsed if not o.is_sweep_override()]]
    of_files = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    refuse_repeated_keys([*of_files, *overrides])
    parsed = parser.parse_overrides([*of_files, *overrides])
    try:
        num_jobs = prod(_num_values(override) for override in parsed)
        if num_jobs > MAX_JOBS:
            raise UserError(f"the sweep has more than {MAX_JOBS:,} jobs: sweep fewer values")
        return [list(job) for job in BasicSweeper.split_arguments(parsed, None)[0]]
    except UserError:
        raise
    except (ValueError, TypeError) as error:  # of range(0,3,0), say
        raise UserError(f"the sweep cannot be made: {error}") from error


def _num_values(override: Override) -> int:
    """That it sweeps over; counted no further than is needed to see that they are too many."""
    if not override.is_discrete_sweep():
        return 1
    return sum(1 for _ in islice(override.sweep_string_iterator(), MAX_JOBS + 1))


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


class _BoundedFiles(FileConfigSource):
    """Hydra's reader of configuration files, but for what a file may hold."""

    def load_config(self, config_path: str) -> ConfigResult:
        """See hydra.plugins.config_source."""
        path = Path(self.path, self._normalize_file_name(config_path))
        try:
            values = load_yaml(path)
        except OSError as error:
            raise ConfigLoadError(f"{path} cannot be read: {error.strerror}") from error
        if values is not None and not isinstance(values, dict):
            raise UserError(f"{path} holds a {type(values).__name__}: give keys and values")
        _refuse_search_path(values or {}, path)
        with path.open(encoding="utf-8") as file:
            header = ConfigSource._get_header_dict(file.read(512))
        return ConfigResult(
            config=OmegaConf.create(values or {}),
            path=f"{self.scheme()}://{self.path}",
            provider=self.provider,
            header=header,
        )


def _refuse_search_path(values: dict[Any, Any], path: Path) -> None:
    """It is used before there is a whole configuration that could be checked."""
    hydras_own = values.get("hydra")
    if isinstance(hydras_own, dict) and hydras_own.get("searchpath"):
        raise UserError(f"{path}: hydra.searchpath is not used here, see --config-dir")


def _check_hydras_part(config: DictConfig, mode: RunMode) -> None:
    """Hydra calls by name what stands there, whoever wrote it."""
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
    key = "run.dir" if mode == RunMode.RUN else "sweep.dir"
    with _interpolations_named():
        if not str(OmegaConf.select(config, key)).strip():
            raise UserError(f"hydra.{key}= is empty: name a directory")


def _bound_interpolations(config: DictConfig) -> None:
    """Values that refer to values that refer to values can be a few lines and fill the memory."""
    count = 0
    resolve = Container.resolve_parse_tree

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count > MAX_INTERPOLATIONS:
            raise _TooMuch
        return resolve(*args, **kwargs)

    Container.resolve_parse_tree = counted
    try:
        for part in (_own(config), config.hydra.run, config.hydra.sweep):
            with suppress(OmegaConfBaseException):  # which is said where the value is used
                OmegaConf.to_container(part, resolve=True)
    except _TooMuch as error:
        raise UserError(
            f"the configuration refers to itself more than {MAX_INTERPOLATIONS:,} times: "
            "write values where it says ${...}"
        ) from error
    finally:
        Container.resolve_parse_tree = resolve


class _TooMuch(BaseException):
    """OmegaConf wraps every Exception."""


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
    keys: list[Any] = [key for key in config if key != "hydra"]  # also those that are no text
    return OmegaConf.masked_copy(config, keys)
