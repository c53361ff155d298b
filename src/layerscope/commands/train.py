"""Train a network: from a checked configuration to the files of docs/reference.md."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.nn.parameter import is_lazy

from layerscope.base.errors import NonFiniteLoss, RunFailed, UserError
from layerscope.base.files import remove_leftovers, write_json, write_text
from layerscope.base.formatting import bytes_exact, number, percent
from layerscope.base.targets import Targets, target_of
from layerscope.callbacks import ActivationMemory
from layerscope.commands.network import warning_of_random_buffers
from layerscope.commands.runner import Job, Request
from layerscope.config.keys import flat
from layerscope.config.schema import CustomOptimizerConfig, CustomSchedulerConfig, TrainConfig
from layerscope.data.cifar10 import CLASS_NAMES
from layerscope.data.module import (
    ImageData,
    count_images,
    default_padding,
    open_data,
    seen_size,
)
from layerscope.data.sets import SPLITS, DataSet, limited
from layerscope.data.store import Provenance
from layerscope.data.view import View, view_for
from layerscope.dry_run import dry_run
from layerscope.layers import preserve_state
from layerscope.networks import build_network, check_deterministic, check_network
from layerscope.networks.layer_calls import blank_image
from layerscope.reconcile import INSTRUMENTS, ProfileSettings, profile_network
from layerscope.reconcile.layer_table import LayerTable, layer_table
from layerscope.report.layer_table import save_layer_table, show_layer_table
from layerscope.report.plots import save_curves
from layerscope.report.profile.findings import verdict
from layerscope.report.profile.report import ProfileReport
from layerscope.report.terminal import Screen, complain
from layerscope.training.callbacks.batch_progress import BatchProgress
from layerscope.training.callbacks.end_of_epoch import EndOfEpoch
from layerscope.training.callbacks.log_epochs import LogEpochs
from layerscope.training.callbacks.own import own_callbacks
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
from layerscope.training.loggers import Tracker, check_loggers, tracked
from layerscope.training.module import Classifier
from layerscope.training.optimizers import build_optimizer, optimizer_maker, state_after_a_step
from layerscope.training.own_metrics import check_metrics
from layerscope.training.own_schedules import check_schedule, own_schedule
from layerscope.training.preprocessing import preprocessing_of
from layerscope.training.pretrained import Pretrained, load_pretrained
from layerscope.training.provenance import describe_run
from layerscope.training.resume import (
    CONFIG_FILE,
    RESULTS_FILE,
    Start,
    is_finished,
    refuse_other_images,
    start_of,
)
from layerscope.training.scoring import Scored, Tested, finite, score_checkpoint
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
    data: DataSet
    provenance: Provenance
    start: Start
    num_outputs: int  # tensors that the network returns
    epoch: Epoch
    warnings: tuple[str, ...]
    adapted: str  # what was changed of the configuration to fit the data; may be empty

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
    check_loggers(config.logger)
    data = open_data(config, request.targets)
    config, adapted = with_classes_of(data, config, request.targets)
    view = view_for(config.data, config.model, data.class_names)
    network = build_network(config.model, target)
    _check_parameters(network)
    num_outputs = check_network(network, config.model)
    if config.trainer.deterministic and uses_gpu(config.trainer):
        check_deterministic(network, config.model, torch.device("cuda"))
    _check_own_classes(network, config, request.targets)
    start = start_of(config, request.directory)
    if config.resume is not None and is_finished(config, request.directory):
        return _say_finished
    if start.checkpoint is None:
        load_pretrained(network, config.model)
    _check_start(network, config, start, request.targets)
    say = Screen(silent=in_child_process()).say
    provenance = data.prepare(SPLITS, say)
    if start.checkpoint is not None:
        refuse_other_images(read_checkpoint(start.checkpoint), config, provenance)
    epoch = _check_sizes(config, data, view)
    _check_smallest_batch(network, config, epoch)
    _check_own_schedule(network, config, epoch, request.targets)
    warnings = (
        start.warning,
        _warning_of_accumulation(config, epoch),
        warning_of_random_buffers(network, config.model, target),
        *data.warnings,
    )
    told = tuple(warning for warning in warnings if warning)
    plan = Plan(config, request, data, provenance, start, num_outputs, epoch, told, adapted)
    return partial(train, plan)


def train(plan: Plan, directory: Path) -> None:
    """Train, test the best checkpoint, and write every file of the run."""
    is_first = not in_child_process()
    screen = Screen(silent=not is_first)
    config = plan.config
    prepare_process(config.trainer)
    torch.manual_seed(config.seed)
    network = build_network(config.model, plan.target)
    pretrained = None
    if plan.start.checkpoint is None:  # else all weights are the checkpoint's
        pretrained = load_pretrained(network, config.model)
    costs: dict[str, int] = {}
    if is_first:
        remove_leftovers(directory)
        CheckpointFolder(directory).remove_leftovers()
        (directory / RESULTS_FILE).unlink(missing_ok=True)  # of fewer epochs
        for warning in plan.warnings:
            complain(f"warning: {warning}")
        costs = _describe(plan, network, pretrained, directory, screen)
    with _tracked(plan, directory, costs) if is_first else nullcontext(()) as trackers:
        if not plan.start.has_trained:
            module = Classifier(network, config, plan.request.targets)
            _fit(plan, module, directory, screen, trackers)
        if is_first:
            _finish(plan, directory, screen, trackers)


@contextmanager
def _tracked(
    plan: Plan, directory: Path, costs: Mapping[str, int]
) -> Iterator[tuple[Tracker, ...]]:
    """Open the trackers, and tell each what this run is."""
    config, request = plan.config, plan.request
    # A job's folder is called 0, 1, ...: the sweep's name tells jobs of several sweeps apart.
    name = "/".join(directory.resolve().parts[-2:]) if request.in_sweep else directory.name
    with tracked(config.logger, directory, name, request.how_to_resume) as trackers:
        for tracker in trackers:
            tracker.describe(flat(_plain(config)), costs)
        yield trackers


def _plain(config: TrainConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", by_alias=True)


def _cost_totals(layers: LayerTable) -> dict[str, int]:
    """Return the textbook's totals for one image, without those that are not known."""
    totals = {"num_parameters": layers.num_parameters}
    if not layers.is_lower_bound:
        totals["macs"] = layers.macs
    if not layers.textbook.lower_bound:
        totals["forward_flops"] = layers.textbook.forward_flops
        totals["backward_flops"] = layers.textbook.backward_flops
    return totals


def _say_finished(directory: Path) -> None:
    Screen().say(f"{directory} holds a finished run: nothing to do")


def with_classes_of(
    data: DataSet, config: TrainConfig, targets: Targets
) -> tuple[TrainConfig, str]:
    """Give the network as many outputs as the data has classes, unless the user says how many.

    CIFAR-10's classes are left alone: a network's own file may put them together.

    Returns:
        The configuration, and what to say of the change; may be empty.
    """
    num_classes = len(config.data.groups or data.class_names)
    is_said = "model.num_classes" in targets or data.class_names == CLASS_NAMES
    if is_said or num_classes == config.model.num_classes:
        return config, ""
    model = config.model.model_copy(update={"num_classes": num_classes})
    said = f"model.num_classes={num_classes}, as many as data={config.data.name} has classes"
    return config.model_copy(update={"model": model}), said


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


def _check_own_classes(network: torch.nn.Module, config: TrainConfig, targets: Targets) -> None:
    """Refuse classes of the user's own that a run could not use, or not save.

    Raises:
        UserError: names the class and what is wrong with it.
    """
    if isinstance(config.optimizer, CustomOptimizerConfig):
        state_after_a_step(network, config.optimizer, targets)
    check_metrics(config.metrics, targets, config.model.num_classes)
    own_callbacks(config.callbacks, targets)


def _check_start(
    network: torch.nn.Module, config: TrainConfig, start: Start, targets: Targets
) -> None:
    if start.checkpoint is None:
        return
    checkpoint = read_checkpoint(start.checkpoint)
    load_weights(network, checkpoint)
    validate_checkpoint(checkpoint, network, config, targets)
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


def _check_own_schedule(
    network: torch.nn.Module, config: TrainConfig, epoch: Epoch, targets: Targets
) -> None:
    """Refuse a schedule of the user's own that fails at any step of the run.

    Raises:
        UserError: names it and the step.
    """
    if not isinstance(config.scheduler, CustomSchedulerConfig):
        return
    optimizer = build_optimizer(network, config.optimizer, targets)
    updates = -(-epoch.num_batches // config.trainer.accumulate_grad_batches)
    epochs = config.trainer.max_epochs
    schedule = own_schedule(config.scheduler, targets, optimizer, updates, epochs)
    check_schedule(schedule, updates * epochs)


def _warning_of_accumulation(config: TrainConfig, epoch: Epoch) -> str:
    accumulated = config.trainer.accumulate_grad_batches
    if accumulated <= epoch.num_batches:
        return ""
    return (
        f"trainer.accumulate_grad_batches={accumulated} is more than the {epoch.num_batches} "
        "training batches of an epoch, whose end takes a step in any case: one step an epoch"
    )


def _check_sizes(config: TrainConfig, images: DataSet, view: View) -> Epoch:
    """Return the batches of an epoch.

    Raises:
        UserError: a split has nothing to give.
    """
    counts = count_images(images, view)
    data = config.data
    for split, count in counts.items():
        if count == 0:
            mend = "give some" if data.groups is None else "choose other classes in data.groups"
            raise UserError(f"the {split} split has no image of the network's classes: {mend}")
    if data.drop_last and data.batch_size > counts["train"]:
        raise UserError(
            f"data.batch_size={data.batch_size} is more than the {counts['train']} training "
            "images: lower it, or set data.drop_last=false"
        )
    size = seen_size(config, images)
    if default_padding(config, images) >= size:
        raise UserError(
            f"data.crop_padding={data.crop_padding}: must be below {size}, the size of the images"
        )
    return _epoch(config, counts["train"])


def _epoch(config: TrainConfig, num_images: int) -> Epoch:
    size = config.data.batch_size
    whole, rest = divmod(num_images, size)
    num_batches = whole if config.data.drop_last or rest == 0 else whole + 1
    used = limited(num_batches, config.trainer.limit_train_batches)
    last = size if used <= whole else rest
    return Epoch(used, min(size, num_images), last)


def _describe(
    plan: Plan,
    network: torch.nn.Module,
    pretrained: Pretrained | None,
    directory: Path,
    screen: Screen,
) -> dict[str, int]:
    """Write config.yaml, run.json and layers.json, and show the same; return the cost totals."""
    config = plan.config
    write_text(directory / CONFIG_FILE, yaml.safe_dump(_plain(config), sort_keys=False))
    if not (directory / "run.json").exists():  # else it tells of the run's beginning
        told = describe_run(config, plan.request.overrides, plan.provenance)
        weights = {} if pretrained is None else {"weights": pretrained.to_plain()}
        threads = num_threads(config.trainer)
        write_json(directory / "run.json", {**told, **weights, "threads": threads})
    rows = layer_table(network, config.model.input_shape)
    save_layer_table(directory, rows)
    if plan.request.in_sweep:
        screen.say(f"job {directory.name}: {' '.join(plan.request.overrides)}")
    else:
        show_layer_table(screen, rows)
    screen.say(
        f"data {plan.provenance['name']}, from: {plan.provenance['source']}; precision "
        f"{config.trainer.precision}; threads {num_threads(config.trainer)}; seed {config.seed}"
    )
    if plan.adapted:
        screen.say(plan.adapted)
    if pretrained is not None:
        screen.say(str(pretrained))
    if plan.num_outputs > 1:
        screen.say(f"the network returns {plan.num_outputs} tensors: the first one is trained on")
    return _cost_totals(rows)


def _fit(
    plan: Plan,
    module: Classifier,
    directory: Path,
    screen: Screen,
    trackers: Sequence[Tracker],
) -> None:
    config = plan.config
    if config.trainer.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    data = ImageData(config, plan.data, plan.provenance, module.next_step)
    folder, request = CheckpointFolder(directory), StopRequest(plan.request.how_to_resume)
    own_columns = [own.column for own in config.metrics.extra]
    end_of_epoch = EndOfEpoch(directory, folder, screen, own_columns)
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
        *own_callbacks(config.callbacks, plan.request.targets),
        end_of_epoch,
        LogEpochs(trackers, end_of_epoch.metrics),
        WithinEpoch(folder, config.checkpoint_every_n_steps, request),
    ]
    trainer = make_trainer(
        config.trainer, directory, callbacks, trackers, plan.num_outputs > 1, request
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


def _finish(plan: Plan, directory: Path, screen: Screen, trackers: Sequence[Tracker]) -> None:
    """Score the best checkpoint, draw, profile; results.json last, which says that all is done."""
    history = History.of(read_checkpoint(directory / "checkpoints" / LAST))
    best = read_checkpoint(directory / "checkpoints" / BEST)
    assert history.best is not None, "an epoch has ended"
    tested = Tested(plan.data, plan.provenance, preprocessing_of(best))
    scored, _ = score_checkpoint(best, plan.config, tested, plan.request.targets, directory)
    own = _own_scores(scored, history.metrics[history.best.epoch])
    results = {
        "test/acc": scored.accuracy,
        "test/loss": scored.loss,
        "val/acc": history.best.accuracy,
        "val/loss": history.best.loss,
        **own,
        "epochs": history.num_epochs,
        "steps": int(history.metrics[-1]["step"]),
        "train_seconds": history.seconds,
        "images_per_second": history.images_per_second,
    }
    for tracker in trackers:
        tracker.log_epochs(history.metrics)
        tracker.log_metrics(_last_figures(results, directory), results["steps"])
    save_curves(directory / "curves.svg", history.metrics)
    report = None
    if _wants_profile(plan.config, results["steps"]):
        batch_size = plan.epoch.largest_batch // num_processes(plan.config.trainer)
        try:
            report = _profile_run(plan.config, plan.request.targets, batch_size)
            files = report.save(directory)
            for tracker in trackers:
                tracker.add_profile(report, files, results["steps"])
        except UserError as error:  # the run is complete: that an instrument fails is no reason
            screen.say(f"no profile: {error}")
    write_json(directory / RESULTS_FILE, results)
    if not plan.request.in_sweep:  # a sweep ends in a table of its own
        screen.panel("run finished", _panel(results, own, report, directory))


def _own_scores(scored: Scored, best_row: Mapping[str, str]) -> dict[str, float | None]:
    """Return the user's own metrics of the best checkpoint; None: not finite, or not measured.

    Args:
        best_row: of metrics.csv.
    """
    test = {f"test/{name}": value for name, value in scored.own.items()}
    return test | {f"val/{n}": finite(float(best_row[f"val/{n}"] or "nan")) for n in scored.own}


def _last_figures(results: Mapping[str, Any], directory: Path) -> dict[str, float]:
    """Return results.json for trackers, whose curves have other figures by the best one's names."""
    scores = {
        f"best/{name}" if name.startswith("val/") else name: value
        for name, value in results.items()
        if name.startswith(("test/", "val/")) and value is not None
    }
    memory = _activation_memory(directory)["totals"]
    return {
        **scores,
        "train_seconds": results["train_seconds"],
        "images_per_second": results["images_per_second"],
        "costs/saved_bytes": float(memory["saved_bytes"]),
    }


def _activation_memory(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "activation_memory.json").read_text())


def _panel(
    results: dict[str, Any],
    own: Mapping[str, float | None],
    report: ProfileReport | None,
    directory: Path,
) -> list[tuple[str, str]]:
    profile = [] if report is None else [("profile", _profile_line(report, directory))]
    memory = _activation_memory(directory)
    saved, batch_size = memory["totals"]["saved_bytes"], memory["batch_size"]
    return [
        ("test accuracy", f"{percent(results['test/acc'])} (best checkpoint)"),
        ("validation accuracy", percent(results["val/acc"])),
        *((name, number(value)) for name, value in own.items()),
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


def _profile_run(config: TrainConfig, targets: Targets, batch_size: int) -> ProfileReport:
    """Profile the network as the run trained it.

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
        optimizer=optimizer_maker(config.optimizer, targets),
    )
    network = build_network(config.model, target_of(targets))
    return ProfileReport(profile_network(network, settings, frozenset(INSTRUMENTS)))
