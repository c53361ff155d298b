"""scripts/profile_model.py: from a configuration to a saved profile."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from torch import nn

from layerscope.audit import walkthrough_audit
from layerscope.cli import Job, Request
from layerscope.composition import key_of, path_value
from layerscope.config import (
    Count,
    CustomConfig,
    LocalPath,
    NetworkConfig,
    NonNegative,
    OptimizerConfig,
    Section,
    TorchvisionConfig,
    first_problem,
    frozen,
)
from layerscope.errors import RunFailed, UserError
from layerscope.files import write_json
from layerscope.networks import build_network
from layerscope.reconcile import Settings, profile_network
from layerscope.reconcile.settings import check_settings
from layerscope.report.profile.budget import (
    Change,
    check_budget_settings,
    compare_with_budget,
    read_budget,
    show_budget,
)
from layerscope.report.profile.report import ProfileReport
from layerscope.report.terminal import Screen
from layerscope.training.checkpoints import RunFacts, load_weights, read_checkpoint
from layerscope.training.optimizers import optimizer_maker
from layerscope.training.provenance import describe_environment

# Groups that come with a network's recipe and say nothing about a profile.
_RECIPE = ("loss", "trainer")
_NOT_OURS = (*_RECIPE, "paths")


class InstrumentsConfig(Section):
    """Which of them run."""

    outputs: bool
    saved: bool
    fvcore: bool
    flop_counter: bool
    profiler: bool
    memory: bool
    time: bool
    machine: bool

    @property
    def chosen(self) -> frozenset[str]:
        """Names of those that are on."""
        return frozenset(name for name, is_on in self if is_on)


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class ProfileConfig(Section):
    """A whole profile."""

    model: NetworkConfig
    optimizer: OptimizerConfig
    ckpt_path: LocalPath | None
    batch_size: Count
    input_shape: Annotated[tuple[Count, ...], Field(min_length=1)] | None
    dtype: Literal["float32", "bfloat16", "bf16_autocast"]
    device: str
    channels_last: bool
    train: bool
    freeze: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_listed)]
    input_requires_grad: bool
    instruments: InstrumentsConfig
    depth: Count | None
    budget: LocalPath | None
    tolerance: NonNegative

    @property
    def settings(self) -> Settings:
        """What reconcile/ needs of it."""
        return Settings(
            network=self.model.family,
            input_shape=(self.batch_size, *(self.input_shape or self.model.input_shape)),
            dtype=self.dtype,
            device=self.device,
            channels_last=self.channels_last,
            train=self.train,
            freeze=self.freeze,
            input_requires_grad=self.input_requires_grad,
            optimizer=optimizer_maker(self.optimizer),
        )


def check_profile(request: Request) -> Job:
    """Profile the network, and only then let anything be written.

    Raises:
        UserError: a key, the checkpoint or the budget is wrong, or the network does not run.
    """
    given = request.values["ckpt_path"] is not None
    checkpoint = read_checkpoint(path_value(request.values, "ckpt_path")) if given else None
    config = _parsed(request, checkpoint)
    network = build_network(config.model, request.typed("model._target_"))
    if checkpoint is not None:
        load_weights(network, checkpoint)
    settings = replace(config.settings, network=network_name(config.model, network))
    if config.budget is not None:
        check_budget_settings(read_budget(Path(config.budget)), settings)
    check_settings(network, settings)
    instruments = config.instruments.chosen
    Screen().say(_what_runs(settings, len(instruments)))
    profile = profile_network(network, settings, instruments)
    changes = (
        None
        if config.budget is None
        else compare_with_budget(profile, config.budget, config.tolerance)
    )
    report = ProfileReport(profile, walkthrough_audit(network))
    return partial(_save, config, report, changes, request.overrides)


def _what_runs(settings: Settings, num_instruments: int) -> str:
    if settings.is_forecast:
        return f"profiling {settings.network} by a dry run: no {settings.device} is here ..."
    return f"profiling {settings.network} by a dry run and {num_instruments} instruments ..."


def network_name(config: NetworkConfig, network: nn.Module) -> str:
    """For the reports: torchvision's own name, a user's class, or the name of ours."""
    if isinstance(config, TorchvisionConfig):
        return config.name
    return type(network).__name__ if isinstance(config, CustomConfig) else config.family


def _parsed(request: Request, checkpoint: dict[str, Any] | None) -> ProfileConfig:
    """The command's own keys; the network's are the checkpoint's where there is one."""
    refuse_groups(request.overrides, _RECIPE, "a profile")
    values = {key: value for key, value in request.values.items() if key not in _NOT_OURS}
    if checkpoint is not None:
        refuse_another_network(request.overrides)
        values["model"] = RunFacts.of(checkpoint).config["model"]
    try:
        config = ProfileConfig.model_validate(frozen(values))
    except ValidationError as error:
        raise UserError(first_problem(error)) from error
    if config.tolerance and config.budget is None:
        raise UserError(f"tolerance={config.tolerance} is of a budget: give budget=FILE")
    if len(config.input_shape or ()) > len(config.model.input_shape):
        raise UserError(
            f"input_shape={list(config.input_shape or ())}: give [C,H,W]; the batch is batch_size"
        )
    return config


def refuse_groups(overrides: tuple[str, ...], groups: tuple[str, ...], what: str) -> None:
    """Refuse parts of a network's recipe, which the configuration holds without using them."""
    for override in overrides:
        if re.split("[.@]", key_of(override))[0] in groups:
            raise UserError(f"{override} says nothing about {what}: leave it out")


def refuse_another_network(overrides: tuple[str, ...]) -> None:
    """Beside a checkpoint only a user's own class is named again."""
    for override in overrides:
        is_own_class = override == "model=custom" or key_of(override) == "model._target_"
        if key_of(override).split(".")[0] == "model" and not is_own_class:
            raise UserError(f"{override}: the checkpoint says which network it is; leave it out")


def _save(
    config: ProfileConfig,
    report: ProfileReport,
    changes: tuple[Change, ...] | None,
    overrides: tuple[str, ...],
    directory: Path,
) -> None:
    """Write every file, print the report and how it differs from the budget.

    Raises:
        RunFailed: the budget is exceeded.
    """
    screen = Screen()
    write_json(directory / "run.json", describe_environment(overrides))
    report.save(directory)
    report.show(config.depth, screen=screen, command="depth={}")
    screen.say(f"all files: {directory}")
    if changes is not None:
        show_budget(screen, changes, config.tolerance)
        exceeding = sum(change.exceeds for change in changes)
        if exceeding:
            raise RunFailed(f"{exceeding} figures exceed budget={config.budget}: see above")
