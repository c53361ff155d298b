"""A checkpoint on the test set: scripts/evaluate.py."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from layerscope.base.errors import UserError
from layerscope.base.files import write_json
from layerscope.commands.runner import Job, Request
from layerscope.config.compose import path_value
from layerscope.config.overrides import key_of, keys_of, parsed, unknown_key
from layerscope.config.schema import (
    Cifar10Config,
    DataConfig,
    TrainConfig,
    as_typed,
    parse_train_config,
)
from layerscope.data.module import ImageData, count_images
from layerscope.data.store import Provenance, load_cifar10
from layerscope.networks import build_network, check_network
from layerscope.report.plots import save_confusion, save_examples
from layerscope.report.tables import Row, write_table
from layerscope.report.terminal import Screen, percent, percent_or_unknown
from layerscope.training.callbacks.prepare_process import prepare_process
from layerscope.training.checkpoints import RunFacts, load_weights, read_checkpoint
from layerscope.training.hardware import resolved_precision, uses_gpu
from layerscope.training.provenance import describe_run, prepare_data
from layerscope.training.scoring import Scored, score_checkpoint
from layerscope.training.seen import preprocessing_of

MOST_EXAMPLES = 64
OTHER_THAN_TRAINED = ("data", "trainer")  # groups of which an evaluation can choose another option
PER_CLASS = ("class", "num_images", "num_correct", "recall", "num_predicted", "precision")


@dataclass(frozen=True)
class Opened:
    """A checkpoint that has passed every check, and the configuration to use it with."""

    path: Path
    checkpoint: dict[str, Any]
    config: TrainConfig
    target: str | None


def open_checkpoint(request: Request, config_dir: Path) -> Opened:
    """The checkpoint that the request names, with its own configuration and the user's overrides.

    Args:
        config_dir: where a group's options are, for an override like trainer=cpu.
    """
    path = path_value(request.values, "ckpt_path")
    checkpoint = read_checkpoint(path)
    preprocessing_of(checkpoint)
    values = RunFacts.of(checkpoint).config
    config = parse_train_config(override_plain(values, request.foreign, config_dir))
    _refuse_another_view(parse_train_config(values), config)
    config = config.model_copy(update={"trainer": resolved_precision(config.trainer)})
    if "data.dir" not in map(key_of, request.foreign):
        config = config.model_copy(update={"data": _without_writing(config.data)})
    target = request.typed("model._target_")
    network = build_network(config.model, target)
    check_network(network, config.model)
    load_weights(network, checkpoint)
    return Opened(path, checkpoint, config, target)


def check_evaluation(config_dir: Path, request: Request) -> Job:
    """Everything that can be wrong, before anything is made."""
    opened = open_checkpoint(request, config_dir)
    uses_gpu(opened.config.trainer)
    provenance = prepare_data(opened.config.data, Screen().say)
    if count_images(opened.config)["test"] == 0:
        raise UserError("no test image is in the checkpoint's classes: give more of them")
    return partial(evaluate, opened, request.overrides, provenance)


def evaluate(
    opened: Opened, overrides: tuple[str, ...], provenance: Provenance, directory: Path
) -> None:
    """Score the test set; write evaluation.json and the tables and pictures beside it."""
    screen = Screen()
    prepare_process(opened.config.trainer)
    run = describe_run(opened.config, overrides, provenance)
    scored, data = score_checkpoint(opened.checkpoint, opened.config, opened.target, directory)
    names = data.preprocessing.view.class_names
    confusion = confusion_counts(scored, len(names))
    classes = per_class(confusion, names)
    write_json(directory / "run.json", run)
    write_json(
        directory / "evaluation.json",
        {
            "ckpt_path": str(opened.path.resolve()),
            "num_images": len(scored.labels),
            "test/acc": scored.accuracy,
            "test/loss": scored.loss,
            "per_class": classes,
            "confusion": {"class_names": list(names), "counts": confusion.tolist()},
        },
    )
    write_table(directory / "per_class.csv", PER_CLASS, classes)
    write_table(
        directory / "confusion.csv",
        ("true", *names),
        [
            {"true": name, **dict(zip(names, row, strict=True))}
            for name, row in zip(names, confusion.tolist(), strict=True)
        ],
    )
    save_confusion(directory / "confusion.svg", confusion, names)
    _save_misclassified(directory / "misclassified.png", scored, data)
    write_table(directory / "predictions.csv", *_prediction_rows(scored, names))
    _show(screen, scored, classes, directory)


def _without_writing(data: DataConfig) -> DataConfig:
    """A file does not say where data is put: its directory counts if it holds the data already."""
    if not isinstance(data, Cifar10Config) or data.dir is None:
        return data
    try:
        load_cifar10(Path(data.dir))
    except UserError:
        return data.model_copy(update={"dir": None})
    return data


def _refuse_another_view(trained: TrainConfig, asked: TrainConfig) -> None:
    """What the network was trained to see is in the checkpoint and stays."""
    for section, names in (("model", None), ("data", ("image_size", "grayscale", "groups"))):
        old, new = getattr(trained, section), getattr(asked, section)
        for name in names or type(old).model_fields:
            value = getattr(new, name)
            if value != getattr(old, name) and value is not None and name != "target":
                raise UserError(
                    f"{section}.{name}={as_typed(value)}: the checkpoint's network was trained "
                    f"with {as_typed(getattr(old, name))}, and that stays: leave it out"
                )


def confusion_counts(scored: Scored, num_classes: int) -> NDArray[np.int64]:
    """(num_classes, num_classes): images by true class (row) and predicted class (column)."""
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (scored.labels, scored.predictions), 1)
    return counts


def per_class(confusion: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
    """Of each class: how many, the share of them found (recall), the share of finds that are right
    (precision; None where nothing was predicted to be of the class)."""
    rows = []
    for index, name in enumerate(names):
        correct, true = int(confusion[index, index]), int(confusion[index].sum())
        predicted = int(confusion[:, index].sum())
        rows.append(
            {
                "class": name,
                "num_images": true,
                "num_correct": correct,
                "recall": correct / true if true else None,
                "num_predicted": predicted,
                "precision": correct / predicted if predicted else None,
            }
        )
    return rows


def override_plain(
    values: dict[str, Any], overrides: Sequence[str], config_dir: Path
) -> dict[str, Any]:
    """A plain configuration with Hydra-style overrides applied: key=value and group=option."""
    changed = copy.deepcopy(values)
    for override in parsed(overrides):
        has_package = override.package is not None
        if override.is_sweep_override() or override.is_delete() or has_package:
            raise UserError(f"{override.input_line}: only key=value is understood here")
        if "${" in str(override.value()):
            raise UserError(f"{override.input_line}: write the value itself, without ${{...}}")
        key, value = override.key_or_group, override.value()
        if (config_dir / key).is_dir():
            _choose_option(changed, config_dir, key, as_typed(value))
        else:
            _set(changed, key, value, add=override.is_add())
    return changed


def _choose_option(values: dict[str, Any], config_dir: Path, group: str, option: str) -> None:
    if group not in OTHER_THAN_TRAINED:
        raise UserError(
            f"{group}={option}: a checkpoint can get another {' or '.join(OTHER_THAN_TRAINED)}"
        )
    file = config_dir / group / f"{option}.yaml"
    if not file.is_file():
        options = ", ".join(sorted(path.stem for path in (config_dir / group).glob("*.yaml")))
        raise UserError(f"{group}={option} cannot be chosen: options of {group} are {options}")
    section = OmegaConf.to_container(OmegaConf.load(file))
    assert isinstance(section, dict)
    # A file that builds on another names only what differs: the rest stays the checkpoint's.
    partial_section = section.pop("defaults", None) is not None
    values[group] = {**values[group], **section} if partial_section else section


def _set(values: dict[str, Any], key: str, value: Any, add: bool) -> None:
    *parents, name = key.split(".")
    section = values
    for parent in parents:
        section = section.get(parent) if isinstance(section, dict) else None
    if not isinstance(section, dict) or (name not in section and not add):
        raise UserError(unknown_key(key, keys_of(values), "the run's config.yaml lists them"))
    section[name] = value


def _save_misclassified(path: Path, scored: Scored, data: ImageData) -> None:
    """The most confident mistakes, as the network saw them."""
    names = data.preprocessing.view.class_names
    wrong = np.flatnonzero(scored.predictions != scored.labels)
    confidence = scored.probabilities[wrong, scored.predictions[wrong]]
    shown = wrong[np.argsort(-confidence, kind="stable")][:MOST_EXAMPLES]
    captions = [
        (
            f"{names[scored.predictions[index]]} {scored.probabilities[index].max():.0%}",
            f"is {names[scored.labels[index]]}",
        )
        for index in shown
    ]
    save_examples(path, data.test_images()[shown], captions)


def _prediction_rows(scored: Scored, names: Sequence[str]) -> tuple[Sequence[str], Sequence[Row]]:
    columns = ("index", "label", "prediction", *(f"p({name})" for name in names))
    rows = [
        dict(zip(columns, (index, names[label], names[prediction], *shares), strict=True))
        for index, (label, prediction, shares) in enumerate(
            zip(scored.labels, scored.predictions, scored.probabilities.tolist(), strict=True)
        )
    ]
    return columns, rows


def _show(
    screen: Screen, scored: Scored, classes: Sequence[dict[str, Any]], directory: Path
) -> None:
    screen.table(
        "test set by class",
        ("class", "images", "found (recall)", "right of predicted (precision)"),
        [
            (
                row["class"],
                f"{row['num_images']:,}",
                percent_or_unknown(row["recall"]),
                percent_or_unknown(row["precision"]),
            )
            for row in classes
        ],
    )
    screen.panel(
        "evaluation",
        [
            ("test accuracy", f"{percent(scored.accuracy)} of {len(scored.labels):,} images"),
            ("test loss", f"{scored.loss:.6f}"),
            ("all files", str(directory)),
        ],
    )
