"""Experiment trackers beside metrics.csv: what each is told, and what happens when one fails."""

import importlib
import json
import logging
import os
import re
import secrets
import socket
import tempfile
import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.utilities import rank_zero_only
from pydantic import BaseModel, TypeAdapter, ValidationError

from layerscope.base.errors import Interrupted, RunFailed, Terminated, UserError
from layerscope.base.files import write_json
from layerscope.base.signals import Stopped
from layerscope.config.schema import LoggerConfig, MlflowConfig, WandbConfig
from layerscope.report.profile.report import ProfileReport
from layerscope.report.terminal import complain

STATE_FILE = "trackers.json"
DEFAULT_PROJECT = "layerscope"
_SERVER_SECONDS = 5  # that a server gets to answer before anything is made
_LEAST_WANDB = (0, 31)  # its login can look for a key without asking for one
_WANDB_SECONDS = 30  # Its client writes to the disk every 15 seconds.
_MOST_PARAMS = 100  # that MLflow takes at once
_LONGEST = 300  # characters of another program's message
_STOPPED = (Terminated.exit_code, Interrupted.exit_code)
# Columns of TensorBoard's HParams tab beside the configuration. A run logs each as a metric.
_HPARAMS_METRICS = (
    *("test/acc", "test/loss", "val/acc", "val/loss"),
    *("costs/num_parameters", "costs/macs", "costs/forward_flops", "costs/backward_flops"),
    "costs/saved_bytes",
)

_print_traceback = threading.excepthook


class TrackerState(BaseModel):
    """What the run's folder knows of a tracker, so that a resumed run continues there.

    Args:
        place: project, experiment or server; in another place it is another run.
        run: the tracker's own id of the run; empty before it has one.
        steps: last step at which each metric was logged.
    """

    place: str
    run: str = ""
    steps: dict[str, int] = {}


class Tracker(Logger):
    """A tracker of one run, for this project and for callbacks that ask Lightning for a logger.

    A metric is logged once at a step, even if a resumed run trains the step again. A tracker that
    fails costs a warning, not the run: nothing is logged there from then on.

    Args:
        directory: the run's folder.
    """

    label: ClassVar[str]

    def __init__(self, directory: Path, place: str) -> None:
        super().__init__()
        self._directory = directory
        self._state = TrackerState(place=place)
        self._logger: Logger | None = None
        self._has_failed = False

    @property
    def name(self) -> str:
        """The tracker's name, as `logger=` has it."""
        return self.label

    @property
    def version(self) -> str:
        """The tracker's own id of the run."""
        return self._state.run

    @property
    def save_dir(self) -> str:
        """The run's folder."""
        return str(self._directory)

    @property
    def experiment(self) -> Any:
        """The tracker's own object: a SummaryWriter, a W&B run, an MLflow client."""
        assert self._logger is not None, "see open"
        return self._logger.experiment  # type: ignore[attr-defined]

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Log what a callback adds to the configuration."""
        logger = self._logger
        assert logger is not None, "see open"
        self._attempt(lambda: logger.log_hyperparams(params, *args, **kwargs))

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the metrics that do not have this step yet.

        Args:
            step: number of updates so far, as in metrics.csv.
        """
        steps = self._state.steps
        new = {
            name: value
            for name, value in metrics.items()
            if step is None or step > steps.get(name, -1)
        }
        logger = self._logger
        assert logger is not None, "see open"
        if new and self._attempt(lambda: logger.log_metrics(new, step)) and step is not None:
            steps.update(dict.fromkeys(new, step))

    @rank_zero_only
    def save(self) -> None:
        """Let what was logged outlast a kill, and note it."""
        self._attempt(self._flush)
        _write_state(self._directory, self.label, self._kept())

    def open(self, how_to_resume: str) -> None:
        """Begin the run there, or continue it.

        Raises:
            RunFailed: the tracker's client cannot.
        """
        known = _read_states(self._directory).get(self.label)
        if known is not None and known.place == self._state.place:
            self._state = known
        try:
            self._logger = self._begin()
        except Exception as error:  # a client may raise anything
            raise RunFailed(
                f"logger={self.label} cannot be opened, {_said(error)}; {how_to_resume}"
            ) from error
        _write_state(self._directory, self.label, self._state)

    def describe(self, config: Mapping[str, Any], costs: Mapping[str, int]) -> None:
        """Log the configuration, its keys joined by dots, and the cost totals, at step 0."""
        is_new = not self._state.steps
        self._attempt(lambda: self._log_config(config, is_new))
        self.log_metrics({f"costs/{name}": float(cost) for name, cost in costs.items()}, 0)
        self.save()

    def log_epochs(self, rows: Sequence[Mapping[str, str]]) -> None:
        """Log those rows of metrics.csv that are not there yet, each at its step."""
        known = _read_states(self._directory).get(self.label, self._state)  # of a ddp_spawn child
        for name, step in known.steps.items():
            self._state.steps[name] = max(step, self._state.steps.get(name, -1))
        for row in rows:
            scores = {n: float(text) for n, text in row.items() if n != "step" and text != ""}
            self.log_metrics(scores, int(row["step"]))
        self.save()

    def add_profile(self, report: ProfileReport, files: Sequence[Path], step: int) -> None:
        """Keep the profile's files, or its totals where the tracker keeps no files."""
        self._attempt(lambda: self._add_profile(report, files, step))

    def close(self, exit_code: int) -> None:
        """End the run there: finished if the exit code is 0, else stopped or failed."""
        self._attempt(lambda: self._end(exit_code))
        _write_state(self._directory, self.label, self._state)

    @abstractmethod
    def _begin(self) -> Logger:
        """Return Lightning's logger of this run; the state's `run` is the one to continue."""

    @abstractmethod
    def _log_config(self, config: Mapping[str, Any], is_new: bool) -> None: ...

    @abstractmethod
    def _add_profile(self, report: ProfileReport, files: Sequence[Path], step: int) -> None: ...

    @abstractmethod
    def _end(self, exit_code: int) -> None: ...

    def _flush(self) -> None:
        """Write what the client has buffered; a client that buffers nothing has nothing to do."""

    def _kept(self) -> TrackerState:
        """Return what would outlast a kill."""
        return self._state

    def _attempt(self, action: Callable[[], object]) -> bool:
        """Tell whether the tracker did it; leave one alone that has failed."""
        if self._has_failed:
            return False
        try:
            action()
        except Exception as error:  # noqa: BLE001 - a client may raise anything
            self._has_failed = True
            complain(
                f"warning: logger={self.label} failed, {_said(error)}: the run continues without "
                "it, and metrics.csv has every epoch"
            )
        return not self._has_failed


class TensorBoardTracker(Tracker):
    """TensorBoard's event files, in the run's folder."""

    label = "tensorboard"

    def __init__(self, directory: Path, place: str) -> None:
        super().__init__(directory, place)
        self._state.run = "tensorboard"

    def _begin(self) -> Logger:
        threading.excepthook = _print_unless_stored
        logger = TensorBoardLogger(
            self._directory, name=None, version=self._state.run, default_hp_metric=False
        )
        _ = logger.experiment  # opens the file
        return logger

    def _log_config(self, config: Mapping[str, Any], is_new: bool) -> None:
        """Write the session of the HParams tab, which a run has once.

        Lightning's own method writes a value for each metric as well, but the scores are not known
        when a run begins.
        """
        from torch.utils.tensorboard.summary import hparams

        if not is_new:
            return
        plain = {k: v if isinstance(v, bool | int | float) else _text(v) for k, v in config.items()}
        for summary in hparams(plain, dict.fromkeys(_HPARAMS_METRICS, 0.0)):
            self.experiment.file_writer.add_summary(summary)

    def _add_profile(self, report: ProfileReport, files: Sequence[Path], step: int) -> None:
        totals = {
            f"profile/{row.quantity}/{row.instrument}": float(row.measured)
            for row in report.totals
            if row.measured is not None
        }
        self.log_metrics(totals, step)
        text = next(file for file in files if file.suffix == ".md").read_text(encoding="utf-8")
        self.experiment.add_text("profile", text, step)

    def _flush(self) -> None:
        self.experiment.flush()

    def _end(self, exit_code: int) -> None:
        self.experiment.close()


class WandbTracker(Tracker):
    """A run of Weights & Biases; offline ones lie in the run's folder."""

    label = "wandb"

    def __init__(self, directory: Path, config: WandbConfig, run_name: str) -> None:
        self._project = config.project or os.environ.get("WANDB_PROJECT") or DEFAULT_PROJECT
        self._name = config.name or run_name
        self._at_start: dict[str, int] = {}
        self._past: deque[tuple[float, dict[str, int]]] = deque()  # seconds, and the steps then
        super().__init__(directory, self._project)

    def _begin(self) -> Logger:
        import wandb  # pyright: ignore[reportMissingImports]

        if not self._state.run:
            self._state.run = secrets.token_hex(4)
        self._at_start = dict(self._state.steps)
        run = wandb.init(
            project=self._project,
            name=self._name,
            id=self._state.run,
            dir=self._directory,
            resume="allow",
            # Else a process that trains a second time would continue the first run.
            reinit="finish_previous",
        )
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return WandbLogger(experiment=run)

    def _log_config(self, config: Mapping[str, Any], is_new: bool) -> None:
        self.experiment.config.update(dict(config), allow_val_change=True)

    def _add_profile(self, report: ProfileReport, files: Sequence[Path], step: int) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        artifact = wandb.Artifact(f"profile-{self._state.run}", type="profile")
        for file in files:
            artifact.add_file(str(file))
        self.experiment.log_artifact(artifact)

    def _kept(self) -> TrackerState:
        """Return the steps of half a minute ago: the client cannot be asked to write to the disk.

        After a kill the later ones are logged again, which is better than a gap.
        """
        now = time.monotonic()
        self._past.append((now, dict(self._state.steps)))
        while len(self._past) > 1 and self._past[1][0] <= now - _WANDB_SECONDS:
            self._past.popleft()
        then, steps = self._past[0]
        certain = steps if then <= now - _WANDB_SECONDS else self._at_start
        return self._state.model_copy(update={"steps": certain})

    def _end(self, exit_code: int) -> None:
        self.experiment.finish(exit_code=exit_code)


class MlflowTracker(Tracker):
    """A run of MLflow, in a database in the run's folder where no other store is named."""

    label = "mlflow"

    def __init__(self, directory: Path, config: MlflowConfig, run_name: str) -> None:
        named = config.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME")
        self._experiment = named or DEFAULT_PROJECT
        self._uri = _mlflow_uri(config)
        self._name = config.name or run_name
        place = f"{_without_user(self._uri)} {self._experiment}".strip()
        super().__init__(directory, place)

    def _begin(self) -> Logger:
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

        _silence_mlflow()
        here = self._directory.resolve()
        uri = self._uri or f"sqlite:///{here / 'mlflow.db'}"
        client = MlflowClient(uri)
        if self._state.run:
            client.update_run(self._state.run, status="RUNNING")
            logger = MLFlowLogger(tracking_uri=uri, run_id=self._state.run)
        else:
            if client.get_experiment_by_name(self._experiment) is None:
                files = None if self._uri else (here / "mlruns").as_uri()
                client.create_experiment(self._experiment, artifact_location=files)
            logger = MLFlowLogger(self._experiment, self._name, tracking_uri=uri)
        with _kept_variable("MLFLOW_TRACKING_URI"):
            run = logger.run_id  # makes the run, or finds it
        assert run is not None
        self._state.run = run
        return logger

    def _log_config(self, config: Mapping[str, Any], is_new: bool) -> None:
        """Log parameters, which MLflow lets nobody change: those of the run's first start."""
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        if not is_new:
            return
        # A key may be the name of a class; MLflow allows no other signs.
        params = [Param(re.sub(r"[^\w./: -]", "_", k), _text(v)) for k, v in config.items()]
        for first in range(0, len(params), _MOST_PARAMS):
            some = params[first : first + _MOST_PARAMS]
            self.experiment.log_batch(self._state.run, params=some)

    def _add_profile(self, report: ProfileReport, files: Sequence[Path], step: int) -> None:
        for file in files:
            self.experiment.log_artifact(self._state.run, str(file), "profile")

    def _end(self, exit_code: int) -> None:
        status = "FINISHED" if exit_code == 0 else "KILLED" if exit_code in _STOPPED else "FAILED"
        self.experiment.set_terminated(self._state.run, status)


def check_loggers(config: LoggerConfig) -> None:
    """Check that each chosen tracker is installed, and that its account or server is there.

    Raises:
        UserError: it is not; the message says what to do.
    """
    if config.tensorboard is not None:
        _import("tensorboard", "tensorboard", "torch.utils.tensorboard")
    if config.wandb is not None:
        _import("wandb", "wandb")
        _check_wandb()
    if config.mlflow is not None:
        _import("mlflow", "mlflow")
        _check_mlflow(_mlflow_uri(config.mlflow))


@contextmanager
def tracked(
    config: LoggerConfig, directory: Path, run_name: str, how_to_resume: str
) -> Iterator[tuple[Tracker, ...]]:
    """Open the chosen trackers, and close them however this ends.

    Args:
        directory: the run's folder.
        run_name: name of the run where the configuration gives none.
        how_to_resume: a hint, should a tracker not open.

    Raises:
        RunFailed: a tracker cannot be opened.
    """
    trackers: list[Tracker] = []
    if config.tensorboard is not None:
        trackers.append(TensorBoardTracker(directory, "tensorboard"))
    if config.wandb is not None:
        trackers.append(WandbTracker(directory, config.wandb, run_name))
    if config.mlflow is not None:
        trackers.append(MlflowTracker(directory, config.mlflow, run_name))
    opened: list[Tracker] = []
    exit_code = 0
    try:
        for tracker in trackers:
            tracker.open(how_to_resume)
            opened.append(tracker)
        yield tuple(opened)
    except BaseException as error:
        stopped = isinstance(error, KeyboardInterrupt | Stopped)  # neither has a code of its own
        exit_code = Interrupted.exit_code if stopped else getattr(error, "exit_code", 1)
        raise
    finally:
        for tracker in opened:
            tracker.close(exit_code)


_STATES = TypeAdapter(dict[str, TrackerState])


def _read_states(directory: Path) -> dict[str, TrackerState]:
    path = directory / STATE_FILE
    if not path.is_file():
        return {}
    try:
        return _STATES.validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(
            f"{path} is not what a run writes: remove it, and each tracker gets a new run"
        ) from error


def _write_state(directory: Path, label: str, state: TrackerState) -> None:
    states = {**_read_states(directory), label: state}
    write_json(directory / STATE_FILE, _STATES.dump_python(states))


def _import(label: str, package: str, *parts: str) -> None:
    """Import a tracker for real: one that is there in part fails only then."""
    try:
        for module in (package, *parts):
            importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise UserError(_is_broken(label, package, error)) from error
        raise UserError(f"logger={label} needs a package: pip install {package}") from error
    except Exception as error:  # a broken package may raise anything
        raise UserError(_is_broken(label, package, error)) from error


def _is_broken(label: str, package: str, error: Exception) -> str:
    return (
        f"logger={label}: {package} is installed and cannot be imported, {_said(error)}: "
        f"pip install --force-reinstall {package}"
    )


def _check_wandb() -> None:
    """Refuse what would stop in the middle to ask for a key."""
    import wandb  # pyright: ignore[reportMissingImports]

    installed = version("wandb")
    if tuple(map(int, installed.split(".")[:2])) < _LEAST_WANDB:
        raise UserError(f"logger=wandb: wandb {installed} is too old: pip install --upgrade wandb")
    if wandb.setup().settings.mode in ("offline", "disabled"):
        return
    if not wandb.login(prompt=False, verify=False):
        raise UserError(
            "logger=wandb has no API key: run `wandb login`, or set WANDB_API_KEY, or "
            "WANDB_MODE=offline to log to files"
        )


def _mlflow_uri(config: MlflowConfig) -> str:
    """Return the store's address; empty for the database in the run's folder."""
    return config.uri or os.environ.get("MLFLOW_TRACKING_URI", "")


def _check_mlflow(uri: str) -> None:
    """Refuse a store that the installed MLflow cannot use, and a server that is not there.

    MLflow itself tries a server again for minutes.
    """
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise UserError(f"logger.mlflow.uri={uri} cannot be read, {error}: correct it") from error
    scheme = parts.scheme if uri else "sqlite"
    if scheme == "sqlite":
        _try_database()
    elif scheme in ("", "file"):
        with tempfile.TemporaryDirectory() as elsewhere:
            mend = "give logger.mlflow.uri=sqlite:///mlflow.db, or set what it names"
            _try_store(f"file:{elsewhere}", mend)
    elif scheme in ("http", "https"):
        address = (parts.hostname or "", port or (443 if scheme == "https" else 80))
        try:
            socket.create_connection(address, timeout=_SERVER_SECONDS).close()
        except OSError as error:
            raise UserError(
                f"logger.mlflow.uri={_without_user(uri)} does not answer, {error.strerror or error}"
                ": start the server, or give another address"
            ) from error


@lru_cache
def _try_database() -> None:
    with tempfile.TemporaryDirectory() as elsewhere:
        _try_store(f"sqlite:///{elsewhere}/mlflow.db", "pip install mlflow, all of it")


def _try_store(uri: str, mend: str) -> None:
    """Open a store of this kind elsewhere, since opening it makes its files."""
    from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

    _silence_mlflow()
    try:
        MlflowClient(uri)
    except Exception as error:  # MLflow and SQLAlchemy may raise anything
        raise UserError(f"logger=mlflow cannot use this store, {_said(error)}: {mend}") from error


@contextmanager
def _kept_variable(name: str) -> Iterator[None]:
    """Undo what is done to an environment variable.

    MLflow leaves its address there, where the next job of a sweep would find it.
    """
    before = os.environ.get(name)
    try:
        yield
    finally:
        os.environ.pop(name, None)
        if before is not None:
            os.environ[name] = before


def _silence_mlflow() -> None:
    """Silence what MLflow tells of each table that it makes."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _without_user(uri: str) -> str:
    """Return an address without the user and password in it."""
    return re.sub(r"//[^/@]*@", "//", uri)


def _text(value: Any) -> str:
    """Return a value of a configuration as text: null, true, [1, 2]."""
    return value if isinstance(value, str) else json.dumps(value)


def _said(error: Exception) -> str:
    """Return an error in a line, with its class, since a client's message alone may say little."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _print_unless_stored(end: threading.ExceptHookArgs) -> None:
    """Print the traceback of a thread, except of an OSError in TensorBoard's writer thread.

    TensorBoard stores that error, a full disk for example, and raises it at the next write.
    """
    of_tensorboard = type(end.thread).__module__.startswith("tensorboard.")
    if not (of_tensorboard and issubclass(end.exc_type, OSError)):
        _print_traceback(end)
