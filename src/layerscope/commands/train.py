"""Train a network: from a checked configuration to the files of docs/reference.md."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.nn.parameter import is_lazy

from layerscope.base.errors import NonFiniteLoss, RunFailed, UserError
from layerscope.base.files import remove_leftovers, write_json, write_text
from layerscope.base.formatting import bytes_exact, percent
from layerscope.base.targets import target_of
from layerscope.callbacks import ActivationMemory
from layerscope.commands.network import warning_of_random_buffers
from layerscope.commands.runner import Job, Request
from layerscope.config.schema import TrainConfig
from layerscope.data.cifar10 import CLASS_NAMES
from layerscope.data.module import (
    ImageData,
    count_images,
    default_padding,
    limited,
    stored_size,
)
from layerscope.data.store import Provenance
from layerscope.data.view import view_for
from layerscope.dry_run import dry_run
from layerscope.layers import preserve_state
from layerscope.networks import build_network, check_deterministic, check_network
from layerscope.networks.layer_calls import blank_image
from layerscope.reconcile import INSTRUMENTS, ProfileSettings, profile_network
from layerscope.reconcile.layer_table import layer_table
from layerscope.report.layer_table import save_layer_table, show_layer_table
from layerscope.report.plots import save_curves
from layerscope.report.profile.findings import verdict
from layerscope.report.profile.report import ProfileReport
from layerscope.report.terminal import Screen, complain
from layerscope.training.callbacks.batch_progress import BatchProgress
from layerscope.training.callbacks.end_of_epoch import EndOfEpoch
from layerscope.training.callbacks.prepare_process import PrepareProcess, prepare_process
from layerscope.training.callbacks.within_epoch import WithinEpoch
from layerscope.training.checkpoint_files import BEST, LAST
from layerscope.training.checkpoint_folder import CheckpointFolder
from layerscope.training.checkpoint_validation import validate_checkpoint
from layerscope.training.checkpoints import load_weights, read_checkpoint
from layerscope.training.hardware import (
    in_child_process,
    num_processes,
    num_threads,
    resolved_precision,
    uses_gpu,
)
from layerscope.training.history import History
from layerscope.training.loggers import check_logger, make_loggers
from layerscope.training.module import Classifier
from layerscope.training.optimizers import optimizer_maker
from layerscope.training.provenance import describe_run, prepare_data
from layerscope.training.resume import CONFIG_FILE, RESULTS_FILE, Start, is_finished, start_of
from layerscope.training.scoring import score_checkpoint
from layerscope.training.stop_request import StopRequest
from layerscope.training.trainer import early_stopping, make_trainer

AUTO_STEPS = 2_000  # a profile costs seconds: of runs that are longer than that
_DTYPES = {"32-true": "float32", "bf16-mixed": "bf16_autocast"}


@dataclass(frozen=True)
class Epoch:
    """The training batches of one epoch, over all processes."""

    num_batches: int
    largest_batch: int  # images
    last_batch: int


@dataclass(frozen=True)
class Plan:
    """A run that has passed every check."""

    config: TrainConfig
    request: Request
    data: Provenance
    start: Start
    num_outputs: int  # tensors that the network returns
    epoch: Epoch
    warnings: tuple[str, ...]

    @property
    def target(self) -> str | None:
        """The class of a user's own network."""
        return target_of(self.request.targets)


def check_training(request: Request) -> Job:
    """Check everything that can be wrong with the command, before anything is made.

    The one thing that this writes is the data cache, once it is complete and verified.
    """
    config: TrainConfig = request.config
    config = config.model_copy(update={"trainer": resolved_precision(config.trainer)})
    if config.resume is not None and config.ckpt_path is not None:
        raise UserError("resume=auto finds its checkpoint itself: leave out ckpt_path")
    target = target_of(request.targets)
    _check_processes(config, request.in_sweep)
    check_logger(config.logger)
    view_for(config.data, config.model, CLASS_NAMES)
    network = build_network(config.model, target)
    _check_parameters(network)
    num_outputs = check_network(network, config.model)
    if config.trainer.deterministic and uses_gpu(config.trainer):
        check_deterministic(network, config.model, torch.device("cuda"))
    start = start_of(config, request.directory)
    if config.resume is not None and is_finished(config, request.directory):
        return _say_finished
    _check_start(network, config, start)
    provenance = prepare_data(config.data, Screen(silent=in_child_process()).say)
    epoch = _check_sizes(config)
    _check_smallest_batch(network, config, epoch)
    warnings = (
        start.warning,
        _warning_of_accumulation(config, epoch),
        warning_of_random_buffers(network, config.model, target),
    )
    told = tuple(warning for warning in warnings if warning)
    plan = Plan(config, request, provenance, start, num_outputs, epoch, told)
    return partial(train, plan)


def train(plan: Plan, directory: Path) -> None:
    """Train, test the best checkpoint, and write every file of the run."""
    is_first = not in_child_process()
    screen = Screen(silent=not is_first)
    config = plan.config
    prepare_process(config.trainer)
    torch.manual_seed(config.seed)
    network = build_network(config.model, plan.target)
    if is_first:
        remove_leftovers(directory)
        CheckpointFolder(directory).remove_leftovers()
        (directory / RESULTS_FILE).unlink(missing_ok=True)  # of fewer epochs
        for warning in plan.warnings:
            complain(f"warning: {warning}")
        _describe(plan, network, directory, screen)
    if not plan.start.has_trained:
        _fit(plan, Classifier(network, config), directory, screen)
    if is_first:
        _finish(plan, directory, screen)


def _say_finished(directory: Path) -> None:
    Screen().say(f"{directory} holds a finished run: nothing to do")


def _check_processes(config: TrainConfig, in_sweep: bool) -> None:
    processes = num_processes(config.trainer)
    if config.trainer.strategy == "ddp" and in_sweep:
        raise UserError(
            "trainer=ddp starts the script again, which would repeat the sweep: "
            "use trainer=ddp_spawn with -m"
        )
    data = config.data
    if processes > 1 and (data.batch_size % processes or not data.drop_last):
        raise UserError(
            f"data.batch_size={data.batch_size}, data.drop_last={str(data.drop_last).lower()}: "
            f"{processes} processes need a batch that they can share equally, and no short last one"
        )


def _check_start(network: torch.nn.Module, config: TrainConfig, start: Start) -> None:
    if start.checkpoint is None:
        return
    checkpoint = read_checkpoint(start.checkpoint)
    load_weights(network, checkpoint)
    validate_checkpoint(checkpoint, network, config)
    if start.has_trained and config.resume is None:
        raise UserError(
            f"ckpt_path={start.checkpoint} has trained all its epochs, or was stopped early: raise "
            "trainer.max_epochs, or change callbacks.early_stopping, with allow_changes=true"
        )


def _check_parameters(network: torch.nn.Module) -> None:
    """Refuse a network that a run cannot begin, or not save.

    Raises:
        UserError: it has lazy layers, or states that are no tensors.
    """
    state = network.state_dict()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise UserError(
                f"{name.replace('_extra_state', 'get_extra_state')} of the network returns a "
                f"{type(value).__name__}: return a tensor, since a checkpoint holds nothing else"
            )
        if is_lazy(value):
            raise UserError(
                f"{name} of the network is lazy, and its size not known before a batch has been "
                "seen: give sizes, or call the network once at the end of its __init__"
            )


def _check_smallest_batch(network: torch.nn.Module, config: TrainConfig, epoch: Epoch) -> None:
    """Refuse a batch of one image where the network cannot train on one, as batch norm cannot.

    Raises:
        UserError: names the key that makes such a batch.
    """
    processes = num_processes(config.trainer)
    if min(epoch.last_batch, epoch.largest_batch) // processes != 1:
        return
    image = blank_image(network, (1, *config.model.input_shape))
    try:
        with preserve_state(network):
            dry_run(network.train(), (image,), backward=False)
    except UserError as error:
        if epoch.largest_batch // processes == 1:
            mend = f"data.batch_size={config.data.batch_size} gives a process one image: raise it"
        else:
            mend = "data.drop_last=false leaves a last batch of one image: set it to true"
        raise UserError(f"{mend}, the network cannot train on one image ({error})") from error


def _warning_of_accumulation(config: TrainConfig, epoch: Epoch) -> str:
    accumulated = config.trainer.accumulate_grad_batches
    if accumulated <= epoch.num_batches:
        return ""
    return (
        f"trainer.accumulate_grad_batches={accumulated} is more than the {epoch.num_batches} "
        "training batches of an epoch, whose end takes a step in any case: one step an epoch"
    )


def _check_sizes(config: TrainConfig) -> Epoch:
    """Return the batches of an epoch.

    Raises:
        UserError: a split has nothing to give.
    """
    counts = count_images(config)
    data = config.data
    for split, count in counts.items():
        if count == 0:
            raise UserError(f"the {split} split has no image of data.groups: choose other classes")
    if data.drop_last and data.batch_size > counts["train"]:
        raise UserError(
            f"data.batch_size={data.batch_size} is more than the {counts['train']} training "
            "images: lower it, or set data.drop_last=false"
        )
    if default_padding(config) >= stored_size(config):
        raise UserError(
            f"data.crop_padding={data.crop_padding}: must be below {stored_size(config)}, the size "
            "of the images"
        )
    return _epoch(config, counts["train"])


def _epoch(config: TrainConfig, num_images: int) -> Epoch:
    size = config.data.batch_size
    whole, rest = divmod(num_images, size)
    num_batches = whole if config.data.drop_last or rest == 0 else whole + 1
    used = limited(num_batches, config.trainer.limit_train_batches)
    last = size if used <= whole else rest
    return Epoch(used, min(size, num_images), last)


def _describe(plan: Plan, network: torch.nn.Module, directory: Path, screen: Screen) -> None:
    """Write config.yaml, run.json and layers.json, and show the same."""
    config = plan.config
    plain = config.model_dump(mode="json", by_alias=True)
    write_text(directory / CONFIG_FILE, yaml.safe_dump(plain, sort_keys=False))
    if not (directory / "run.json").exists():  # else it tells of the run's beginning
        told = describe_run(config, plan.request.overrides, plan.data)
        write_json(directory / "run.json", {**told, "threads": num_threads(config.trainer)})
    rows = layer_table(network, config.model.input_shape)
    save_layer_table(directory, rows)
    if plan.request.in_sweep:
        screen.say(f"job {directory.name}: {' '.join(plan.request.overrides)}")
    else:
        show_layer_table(screen, rows)
    screen.say(
        f"data {plan.data['name']}, from: {plan.data['source']}; precision "
        f"{config.trainer.precision}; threads {num_threads(config.trainer)}; seed {config.seed}"
    )
    if plan.num_outputs > 1:
        screen.say(f"the network returns {plan.num_outputs} tensors: the first one is trained on")


def _fit(plan: Plan, module: Classifier, directory: Path, screen: Screen) -> None:
    config = plan.config
    if config.trainer.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = ImageData(config, module.next_step)
    folder, request = CheckpointFolder(directory), StopRequest(plan.request.how_to_resume)
    callbacks = [
        PrepareProcess(config.trainer),
        BatchProgress(screen),
        *early_stopping(config.callbacks.early_stopping),
        ActivationMemory(
            config.callbacks.activation_memory.every_n_steps,
            directory,
            module="network",
            full_batch=-(-plan.epoch.largest_batch // num_processes(config.trainer)),
        ),
        EndOfEpoch(directory, folder, screen),
        WithinEpoch(folder, config.checkpoint_every_n_steps, request),
    ]
    loggers = make_loggers(config.logger, directory)
    trainer = make_trainer(
        config.trainer, directory, callbacks, loggers, plan.num_outputs > 1, request
    )
    try:
        with request.forgotten_afterwards():
            trainer.fit(module, datamodule=data, ckpt_path=plan.start.checkpoint, weights_only=True)
    except NonFiniteLoss as error:
        raise _with_mend(error, folder) from error
    except SystemExit as end:  # which Lightning makes of a Ctrl-C that is none of ours
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from end
        raise RunFailed(f"the network's code ended the program, sys.exit({end.code})") from end
    if request.signal is not None:  # it came when the last epoch was already saved
        raise request.error(f"ended after the last epoch; {plan.request.how_to_resume}")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()  # what follows is one process's work


def _with_mend(error: NonFiniteLoss, folder: CheckpointFolder) -> NonFiniteLoss:
    return NonFiniteLoss(
        f"{error}: lower the learning rate (optimizer.lr) or set trainer.gradient_clip_norm; "
        f"{folder.describe_last()}"
    )


def _finish(plan: Plan, directory: Path, screen: Screen) -> None:
    """Score the best checkpoint, draw, profile; results.json last, which says that all is done."""
    history = History.of(read_checkpoint(directory / "checkpoints" / LAST))
    best = read_checkpoint(directory / "checkpoints" / BEST)
    assert history.best is not None, "an epoch has ended"
    scored, _ = score_checkpoint(best, plan.config, plan.request.targets, directory)
    results = {
        "test/acc": scored.accuracy,
        "test/loss": scored.loss,
        "val/acc": history.best.accuracy,
        "val/loss": history.best.loss,
        "epochs": history.num_epochs,
        "steps": int(history.metrics[-1]["step"]),
        "train_seconds": history.seconds,
        "images_per_second": history.images_per_second,
    }
    save_curves(directory / "curves.svg", history.metrics)
    report = None
    if _wants_profile(plan.config, results["steps"]):
        batch_size = plan.epoch.largest_batch // num_processes(plan.config.trainer)
        try:
            report = _profile_run(plan.config, plan.target, batch_size, directory)
        except UserError as error:  # the run is complete: that an instrument fails is no reason
            screen.say(f"no profile: {error}")
    write_json(directory / RESULTS_FILE, results)
    if not plan.request.in_sweep:  # a sweep ends in a table of its own
        screen.panel("run finished", _panel(results, report, directory))


def _panel(
    results: dict[str, Any], report: ProfileReport | None, directory: Path
) -> list[tuple[str, str]]:
    profile = [] if report is None else [("profile", _profile_line(report, directory))]
    memory = json.loads((directory / "activation_memory.json").read_text())
    saved, batch_size = memory["totals"]["saved_bytes"], memory["batch_size"]
    return [
        ("test accuracy", f"{percent(results['test/acc'])} (best checkpoint)"),
        ("validation accuracy", percent(results["val/acc"])),
        ("training time", f"{results['train_seconds']:.1f} s in {results['epochs']} epochs"),
        ("speed", f"{results['images_per_second']:,.0f} images/s"),
        ("saved for backward", f"{bytes_exact(saved)} at batch {batch_size}"),
        ("checkpoint", str(directory / "checkpoints" / BEST)),
        *profile,
        ("all files", str(directory)),
    ]


def _profile_line(report: ProfileReport, directory: Path) -> str:
    return f"{verdict(report.profile).removesuffix('.')}: {directory / 'profile.html'}"


def _wants_profile(config: TrainConfig, num_steps: int) -> bool:
    """Tell whether a run is profiled: `profile=true`, or `auto` and a run that took some time."""
    return num_steps >= AUTO_STEPS if config.profile == "auto" else config.profile


def _profile_run(
    config: TrainConfig, target: str | None, batch_size: int, directory: Path
) -> ProfileReport:
    """Write profile.json, .csv, .md and .html into the run's directory.

    Args:
        batch_size: of one process. The loss is the sum of the outputs, as in every profile.
    """
    settings = ProfileSettings(
        network=config.model.family,
        input_shape=(batch_size, *config.model.input_shape),
        dtype=_DTYPES[config.trainer.precision],
        device="cuda" if uses_gpu(config.trainer) else "cpu",
        channels_last=config.trainer.channels_last,
        train=True,
        optimizer=optimizer_maker(config.optimizer),
    )
    network = build_network(config.model, target)
    report = ProfileReport(profile_network(network, settings, frozenset(INSTRUMENTS)))
    report.save(directory)
    return report
