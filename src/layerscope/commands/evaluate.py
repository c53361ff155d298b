"""Evaluate a checkpoint on the test set."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layerscope.base.errors import UserError
from layerscope.base.files import write_json
from layerscope.base.formatting import number, percent
from layerscope.commands.checkpoint import Opened, open_checkpoint
from layerscope.commands.runner import Job, Request
from layerscope.data.module import ImageData, count_images, open_data
from layerscope.data.store import Provenance
from layerscope.data.view import View, view_of_other_data
from layerscope.report.plots import save_confusion, save_examples
from layerscope.report.tables import TableRow, write_table
from layerscope.report.terminal import Screen, complain
from layerscope.training.callbacks.prepare_process import prepare_process
from layerscope.training.checkpoints import RunFacts
from layerscope.training.hardware import uses_gpu
from layerscope.training.own_metrics import check_metrics
from layerscope.training.preprocessing import preprocessing_of
from layerscope.training.provenance import describe_run, is_other_data
from layerscope.training.scoring import Scored, Tested, score_checkpoint

MOST_EXAMPLES = 64
_MOST_SHOWN = 40  # classes in the printed table
PER_CLASS = ("class", "num_images", "num_correct", "recall", "num_predicted", "precision")


def check_evaluation(request: Request) -> Job:
    """Check everything that can be wrong, before anything is made."""
    opened = open_checkpoint(request)
    uses_gpu(opened.config.trainer)
    check_metrics(opened.config.metrics, opened.targets, opened.config.model.num_classes)
    trained, config = preprocessing_of(opened.checkpoint), opened.config
    data = open_data(config, opened.targets)
    view = view_of_other_data(trained.view, config.data, data.class_names, trained.class_names)
    provenance = data.prepare(("test",), Screen().say)
    if count_images(data, view, ("test",))["test"] == 0:
        raise UserError("no test image is in the checkpoint's classes: give more of them")
    facts = RunFacts.of(opened.checkpoint)
    trained_on = facts.data or {"name": facts.parsed_config().data.name}
    is_other = is_other_data(trained_on, provenance)
    if is_other:
        complain(f"warning: {_of_other_data(trained_on, provenance, view)}")
    tested = Tested(data, provenance, replace(trained, view=view))
    return partial(evaluate, opened, request.overrides, tested, is_other)


def evaluate(
    opened: Opened, overrides: tuple[str, ...], tested: Tested, is_other: bool, directory: Path
) -> None:
    """Score the test set; write evaluation.json and the tables and pictures beside it.

    Args:
        is_other: the data is not what the checkpoint's network was trained on.
    """
    screen = Screen()
    prepare_process(opened.config.trainer)
    run = describe_run(opened.config, overrides, tested.provenance)
    scored, data = score_checkpoint(
        opened.checkpoint, opened.config, tested, opened.targets, directory
    )
    names = data.preprocessing.view.class_names
    confusion = confusion_counts(scored, len(names))
    classes = per_class(confusion, names)
    write_json(directory / "run.json", run)
    write_json(
        directory / "evaluation.json",
        {
            "ckpt_path": str(opened.path.resolve()),
            "data": tested.provenance["name"],
            "other_data": is_other,
            "num_images": len(scored.labels),
            "test/acc": scored.accuracy,
            "test/loss": scored.loss,
            **{f"test/{name}": value for name, value in scored.own.items()},
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
    save_examples(path, data.test_images(shown.tolist()), captions)


def _of_other_data(trained_on: Mapping[str, Any], now: Provenance, view: View) -> str:
    """Say that a network is tested on other data, and which of its classes that data lacks."""
    lacking = [name for name, members in view.groups if not members]
    without = f"; of its classes there is no {', '.join(lacking)}" if lacking else ""
    then = ", from: ".join(trained_on[key] for key in ("name", "source") if key in trained_on)
    if then == f"{now['name']}, from: {now['source']}":
        same = f"other images of {then}"
        return f"the network was trained on other data than it is tested on ({same}){without}"
    return (
        f"the network was trained on other data ({then}) than it is tested on ({now['name']}, "
        f"from: {now['source']}){without}"
    )


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
    shown, title = classes, "test set by class"
    if len(classes) > _MOST_SHOWN:
        tested = [row for row in classes if row["recall"] is not None]
        shown = sorted(tested, key=lambda row: row["recall"])[:_MOST_SHOWN]
        title = f"the {len(shown)} classes of the lowest recall; per_class.csv has all"
    screen.table(
        title,
        ("class", "images", "found (recall)", "right of predicted (precision)"),
        [
            (
                row["class"],
                f"{row['num_images']:,}",
                percent(row["recall"]),
                percent(row["precision"]),
            )
            for row in shown
        ],
    )
    screen.panel(
        "evaluation",
        [
            ("test accuracy", f"{percent(scored.accuracy)} of {len(scored.labels):,} images"),
            ("test loss", f"{scored.loss:.6f}"),
            *((f"test {name}", number(value)) for name, value in scored.own.items()),
            ("all files", str(directory)),
        ],
    )
