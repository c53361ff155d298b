"""Evaluate a checkpoint on the test set."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerscope.base.errors import UserError
from layerscope.base.files import write_json
from layerscope.base.formatting import percent
from layerscope.commands.checkpoint import Opened, open_checkpoint
from layerscope.commands.runner import Job, Request
from layerscope.data.module import ImageData, count_images
from layerscope.data.store import Provenance
from layerscope.report.plots import save_confusion, save_examples
from layerscope.report.tables import TableRow, write_table
from layerscope.report.terminal import Screen
from layerscope.training.callbacks.prepare_process import prepare_process
from layerscope.training.hardware import uses_gpu
from layerscope.training.provenance import describe_run, prepare_data
from layerscope.training.scoring import Scored, score_checkpoint

MOST_EXAMPLES = 64
PER_CLASS = ("class", "num_images", "num_correct", "recall", "num_predicted", "precision")


def check_evaluation(request: Request) -> Job:
    """Check everything that can be wrong, before anything is made."""
    opened = open_checkpoint(request)
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
    scored, data = score_checkpoint(opened.checkpoint, opened.config, opened.targets, directory)
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


def confusion_counts(scored: Scored, num_classes: int) -> NDArray[np.int64]:
    """Count images by true class (row) and predicted class (column)."""
    counts = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(counts, (scored.labels, scored.predictions), 1)
    return counts


def per_class(confusion: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row per class: its images, recall and precision.

    Precision is None where nothing was predicted to be of the class.
    """
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


def _save_misclassified(path: Path, scored: Scored, data: ImageData) -> None:
    """Save the most confident mistakes, as the network saw them."""
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


def _prediction_rows(
    scored: Scored, names: Sequence[str]
) -> tuple[Sequence[str], Sequence[TableRow]]:
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
                percent(row["recall"]),
                percent(row["precision"]),
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
