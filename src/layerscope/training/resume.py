"""The point where a run starts: the beginning, or the last good checkpoint of the same run."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layerscope.base.errors import UserError
from layerscope.config.keys import flat
from layerscope.config.problems import as_typed, parse
from layerscope.config.schema import TrainConfig
from layerscope.config.yaml_files import load_yaml
from layerscope.data.store import Provenance
from layerscope.training.checkpoint_files import (
    BEST,
    LAST,
    PREVIOUS,
    DamagedCheckpoint,
    UnreadCheckpoint,
)
from layerscope.training.checkpoint_folder import best_in
from layerscope.training.checkpoints import RunFacts, read_checkpoint, with_later_keys
from layerscope.training.hardware import run_environment
from layerscope.training.history import History

RESULTS_FILE = "results.json"  # the last file that a run writes
CONFIG_FILE = "config.yaml"

# Keys, and sections, that do not change what is computed.
_OF_NO_CONSEQUENCE = (
    *("ckpt_path", "resume", "allow_changes", "checkpoint_every_n_steps", "profile"),
    *("logger", "callbacks.activation_memory", "data.dir", "data.num_workers", "data.cache"),
    *("trainer.profiler", "trainer.threads"),  # the threads themselves are compared
)
# Keys that decide how many batches an epoch or an update has.
_DECIDE_THE_BATCHES = (
    *("data.name", "data.batch_size", "data.drop_last", "data.num_train", "data.val_size"),
    *("data.test_size", "data.groups"),
    *("trainer.limit_train_batches", "trainer.accumulate_grad_batches"),
)
_NUM_SHOWN = 3


@dataclass(frozen=True)
class Start:
    """The point where a run starts.

    Args:
        checkpoint: the one to resume from; None starts from the beginning.
        has_trained: every epoch is done, and only the results are missing.
        warning: names the damaged checkpoints that were skipped; may be empty.
    """

    checkpoint: Path | None = None
    has_trained: bool = False
    warning: str = ""


def is_finished(config: TrainConfig, directory: Path) -> bool:
    """Tell whether the run in this directory has written its results and needs no more epochs.

    Its checkpoints may have been removed since.
    """
    if not (directory / RESULTS_FILE).is_file():
        return False
    then = _configuration_in(directory / CONFIG_FILE)
    return then is None or not _may_train_longer(flat(then), flat(config.to_plain()))


def start_of(config: TrainConfig, directory: Path) -> Start:
    """Return the start that `ckpt_path` and `resume` ask for.

    Raises:
        UserError: the checkpoint cannot be used, or belongs to a run with other settings.
    """
    if config.ckpt_path is not None:
        return _start_at(config.ckpt_path, config)
    if config.resume != "auto":
        return Start()
    return _last_good(config, directory)


def _last_good(config: TrainConfig, directory: Path) -> Start:
    damaged: list[DamagedCheckpoint] = []
    for name in (LAST, PREVIOUS):
        path = directory / "checkpoints" / name
        if not path.exists():
            continue
        try:
            start = _start_at(path, config)
        except DamagedCheckpoint as error:
            damaged.append(error)
            continue
        if start.has_trained and not is_finished(config, directory):
            _refuse_without_best(path)
        return replace(start, warning=_passed_over(damaged, f"resuming from {path}"))
    _refuse_another_configuration(config, directory / CONFIG_FILE)
    for error in damaged:
        if isinstance(error, UnreadCheckpoint):  # Starting again would overwrite it.
            raise error
    return Start(warning=_passed_over(damaged, "starting again"))


def _start_at(path: str | Path, config: TrainConfig) -> Start:
    checkpoint = read_checkpoint(path)
    _refuse_without_optimizer(checkpoint, path)
    facts = RunFacts.of(checkpoint)
    environment = run_environment(config)
    # Compare common keys only. Earlier formats have none of these keys, or have, for a GPU, the
    # number of threads, which decides nothing there, and not its name.
    common = facts.surroundings.keys() & environment.keys()
    then = {**flat(facts.config), **{key: facts.surroundings[key] for key in common}}
    now = {**flat(config.to_plain()), **{key: environment[key] for key in common}}
    _refuse_changes(then, now, config, str(path))
    history = History.of(checkpoint)
    if _is_within_epoch(checkpoint):
        _refuse_other_batches(then, now, path)
    stopped = history.stopped_early and not _may_train_longer(then, now)
    return Start(Path(path), stopped or history.num_epochs >= config.trainer.max_epochs)


def refuse_other_images(checkpoint: dict[str, Any], config: TrainConfig, now: Provenance) -> None:
    """Refuse to resume with other training or validation images than the checkpoint has seen.

    Within an epoch even with allow_changes: the checkpoint counts how many of its batches are done.

    Args:
        now: what preparing the data gave.

    Raises:
        UserError: names the first split that has changed.
    """
    is_within = _is_within_epoch(checkpoint)
    if config.allow_changes and not is_within:
        return
    then = RunFacts.of(checkpoint).data.get("sha256", {})
    for name, sum_ in now["sha256"].items():
        if name.startswith("test") or then.get(name, sum_) == sum_:
            continue
        mend = "" if is_within else ", or allow_changes=true to resume with these"
        raise UserError(
            f"{now['source']}: the {name.replace('_', ' ')} are not those that the checkpoint "
            f"was trained on: give the same again{mend}"
        )


def _is_within_epoch(checkpoint: dict[str, Any]) -> bool:
    """Tell whether a checkpoint was saved between the ends of two epochs."""
    return History.of(checkpoint).num_epochs == checkpoint["epoch"]


def _refuse_other_batches(
    then: Mapping[str, Any], now: Mapping[str, Any], path: str | Path
) -> None:
    """Refuse to resume within an epoch with other batches, even with allow_changes.

    The checkpoint counts how many batches of this epoch are done.
    """
    changed = [key for key in now if key in _DECIDE_THE_BATCHES and then.get(key) != now[key]]
    if changed:
        raise UserError(
            f"{path} was saved within an epoch, whose batches {changed[0]}={now[changed[0]]} would "
            f"change: resume from the end of an epoch, or with {_text(then.get(changed[0]))}"
        )


def _may_train_longer(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Tell whether the run now has more epochs, or another rule for early stopping."""
    if now["trainer.max_epochs"] > then["trainer.max_epochs"]:
        return True
    return any(then.get(k) != now[k] for k in now if k.startswith("callbacks.early_stopping"))


def _refuse_without_best(last: Path) -> None:
    """Refuse a finished run without its best.ckpt, from which the missing results are computed."""
    checkpoint, folder = read_checkpoint(last), last.parent
    if best_in(folder / BEST, History.of(checkpoint), checkpoint["state_dict"]) is None:
        raise UserError(
            f"{folder / BEST}, which the results are of, is missing or damaged, or of another run: "
            f"remove {folder} to train again, or raise trainer.max_epochs, with "
            "allow_changes=true, to resume"
        )


def _refuse_without_optimizer(checkpoint: Mapping[str, Any], path: str | Path) -> None:
    if not checkpoint.get("optimizer_states") or "loops" not in checkpoint:
        raise UserError(
            f"ckpt_path={path} holds weights but no optimizer to resume with: give a last.ckpt"
        )


def _refuse_another_configuration(config: TrainConfig, path: Path) -> None:
    """Refuse other settings than those in the directory, even without a checkpoint."""
    then = _configuration_in(path)
    if then is not None:
        _refuse_changes(flat(then), flat(config.to_plain()), config, str(path.parent))


def _configuration_in(path: Path) -> dict[str, Any] | None:
    """Return the configuration of the run that wrote the file; None without a file."""
    if not path.is_file():
        return None
    try:
        return parse(TrainConfig, with_later_keys(load_yaml(path))).to_plain()
    except (TypeError, UserError) as error:
        raise UserError(f"{path} is not what a run writes: choose another directory") from error


def _refuse_changes(
    then: Mapping[str, Any], now: Mapping[str, Any], config: TrainConfig, what: str
) -> None:
    if config.allow_changes:
        return
    changes = [
        f"{key} was {_text(then.get(key))} and is {_text(now.get(key))}"
        for key in sorted(then.keys() | now.keys())
        if then.get(key) != now.get(key) and not _is_of_no_consequence(key)
    ]
    if changes:
        shown = "; ".join(changes[:_NUM_SHOWN])
        more = f" (and {len(changes) - _NUM_SHOWN} more)" if len(changes) > _NUM_SHOWN else ""
        raise UserError(
            f"{what} is of a run that would end otherwise: {shown}{more}: "
            "give the same again, or allow_changes=true to resume as it is now"
        )


def _is_of_no_consequence(key: str) -> bool:
    """Tell whether a key is listed, or in a section that is; a user's own data.direction is not."""
    return any(key == listed or key.startswith(f"{listed}.") for listed in _OF_NO_CONSEQUENCE)


def _passed_over(damaged: list[DamagedCheckpoint], instead: str) -> str:
    return f"{'; '.join(map(str, damaged))}: {instead}" if damaged else ""


def _text(value: object) -> str:
    return "not set" if value is None else as_typed(value)
