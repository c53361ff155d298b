"""Compose configurations from files and a command line's overrides, with Hydra.

Nothing here writes to the disk but `Composer.run_sweep`.
"""

import copy
import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, product
from math import prod
from pathlib import Path
from typing import Any, ClassVar

from hydra import initialize

# Private: Hydra makes its repository of files by this name, and has no setting for how many files a
# configuration may be composed of. See _BoundedRepository.
from hydra._internal import config_loader_impl

# Private: what _BoundedRepository adds to.
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.types import RunMode
from omegaconf import Container, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from layerscope.base.errors import UserError
from layerscope.config.hydra_section import (
    check_hydra_section,
    check_places,
    interpolations_named,
    package_of_engine,
)
from layerscope.config.overrides import (
    assignment,
    choosable,
    key_of,
    keys_of,
    no_sweep,
    parsed,
    refuse_repeated_keys,
    unknown_key,
)
from layerscope.config.problems import as_typed
from layerscope.config.yaml_files import load_yaml

if not OmegaConf.has_resolver("pid"):
    OmegaConf.register_new_resolver("pid", os.getpid)

Values = dict[str, Any]

_PACKAGE = Path(__file__).parents[1]
# In a wheel the configurations lie in the package, in a checkout beside src/.
CONFIG_DIR = next(
    folder for folder in (_PACKAGE / "configs", _PACKAGE.parents[1] / "configs") if folder.is_dir()
)

_NOT_OF_THE_RUN = ("paths", "experiment")  # where and by which recipe: not what is trained
MAX_JOBS = 10_000  # of a sweep
MAX_INTERPOLATIONS = 1_000  # resolved, of one configuration
MAX_FILES = 500  # that one configuration is composed of; a run's are some sixty


@dataclass(frozen=True)
class Composed:
    """A configuration, and where its command will write."""

    values: Values  # interpolations resolved, without Hydra's own part
    directory: Path
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Sweep:
    """A sweep before its first job."""

    values: Values  # what says how it is resumed: the keys `resume` and `ckpt_path`
    directory: Path
    jobs: Iterator[Composed]  # each is composed when its turn comes; together they could be large


class EngineFailed(Exception):
    """A sweep's engine has lost a job, which could not say why it failed."""


class Composer:
    """Hydra over one command's configuration."""

    def __init__(self, name: str) -> None:
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None, "see open_composer"
        self._hydra = hydra
        self._loader = GlobalHydra.instance().config_loader()
        self._name = name

    def run(self, overrides: Sequence[str]) -> Composed:
        """Compose a single run.

        Raises:
            UserError: a key does not exist, a value is missing, or Hydra takes it for something
                else.
        """
        config = self._compose(overrides)
        return Composed(plain_values(config), _local(config.hydra.run.dir), tuple(overrides))

    def sweep(self, overrides: Sequence[str]) -> Sweep:
        """Compose a sweep and each of its jobs.

        Raises:
            UserError: as of `run`, or two jobs would write into one directory.
        """
        config = self._compose(self._of_each_job(overrides), RunMode.MULTIRUN)
        directory = _local(config.hydra.sweep.dir)
        jobs = _jobs(self._loader, config, overrides)
        if not jobs:
            raise UserError("the sweep has no job: give each swept key a value")
        values = {key: config[key] for key in ("resume", "ckpt_path") if key in config}
        return Sweep(values, directory, self._composed(jobs, directory))

    def _of_each_job(self, overrides: Sequence[str]) -> list[str]:
        """Return the overrides with the keys of swept groups written as sweeps of one value.

        Hydra composes the sweep itself without what is swept: a key that only one option of a
        swept group has does not exist there, and stands in the jobs alone.
        """
        given = parsed(overrides)
        swept = {
            override.key_or_group
            for override in given
            if override.is_sweep_override()
            and self._loader.get_group_options(override.key_or_group)
        }
        return [
            f"{key}=choice({value})"
            if key.partition(".")[0] in swept and "." in key and not override.is_sweep_override()
            else text
            for override, text in zip(given, overrides, strict=True)
            for key, _, value in [text.partition("=")]
        ]

    def _composed(self, jobs: list[list[str]], directory: Path) -> Iterator[Composed]:
        folders: set[Path] = set()
        for number, job_overrides in enumerate(jobs):
            with job_in_errors(str(number), job_overrides):
                job_config = self._compose(job_overrides, RunMode.MULTIRUN)
                values = plain_values(job_config)
            subdirectory = _subdirectory(job_config, number)
            folder = directory / subdirectory
            leaves = Path(subdirectory).is_absolute() or ".." in Path(subdirectory).parts
            if leaves or folder in (directory, *folders):
                raise UserError(
                    f"hydra.sweep.subdir={subdirectory}: each job needs a folder of its own in "
                    "hydra.sweep.dir; leave it out, or let it name ${hydra.job.num}"
                )
            folders.add(folder)
            yield Composed(values, folder, tuple(job_overrides))

    def run_sweep(
        self, overrides: Sequence[str], directory: Path, job: Callable[[Composed], None]
    ) -> None:
        """Let Hydra's sweeper and launcher call `job` for each job of the sweep.

        Raises:
            EngineFailed: a launcher with processes of its own has lost one.
        """

        def task(config: DictConfig) -> None:
            hydras_own = HydraConfig.get()
            folder = Path(hydras_own.runtime.output_dir)
            job(Composed(plain_values(config), folder, tuple(hydras_own.overrides.task)))

        others = [o for o in self._of_each_job(overrides) if key_of(o) != "hydra.sweep.dir"]
        keys = [*others, assignment("hydra.sweep.dir", directory)]
        engine = self._compose(keys, RunMode.MULTIRUN).hydra.runtime.choices["hydra/launcher"]
        try:
            self._hydra.multirun(self._name, task, keys)
        except Exception as error:
            if engine == "basic":
                raise
            # Each engine has its own errors for a process that is gone.
            raise EngineFailed(f"hydra/launcher={engine}: {_first_line(error)}") from error

    def show(self, arguments: Namespace, overrides: Sequence[str], parser: ArgumentParser) -> None:
        """Print what --cfg, --info or --hydra-help asks for.

        Args:
            parser: of the arguments, whose help --hydra-help prints.
        """
        self._compose(overrides)
        if arguments.hydra_help:
            self._hydra.hydra_help(self._name, parser, arguments)
        elif arguments.cfg:
            self._hydra.show_cfg(
                self._name, list(overrides), arguments.cfg, arguments.package, arguments.resolve
            )
        else:
            self._hydra.show_info(arguments.info, self._name, list(overrides))

    def shown_values(self, overrides: Sequence[str]) -> Values:
        """Return the configuration as it is written: with ??? for what is missing."""
        values = OmegaConf.to_container(_own(self._compose(overrides)), resolve=False)
        assert isinstance(values, dict)
        return {str(key): value for key, value in values.items()}

    def options(self, group: str) -> list[str]:
        """Return the names that can be chosen of a group."""
        return choosable(self._loader.get_group_options(group))

    def _compose(self, overrides: Sequence[str], mode: RunMode = RunMode.RUN) -> DictConfig:
        return _compose(self._loader, self._name, overrides, mode)


@contextmanager
def job_in_errors(job: str, overrides: Sequence[str]) -> Iterator[None]:
    """Let a UserError say which job of a sweep it is about."""
    try:
        yield
    except UserError as error:
        shown = " ".join(o for o in overrides if not key_of(o).startswith("hydra."))
        error.args = (f"job {job}, {shown}: {error}",)
        raise


def _local(directory: object) -> Path:
    return Path(os.path.expanduser(str(directory)))


def _subdirectory(config: DictConfig, number: int) -> str:
    """Return the name that Hydra will give to a job's folder."""
    with open_dict(config):
        config.hydra.job.num = number
        config.hydra.job.id = str(number)
    return config.hydra.sweep.subdir


@contextmanager
def open_composer(name: str, config_dir: Path, extra_dir: str | None = None) -> Iterator[Composer]:
    """Set Hydra up over the project's configurations and, after them, the user's folder.

    Raises:
        UserError: what Hydra or OmegaConf says in here is wrong.
    """
    folders = [config_dir.resolve()]
    if extra_dir is not None:
        extra_dir = os.path.expanduser(extra_dir)
        if not os.path.isdir(extra_dir):  # also of a name that no file system takes
            raise UserError(f"--config-dir {extra_dir} is no directory: give one with your files")
        folders.append(Path(extra_dir).resolve())
    for plugin in (_CheckedFiles, _Folders):
        Plugins.instance().register(plugin)
    config_loader_impl.CachingConfigRepository = _BoundedRepository  # type: ignore[attr-defined]
    _Folders.searched = tuple(folders)
    try:
        with initialize(config_path=None, job_name=name, version_base="1.3"):
            yield Composer(name)
    except OverrideParseException as error:
        raise UserError(_unread(error)) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(str(error)) from error
    finally:
        GlobalHydra.instance().clear()


def _unread(error: OverrideParseException) -> str:
    """Explain an override that Hydra cannot read; quotes let a value hold arrows and the like."""
    key, _, value = str(error.override).partition("=")
    if "Lexer" in str(error) and "'" not in value:
        return f"{error.override} cannot be read: quote the value, \"{key}='{value}'\""
    return f"{error.override}: {error}"


def compose(config_dir: Path, name: str, overrides: Sequence[str] = ()) -> Values:
    """Return the plain configuration that a command line gives."""
    with open_composer(name, config_dir) as composer:
        return composer.run(overrides).values


def _compose(
    loader: ConfigLoader, name: str, overrides: Sequence[str], mode: RunMode = RunMode.RUN
) -> DictConfig:
    """Compose a configuration, Hydra's own part included.

    Raises:
        UserError: a key does not exist, and the nearest one; or a value is wrong.
    """
    for override in parsed(overrides):
        if override.get_key_element() == "hydra.searchpath":
            raise UserError(f"{override.input_line}: not used here, see --config-dir")
        if mode == RunMode.RUN and override.is_sweep_override():
            raise UserError(no_sweep(override))
    try:
        config = loader.load_configuration(name, list(overrides), mode)
    except (UserError, OmegaConfBaseException):
        raise
    except HydraException as error:
        _refuse_no_option(loader, overrides)
        raise UserError(_not_composed(loader, name, overrides, error)) from error
    except RecursionError as error:
        raise UserError("the configuration refers to itself: see its defaults lists") from error
    except (ValueError, TypeError, AttributeError, AssertionError, OSError) as error:
        # What Hydra's own code raises for a value of a kind that it has not thought of.
        _refuse_no_option(loader, overrides)
        raise UserError(f"the configuration cannot be composed: {error}") from error
    _bound_interpolations(config)
    check_hydra_section(config.hydra, mode)
    check_places(config)
    return config


def _not_composed(
    loader: ConfigLoader, name: str, overrides: Sequence[str], error: HydraException
) -> str:
    """Say which override or file is wrong, and what there is instead."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        group = error.missing_cfg_file.rpartition("/")[0]
        # Hydra gives none for an option within a list, logger=[tensorboard,x].
        options = error.options or loader.get_group_options(group)
        return _no_such_file(error.missing_cfg_file, options)
    unknown = re.match(r"Could not override '([^']+)'", str(error))
    if unknown is not None:
        keys = {override: key_of(override) for override in overrides}
        choices = [o for o, key in keys.items() if "." not in key and key != unknown[1]]
        return unknown_key(unknown[1], _known_keys(loader, name, choices))
    of_file = re.match(r"In '(.*)': \w+ raised while composing config:\n(.*)", str(error))
    if of_file is not None:
        return f"{of_file[1]}.yaml: {of_file[2]}: correct it"
    twice = re.match(r"Multiple values for (\S+)\.", str(error))
    if twice is not None:
        return f"{twice[1]} is chosen already: write {twice[1]}=OPTION, without +"
    merged = re.match(r"Error merging override (.*)", str(error), re.DOTALL)
    if merged is not None:
        return f"{merged[1]}: {_first_line(error.__cause__)}: give another value"
    return str(error) or f"the configuration cannot be composed: {error.__cause__}"


def _no_such_file(path: str, options: Sequence[str]) -> str:
    group, _, option = path.rpartition("/")
    package = package_of_engine(f"{group}={option}")
    if package is not None:
        return f"{group}={option} needs a package: pip install {package}"
    if options:
        names = ", ".join(choosable(options))
        return f"{group}={option} cannot be chosen: options of {group} are {names}"
    return f"there is no configuration {path}: correct its name, or see --config-dir"


def _refuse_no_option(loader: ConfigLoader, overrides: Sequence[str]) -> None:
    """Refuse a group that is given no option's name."""
    for override in parsed(overrides):
        options = loader.get_group_options(override.key_or_group)
        chosen = override.value()
        names = chosen if isinstance(chosen, list) else [chosen]
        is_choice = override.is_delete() or override.is_sweep_override()
        if options and not is_choice and not all(isinstance(n, str) for n in names):
            raise UserError(
                f"{override.input_line} cannot be chosen: options of {override.key_or_group} are "
                + ", ".join(choosable(options))
            )


def _first_line(error: BaseException | None) -> str:
    return str(error).split("\n", 1)[0]


def plain_values(config: DictConfig) -> Values:
    """Return a configuration with its interpolations resolved, without Hydra's own part.

    Raises:
        UserError: a value is missing.
    """
    with interpolations_named():
        own = _own(config)
        missing = sorted(OmegaConf.missing_keys(own))
        if missing:
            raise UserError(f"{missing[0]} is missing: give it, {missing[0]}=...")
        return _plain(own)


def without_places(values: Values) -> Values:
    """Return a configuration without the keys that say nothing about what is trained."""
    return {key: value for key, value in values.items() if key not in _NOT_OF_THE_RUN}


def _jobs(loader: ConfigLoader, config: DictConfig, overrides: Sequence[str]) -> list[list[str]]:
    """Return each job's overrides; of one without what is swept if the sweeper decides later."""
    parser = OverridesParser.create(config_loader=loader)
    if not config.hydra.sweeper._target_.endswith(".BasicSweeper"):
        given = parser.parse_overrides(list(overrides))
        return [[str(o.input_line) for o in given if not o.is_sweep_override()]]
    of_files = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    refuse_repeated_keys([*of_files, *overrides])
    given = parser.parse_overrides([*of_files, *overrides])
    at_once = config.hydra.sweeper.max_batch_size
    if at_once is not None and at_once < 1:
        raise UserError(f"hydra.sweeper.max_batch_size={at_once}: must be at least 1, or null")
    return _combinations(given)


def jobs_of(overrides: Sequence[str]) -> list[list[str]]:
    """Return what Hydra's own sweeper makes of overrides, without looking for configurations.

    Raises:
        UserError: they cannot be read, make too many jobs, or ask for all options of a group.
    """
    try:
        return _combinations(parsed(overrides))
    except HydraException as error:
        raise UserError(str(error)) from error


def _combinations(given: Sequence[Override]) -> list[list[str]]:
    try:
        num_jobs = prod(_num_values(override) for override in given)
        if num_jobs > MAX_JOBS:
            raise UserError(f"the sweep has more than {MAX_JOBS:,} jobs: sweep fewer values")
        return [list(job) for job in product(*map(_assignments, given))]
    except UserError:
        raise
    except (ValueError, TypeError) as error:  # of range(0,3,0), say
        raise UserError(f"the sweep cannot be made: {error}") from error


def _assignments(override: Override) -> list[str]:
    """Return what the jobs of a sweep are given in place of the override."""
    key = override.get_key_element()
    if not override.is_sweep_override():
        return [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise UserError(
            f"{override.input_line} lists no values: write {key}=A,B or {key}=range(A,B)"
        )
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _num_values(override: Override) -> int:
    """Count the values that it sweeps over, but no further than is needed to refuse them."""
    if not override.is_discrete_sweep():
        return 1
    return sum(1 for _ in islice(override.sweep_string_iterator(), MAX_JOBS + 1))


class _Folders(SearchPathPlugin):
    """Tells Hydra where to search; its own arguments take one folder, and no reader but its own."""

    searched: ClassVar[tuple[Path, ...]] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """See hydra.plugins.search_path_plugin."""
        for folder in self.searched:
            search_path.append("main", f"{_CheckedFiles.scheme()}://{folder}")


class _CheckedFiles(ConfigSource):
    """Reads configuration files as Hydra does, but for what a file may hold."""

    @staticmethod
    def scheme() -> str:
        """See hydra.plugins.config_source."""
        return "checked"

    def load_config(self, config_path: str) -> ConfigResult:
        """See hydra.plugins.config_source."""
        path = self._file(config_path)
        try:
            state = path.stat()
            read = _read_config(path, state.st_mtime_ns, state.st_size, state.st_ino)
        except OSError as error:
            raise ConfigLoadError(f"{path} cannot be read: {error.strerror}") from error
        config, header = copy.deepcopy(read)  # Hydra writes into them
        return ConfigResult(
            config=config, path=self.full_path(), provider=self.provider, header=header
        )

    def available(self) -> bool:
        """See hydra.plugins.config_source."""
        return self.is_group("")

    def is_group(self, config_path: str) -> bool:
        """See hydra.plugins.config_source."""
        return os.path.isdir(Path(self.path, config_path))

    def is_config(self, config_path: str) -> bool:
        """See hydra.plugins.config_source."""
        return os.path.isfile(self._file(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """See hydra.plugins.config_source."""
        found: list[str] = []
        for name in os.listdir(Path(self.path, config_path)):
            self._list_add_result(found, os.path.join(config_path, name), name, results_filter)
        return sorted(set(found))

    def _file(self, config_path: str) -> Path:
        return Path(self.path, self._normalize_file_name(config_path))


class _BoundedRepository(CachingConfigRepository):
    """Limits the files that one configuration is composed of.

    A few lines that name files that name files can take hours to compose.
    """

    def __init__(self, delegate: IConfigRepository) -> None:
        super().__init__(delegate)
        self._count = 0

    def load_config(self, config_path: str) -> ConfigResult | None:
        """See hydra._internal.config_repository."""
        self._count += 1
        if self._count > MAX_FILES:
            raise UserError(
                f"the defaults lists name more than {MAX_FILES} files, or one refers to itself: "
                "write values where they name files"
            )
        return super().load_config(config_path)


@lru_cache(maxsize=256)
def _read_config(path: Path, *state: int) -> tuple[DictConfig, dict[str, str | None]]:
    """Return the values and the header; each job of a sweep asks for the same files again.

    Args:
        state: of the file, by which a change is noticed.
    """
    values = load_yaml(path)
    if values is not None and not isinstance(values, dict):
        raise UserError(f"{path} holds a {type(values).__name__}: give keys and values")
    _check_what_hydra_uses(values or {}, path)
    with path.open(encoding="utf-8-sig") as file:
        header = ConfigSource._get_header_dict(file.read(512))
    return OmegaConf.create(values or {}), header


def _check_what_hydra_uses(values: dict[Any, Any], path: Path) -> None:
    """Check what Hydra uses before there is a whole configuration that could be checked."""
    hydras_own = values.get("hydra", {})
    if not isinstance(hydras_own, dict):
        raise UserError(f"{path}: hydra={as_typed(hydras_own)}: give keys and values")
    if hydras_own.get("searchpath"):
        raise UserError(f"{path}: hydra.searchpath is not used here, see --config-dir")


def _bound_interpolations(config: DictConfig) -> None:
    """Refuse more interpolations than anyone writes.

    A few values that refer to values that refer to values can fill the memory. OmegaConf has no
    limit, so its method is replaced for as long as this takes.
    """
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
    """A BaseException, since OmegaConf wraps every Exception."""


def _known_keys(loader: ConfigLoader, name: str, choices: list[str]) -> list[str]:
    """Return the keys there are with these groups chosen, or with the default ones if they fail."""
    try:
        config = loader.load_configuration(name, choices, RunMode.RUN)
    except HydraException:
        config = loader.load_configuration(name, [], RunMode.RUN)
    return keys_of(_plain(_own(config)))


def _plain(config: DictConfig) -> Values:
    return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]


def _own(config: DictConfig) -> DictConfig:
    keys: list[Any] = [key for key in config if key != "hydra"]  # also those that are no text
    return OmegaConf.masked_copy(config, keys)
