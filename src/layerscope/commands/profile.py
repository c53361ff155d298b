"""Profile a network: theory beside measurement for every layer."""

from functools import partial
from pathlib import Path
from typing import Any

from layerscope.audit import walkthrough_audit
from layerscope.base.errors import RunFailed, UserError
from layerscope.base.files import write_json
from layerscope.base.targets import Targets, target_of
from layerscope.commands.network import (
    given_checkpoint,
    network_name,
    new_network,
    refuse_another_network,
)
from layerscope.commands.runner import Job, Request
from layerscope.config.schema import ProfileConfig
from layerscope.networks import build_network
from layerscope.reconcile import ProfileSettings, profile_network
from layerscope.reconcile.measurements import check_instruments
from layerscope.reconcile.settings import check_settings
from layerscope.report.profile.budget import (
    BudgetChange,
    check_budget_settings,
    compare_with_budget,
    read_budget,
    show_budget,
)
from layerscope.report.profile.report import ProfileReport
from layerscope.report.terminal import Screen
from layerscope.training.checkpoints import RunFacts, load_weights
from layerscope.training.optimizers import optimizer_maker
from layerscope.training.provenance import describe_environment


def check_profile(request: Request) -> Job:
    """Profile the network, and only then let anything be written.

    Raises:
        UserError: a key, the checkpoint or the budget is wrong, or the network does not run.
    """
    checkpoint = given_checkpoint(request)
    config = _with_checkpoint(request, checkpoint)
    if checkpoint is None:
        network = new_network(config.model, request.targets)
    else:
        network = build_network(config.model, target_of(request.targets))
        load_weights(network, checkpoint)
    settings = _settings(config, network_name(config.model, network), request.targets)
    budget = None if config.budget is None else read_budget(Path(config.budget))
    if budget is not None:
        check_budget_settings(budget, settings)
    check_settings(network, settings)
    instruments = check_instruments(config.instruments.chosen)
    Screen().say(_what_runs(settings, len(instruments)))
    profile = profile_network(network, settings, instruments)
    changes = None if budget is None else compare_with_budget(profile, budget, config.tolerance)
    report = ProfileReport(profile, walkthrough_audit(network))
    return partial(_save, config, report, changes, request.overrides)


def _settings(config: ProfileConfig, network: str, targets: Targets) -> ProfileSettings:
    return ProfileSettings(
        network=network,
        input_shape=(config.batch_size, *(config.input_shape or config.model.input_shape)),
        dtype=config.dtype,
        device=config.device,
        channels_last=config.channels_last,
        train=config.train,
        freeze=config.freeze,
        input_requires_grad=config.input_requires_grad,
        optimizer=optimizer_maker(config.optimizer, targets),
    )


def _what_runs(settings: ProfileSettings, num_instruments: int) -> str:
    if settings.is_forecast:
        return f"profiling {settings.network} by a dry run: no {settings.device} is here ..."
    return f"profiling {settings.network} by a dry run and {num_instruments} instruments ..."


def _with_checkpoint(request: Request, checkpoint: dict[str, Any] | None) -> ProfileConfig:
    """Return the configuration; the network is the checkpoint's where there is one."""
    config: ProfileConfig = request.config
    if checkpoint is not None:
        refuse_another_network(request.overrides)
        model = RunFacts.of(checkpoint).parsed_config().model
        config = config.model_copy(update={"model": model})
    if config.tolerance and config.budget is None:
        raise UserError(f"tolerance={config.tolerance} is of a budget: give budget=FILE")
    if len(config.input_shape or ()) > len(config.model.input_shape):
        raise UserError(
            f"input_shape={list(config.input_shape or ())}: give [C,H,W]; the batch is batch_size"
        )
    return config


def _save(
    config: ProfileConfig,
    report: ProfileReport,
    changes: tuple[BudgetChange, ...] | None,
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
