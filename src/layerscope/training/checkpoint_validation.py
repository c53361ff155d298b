"""Check what Lightning will restore from a checkpoint, before a run makes anything.

Lightning itself restores by assignment: with wrong content it fails halfway, or trains on wrongly.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.callbacks.early_stopping import EarlyStoppingReason
from torch import Tensor, nn

from layerscope.base.errors import UserError
from layerscope.base.targets import NO_TARGETS, Targets
from layerscope.config.schema import CustomOptimizerConfig, TrainConfig
from layerscope.training.checkpoint_folder import all_are_finite
from layerscope.training.checkpoints import RunFacts
from layerscope.training.history import History
from layerscope.training.module import Classifier, sums_in
from layerscope.training.optimizers import state_after_a_step
from layerscope.training.silence import silence_lightning
from layerscope.training.trainer import make_trainer

# The state of each optimizer per parameter. It has the parameter's shape; the step is a number.
_STEP = "step"
_OPTIMIZER_STATES = {
    "muon": {"momentum_buffer"},
    "sgd": {"momentum_buffer"},
    "adam": {_STEP, "exp_avg", "exp_avg_sq"},
    "adamw": {_STEP, "exp_avg", "exp_avg_sq"},
}
_MAX_COUNT = 2**53  # a run of centuries stays below
_MAX_PROCESSES = 1024  # so that the sum of their counts does not overflow
# The state of the loops themselves, beside Lightning's counters of progress.
_LOOP_STATES = {"combined_loader": [{}], "_batches_that_stepped": 0}


def validate_checkpoint(
    checkpoint: dict[str, Any],
    network: nn.Module,
    config: TrainConfig,
    targets: Targets = NO_TARGETS,
) -> None:
    """Raise unless Lightning can restore the checkpoint into a run of this configuration.

    Args:
        network: already has the checkpoint's weights.
        targets: classes of the user's own, see base/targets.py.

    Raises:
        UserError: names the part that no such run has written.
    """
    module = Classifier(network, config, targets)
    silence_lightning()
    loop = make_trainer(config.trainer, Path()).fit_loop.state_dict()
    problem = (
        _difference(_shapes(module.state_dict()), _shapes(checkpoint["state_dict"]), "state_dict")
        or _wrong_sum(sums_in(module.state_dict()), checkpoint)
        or _wrong_in_optimizer(module, config, targets, checkpoint["optimizer_states"])
        or _wrong_in_loop(loop, _member(checkpoint["loops"], "fit_loop"))
        or _wrong_in_progress(checkpoint)
        or _wrong_elsewhere(checkpoint)
    )
    History.of(checkpoint)
    if problem:
        raise UserError(
            f"the checkpoint's {problem} is not what a run of this configuration writes: give a "
            "last.ckpt of it, or start without ckpt_path"
        )


def _wrong_sum(ours: Mapping[str, Tensor], checkpoint: dict[str, Any]) -> str:
    """Name a sum of the running epoch, of this process or of any, that is not one; else ''."""
    for name in ours:
        if not _is_sum(checkpoint["state_dict"][name], ours[name]):
            return f"state_dict.{name}"
    facts = RunFacts.of(checkpoint)
    if not facts.sums:
        return ""
    processes = facts.surroundings.get("processes")
    if type(processes) is not int or not 1 < processes <= _MAX_PROCESSES:
        return "surroundings.processes"
    each = {name: (processes, *sum_.shape) for name, sum_ in ours.items()}
    problem = _difference(each, _shapes(facts.sums), "sums")
    if problem:
        return problem
    for name, sum_ in ours.items():
        if not _is_sum(facts.sums[name], sum_) or not _is_sum(facts.sums[name].sum(0), sum_):
            return f"sums.{name}"
    return ""


def _is_sum(tensor: Tensor, ours: Tensor) -> bool:
    """Tell whether these are finite numbers, or counts, of the right type."""
    if tensor.dtype != ours.dtype or not all_are_finite([tensor]):
        return False
    return tensor.is_floating_point() or bool(((tensor >= 0) & (tensor <= _MAX_COUNT)).all())


def _wrong_in_optimizer(
    module: Classifier, config: TrainConfig, targets: Targets, states: Any
) -> str:
    optimizer = module.configure_optimizers()
    saved = states[0] if isinstance(states, Sequence) and len(states) == 1 else None
    groups = optimizer.state_dict()["param_groups"]
    problem = _difference(groups, _member(saved, "param_groups"), "optimizer_states.param_groups")
    if problem:
        return problem
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state = _member(saved, "state")
    if not isinstance(state, dict) or not state.keys() <= set(range(len(parameters))):
        return "optimizer_states.state"
    where = "optimizer_states.state"
    if isinstance(config.optimizer, CustomOptimizerConfig):
        right = state_after_a_step(module.network, config.optimizer, targets)
        problems = (
            _wrong_in_own_state(f"{where}.{i}", right.get(i, {}), state[i], parameters[i].shape)
            for i in state
        )
    else:
        names = _OPTIMIZER_STATES[config.optimizer.name]
        problems = (
            _wrong_in_state(f"{where}.{i}", names, state[i], parameters[i].shape) for i in state
        )
    return next(filter(None, problems), "")


def _wrong_in_state(where: str, names: set[str], values: Any, shape: tuple[int, ...]) -> str:
    """Name what is wrong in a parameter's state, in which these names stand; else ''."""
    if not isinstance(values, dict) or values.keys() != names:
        return where
    wrong = (key for key, v in values.items() if not _is_state(v, () if key == _STEP else shape))
    return next((f"{where}.{key}" for key in wrong), "")


def _wrong_in_own_state(
    where: str, first: Mapping[str, Any], values: Any, shape: tuple[int, ...]
) -> str:
    """Name what is wrong in a parameter's state, of a user's own optimizer; else ''.

    Args:
        first: the state after one step; later it may hold more.
        shape: of the parameter.
    """
    if not isinstance(values, dict) or not first.keys() <= values.keys():
        return where
    wrong = (key for key, v in values.items() if not _is_own_state(v, first.get(key), shape))
    return next((f"{where}.{key}" for key in wrong), "")


def _is_own_state(value: Any, first: Any, shape: tuple[int, ...]) -> bool:
    if isinstance(first, Tensor):
        return value is not None and _is_state(value, first.shape) and value.dtype == first.dtype
    if isinstance(value, Tensor):
        return _is_state(value, value.shape if value.dim() == 0 else shape)
    return type(value) is not float or value - value == 0


def _is_state(value: Any, shape: tuple[int, ...]) -> bool:
    """Tell whether this is a finite tensor of the shape, or None, as for SGD without momentum."""
    if value is None:
        return True
    is_tensor = isinstance(value, Tensor) and tuple(value.shape) == tuple(shape)
    return is_tensor and all_are_finite([value])


def _wrong_in_loop(ours: Mapping[str, Any], theirs: Any) -> str:
    if not isinstance(theirs, dict) or ours.keys() != theirs.keys():
        return "loops.fit_loop"
    for key in ours:
        name, saved = f"loops.fit_loop.{key}", theirs[key]
        if not key.endswith("state_dict"):
            problem = _difference(ours[key], saved, name)
        elif isinstance(saved, dict) and saved.keys() <= _LOOP_STATES.keys():
            problem = _difference({part: _LOOP_STATES[part] for part in saved}, saved, name)
        else:
            problem = name
        if problem:
            return problem
    return ""


def _wrong_in_progress(checkpoint: dict[str, Any]) -> str:
    """Name a count in which our facts and Lightning's loops differ; else ''."""
    loop = checkpoint["loops"]["fit_loop"]
    batches = loop["epoch_loop.batch_progress"]["total"]["processed"]
    if RunFacts.of(checkpoint).batches_seen != batches:
        return "batches_seen"
    epochs = loop["epoch_progress"]["current"]["completed"]
    return "" if checkpoint.get("epoch") == epochs else "epoch"


def _wrong_elsewhere(checkpoint: Mapping[str, Any]) -> str:
    """Name another of Lightning's keys that is wrong; else ''."""
    for key in ("epoch", "global_step"):
        if not _is_count(checkpoint.get(key)):
            return key
    version = checkpoint.get("pytorch-lightning_version")
    if not isinstance(version, str) or not re.fullmatch(
        r"2\.\d{1,4}\.\d{1,4}[\w.+]{0,20}", version
    ):
        return "pytorch-lightning_version"
    if checkpoint.get("lr_schedulers") != []:
        return "lr_schedulers"
    callbacks = checkpoint.get("callbacks")
    if not isinstance(callbacks, dict) or not all(isinstance(v, dict) for v in callbacks.values()):
        return "callbacks"
    stopping = (name for name in callbacks if str(name).startswith(EarlyStopping.__name__))
    wrong = (name for name in stopping if not _is_stopping(callbacks[name]))
    return next((f"callbacks.{EarlyStopping.__name__}" for _ in wrong), "")


def _is_stopping(state: Mapping[str, Any]) -> bool:
    """Tell whether EarlyStopping wrote this; its best score is infinite before the first epoch."""
    if state.keys() != EarlyStopping("").state_dict().keys():
        return False
    score, message = state["best_score"], state["stopping_reason_message"]
    return (
        all(_is_count(state[key]) for key in ("wait_count", "stopped_epoch", "patience"))
        and isinstance(score, Tensor)
        and score.shape == ()
        and score.dtype == torch.float32
        and not bool(score.isnan())
        and _is_count(state["stopping_reason"])
        and state["stopping_reason"] in [reason.value for reason in EarlyStoppingReason]
        and (message is None or isinstance(message, str))
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _MAX_COUNT


def _member(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _shapes(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _difference(ours: Any, theirs: Any, where: str) -> str:
    """Name where the two differ in keys, lengths or types; '' where they do not."""
    if isinstance(ours, dict):
        if not isinstance(theirs, dict) or ours.keys() != theirs.keys():
            return where
        inner = (_difference(ours[key], theirs[key], f"{where}.{key}") for key in ours)
        return next(filter(None, inner), "")
    if isinstance(ours, list):
        if not isinstance(theirs, list) or len(ours) != len(theirs):
            return where
        inner = (_difference(*pair, where) for pair in zip(ours, theirs, strict=True))
        return next(filter(None, inner), "")
    if isinstance(ours, tuple):  # a shape
        return "" if ours == theirs else where
    if isinstance(ours, float) and type(theirs) in (int, float):
        return "" if theirs - theirs == 0 else where
    if type(ours) is int and type(theirs) is int:
        return "" if _is_count(theirs) else where
    return "" if type(ours) is type(theirs) else where
