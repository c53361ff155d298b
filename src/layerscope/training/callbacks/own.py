"""Callbacks of the user's own, and what they may put into a checkpoint."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from layerscope.base.errors import RunFailed, UserError
from layerscope.base.targets import Targets, call_target, check_typed_list, import_target, own_code
from layerscope.callbacks import ActivationMemory
from layerscope.config.problems import as_typed_in_full
from layerscope.config.schema import CallbacksConfig
from layerscope.training.history import HISTORY_KEY
from layerscope.training.plain_data import not_plain
from layerscope.training.trainer import early_stopping

_KEY = "callbacks.extra"
# Callbacks of which a run has its own, beside which a second one cannot work.
_OF_A_RUN = {
    ProgressBar: "a run has its own progress bar: leave it out",
    ActivationMemory: (
        "a run records this itself: leave it out, and set callbacks.activation_memory.every_n_steps"
    ),
}
_HOOKS = [name for name in dir(L.Callback) if name[0] != "_" and name != "state_key"]


def own_callbacks(config: CallbacksConfig, targets: Targets) -> list[L.Callback]:
    """Return the callbacks that a configuration names; an error in one names its class.

    Raises:
        UserError: the user did not type one of them, it cannot be made, is no Callback, a run has
            its own, or its state cannot be in a checkpoint.
    """
    plain = [entry.model_dump(by_alias=True) for entry in config.extra]
    mend = f'type it again, "{_KEY}={as_typed_in_full(plain)}", or leave it out with {_KEY}=[]'
    check_typed_list(targets, _KEY, [entry.target for entry in config.extra], mend)
    callbacks = []
    for entry in config.extra:
        found = import_target(_KEY, entry.target)
        callback = call_target(entry.target, found, _KEY, **entry.arguments)
        if not isinstance(callback, L.Callback):
            raise UserError(
                f"{_KEY}: {entry.target} makes a {type(callback).__name__}, not a Lightning "
                "Callback"
            )
        for kind, mend in _OF_A_RUN.items():
            if isinstance(callback, kind):
                raise UserError(f"{_KEY}: {entry.target}: {mend}")
        _tell_errors(callback, entry.target)
        callbacks.append(callback)
    _check_states(callbacks, early_stopping(config.early_stopping))
    return callbacks


def _tell_errors(callback: L.Callback, target: str) -> None:
    """Let an error in any hook of the callback name its class."""
    for name in _HOOKS:
        if getattr(type(callback), name) is not getattr(L.Callback, name):
            setattr(callback, name, partial(_called, target, name, getattr(callback, name)))


def _called(target: str, name: str, hook: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with own_code(f"{_KEY}: {target}", name):
        result = hook(*args, **kwargs)
    if name == "state_dict":
        _refuse_objects(target, "state_dict", result)
    elif name == "on_save_checkpoint":
        _refuse_objects(target, "the checkpoint", args[2])
    return result


def _refuse_objects(target: str, where: str, value: Any) -> None:
    problem = not_plain(value)
    if problem:
        raise RunFailed(
            f"{_KEY}: {target} puts a value of type {problem} into {where}: put tensors, "
            "numbers and texts there, since a checkpoint is opened without running anything in it"
        )


def _check_states(callbacks: Sequence[L.Callback], ours: Sequence[L.Callback]) -> None:
    """Refuse states that a checkpoint cannot hold, or not tell apart.

    Raises:
        UserError: names the callback.
    """
    keys = {HISTORY_KEY, *(callback.state_key for callback in ours)}
    for callback in callbacks:
        if type(callback).state_dict is L.Callback.state_dict:
            continue
        try:
            callback.state_dict()
        except RunFailed as error:
            raise UserError(str(error)) from error
        if callback.state_key in keys:
            raise UserError(
                f"{_KEY}: two callbacks have the state_key {callback.state_key}: give yours a "
                "state_key of its own, or name it once"
            )
        keys.add(callback.state_key)
