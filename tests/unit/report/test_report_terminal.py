"""What stands on a narrow terminal: all that stands on a wide one, and nothing split."""

import io
import re
import sys
from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from test_report_document import DOCUMENT
from torch import nn

import layerscope
from layerscope.explain.engine import explain_network
from layerscope.explain.explanation import ExplainSettings
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.networks.tiny_cnn import TinyCNN
from layerscope.reconcile.layer_table import layer_table
from layerscope.report.audit import show_audit
from layerscope.report.document import Column, Table
from layerscope.report.explain.content import explanation_document
from layerscope.report.explain.report import show_explanation
from layerscope.report.layer_table import show_layer_table
from layerscope.report.profile.content import profile_document, profile_summary
from layerscope.report.profile.report import ProfileReport
from layerscope.report.terminal import Screen, TextScreen, complain, one_line
from layerscope.training.callbacks.batch_progress import BatchProgress
from profile_example import cifar_cnn_profile, example_audit, profile_of

LONG = "features.denseblock4.denselayer16.conv2"
UNITS = "%|[KMGT]iB|B|s|ms|µs|ns|[kMGTP]|FLOP|MAC"
ENOUGH = 100_000  # columns
IMAGES = (4, 3, 32, 32)


def explained():
    torch.manual_seed(0)
    settings = ExplainSettings("tiny_cnn", (1, 1, 8, 8))
    return explain_network(TinyCNN(), settings, torch.rand(1, 1, 8, 8), analysis=True)


def deep():
    """A network whose layers have long names."""
    inner = nn.Sequential(OrderedDict(convolution=nn.Conv2d(3, 64, 3), bn=nn.BatchNorm2d(64)))
    for name in reversed(LONG.split(".")):
        inner = nn.Sequential(OrderedDict([(name, inner)]))
    return inner


def commands(screen):
    """Show what evaluate, train and a sweep show."""
    screen.table(
        "test set by class",
        ("class", "images", "found (recall)", "right of predicted (precision)"),
        [
            ("automobile", "1,000", "84.62 %", "100.00 %"),
            ("a class of many words", "9", "1 %", "–"),
        ],
    )
    folder = "/somewhere/outputs/train/2026-01-01_00-00-00_12345"
    saved = "48,195,520 B (46.0 MiB) at batch 128"
    screen.panel("run finished", [("saved for backward", saved), ("all files", folder)])
    screen.panel("evaluation", [("test accuracy", "11.72 % of 128 images")])
    screen.say("epoch   1/1  train loss 2.4442 acc 12.50 %  val loss 2.3554  139 images/s  best")
    columns = (Column("", "overrides"), Column("", "parameters", "count", rank=3))
    columns += (Column("", "saved", "bytes", rank=1), Column("", "val acc", "percent"))
    rows = (("model.width=0.5 optimizer.sgd_lr=0.1 seed=0", 94_986, 2**31 + 1, 0.8365),)
    screen.show(Table(columns, rows, title="sweep, best validation accuracy first"))


@pytest.fixture(scope="module")
def reports():
    """What shows each report."""
    profile, explanation = cifar_cnn_profile(), explained()
    long = profile_of(deep(), (2, 3, 8, 8))
    layers = layer_table(deep(), (3, 8, 8))
    default = layer_table(CifarCNN(), (3, 32, 32))
    sizes = [ProfileReport(each) for each in (profile, profile_of(CifarCNN(width=0.5), IMAGES))]
    return {
        "document": lambda screen: screen.show(*DOCUMENT.blocks),
        "profile": lambda screen: screen.show(*profile_summary(profile, example_audit())),
        "whole profile": lambda screen: screen.show(*profile_document(profile).blocks),
        "long names": lambda screen: screen.show(*profile_summary(long)),
        "layers": lambda screen: show_layer_table(screen, default),
        "layers of long names": lambda screen: show_layer_table(screen, layers),
        "explain": lambda screen: show_explanation(screen, explanation),
        "whole explanation": lambda screen: screen.show(*explanation_document(explanation).blocks),
        "audit": lambda screen: show_audit(screen, "a table", example_audit()),
        "comparison": lambda screen: layerscope.compare(*sizes).show(screen=screen),
        "commands": commands,
    }


def shown(show, width, is_rich):
    screen = TextScreen(width)
    screen.is_rich = is_rich
    show(screen)
    return screen.text


def words(text):
    """Names, numbers and words, without frames, rules and the colon behind a title."""
    return {word.rstrip(":") for word in text.split() if not re.fullmatch("[│╭╮╰╯─━]+", word)}


def numbers_with_units(text):
    return set(re.findall(rf"\d[\d,.]* (?:{UNITS})(?!\w)", text))


@pytest.fixture(scope="module")
def wide_reports(reports):
    return {name: shown(show, ENOUGH, False) for name, show in reports.items()}


@pytest.mark.parametrize(
    ("width", "is_rich"), [(40, True), (60, True), (80, True), (100, True), (100, False)]
)
def test_every_word_of_every_report_stands_whole_at_any_width(
    width, is_rich, reports, wide_reports
):
    for name, show in reports.items():
        wide, narrow = wide_reports[name], shown(show, width, is_rich)
        assert len(words(wide)) > 10, name
        assert words(wide) - words(narrow) == set(), name
        assert numbers_with_units(wide) - numbers_with_units(narrow) == set(), name
        if is_rich:  # a line that is too long is one that could not be broken
            for line in narrow.split("\n"):
                parts = re.sub(rf"(?<=\d) (?=(?:{UNITS})(?!\w))", "_", line).strip()
                assert len(line) <= width or " " not in parts, (name, line)


def test_a_table_that_is_too_wide_goes_on_below_with_the_names_again():
    lines = shown(lambda screen: screen.show(*DOCUMENT.blocks), 46, True).split("\n")
    assert [line.split() for line in lines if line.startswith(" layer")] == [
        ["layer", "size", "share"],
        ["layer", "FLOPs"],
    ]
    rows = shown(lambda screen: screen.show(*DOCUMENT.blocks), 26, True).split("\n")
    assert rows[rows.index("layer: a_layer") :][:3] == [
        "layer: a_layer",
        "  size: 4,194,304 B",
        "  (4.00 MiB)",
    ]


def test_each_row_of_a_narrow_comparison_names_its_instrument(reports):
    text = shown(reports["comparison"], 60, True)
    whole = text[text.index("the whole network") : text.index("shrank most")]
    rows = [line for line in whole.split("\n") if line.startswith(" macs, MAC")]
    assert len(rows) >= 4  # at least two tables
    assert all(re.search("textbook|fvcore|torchinfo", row) for row in rows), rows


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_the_line_of_a_progress_bar_fits_and_drops_the_least_important_first(width):
    texts = ["epoch 12/150", "loss 2.31", "1:23:45 left", "12,345 images/s", "345/390"]
    shown_texts, bar = one_line(texts, width)
    assert shown_texts == texts[: len(shown_texts)]
    assert sum(map(len, shown_texts)) + len(shown_texts) + (bar + 1 if bar else 0) <= width
    if width >= 60:
        assert len(shown_texts) >= 4
        assert bar >= 4


class Terminal(io.StringIO):
    """Standard output that says that it is a terminal."""

    encoding = "utf-8"

    def isatty(self):
        return True


def test_the_bar_shows_loss_speed_and_the_time_left_of_the_run(monkeypatch, tmp_path, scripts):
    from importlib.util import module_from_spec, spec_from_file_location

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.delenv("NO_COLOR")
    for name, value in {"COLUMNS": "60", "LINES": "40", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    spec = spec_from_file_location("script_train", scripts / "train.py")
    train = module_from_spec(spec)
    spec.loader.exec_module(train)
    keys = ["data=synthetic", "data.num_train=800", "data.num_val=20", "data.num_test=20"]
    keys += ["data.batch_size=8", "model.channels=[4,8,8]", "trainer=cpu", "trainer.threads=1"]
    keys += ["trainer.max_epochs=2", f"hydra.run.dir={tmp_path}"]
    assert train.main(keys) == 0
    colourless = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", colourless)
    bars = [line for line in re.split(r"[\r\n]+", text) if line.startswith("epoch ")]
    full = [line for line in bars if "left" in line]
    assert full, bars
    assert all(
        re.fullmatch(r"epoch [12]/2 .* loss [\d.]+ +\d:\d\d left +[\d,]+ images/s .*", line)
        for line in full
    ), full
    assert max(map(len, bars)) <= 60


@pytest.mark.parametrize("is_parallel", [False, True])
def test_jobs_that_run_at_a_time_show_no_bars(is_parallel, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setattr("multiprocessing.parent_process", lambda: object() if is_parallel else None)
    progress = BatchProgress(Screen())
    trainer = SimpleNamespace(
        is_global_zero=True, current_epoch=0, max_epochs=2, num_training_batches=4
    )
    progress.on_train_epoch_start(trainer, None)
    progress.on_train_epoch_end(trainer, None)
    assert ("epoch 1/2" in terminal.getvalue()) is not is_parallel


def test_a_complaint_on_a_narrow_terminal_is_broken_at_spaces(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("COLUMNS", "40")
    complain("error: data.dir=photos is no folder: give the folder of the photos\x1b[2J")
    lines = terminal.getvalue().rstrip("\n").split("\n")
    assert " ".join(line.strip() for line in lines) == (
        "error: data.dir=photos is no folder: give the folder of the photos?[2J"
    )
    assert max(map(len, lines)) <= 40
