import os

import pytest
import torch
from torch import nn

from layerscope.base.errors import UserError
from layerscope.reconcile import CallArguments
from layerscope.report.terminal import TextScreen
from layerscope.zoo.check import read_results, run_zoo
from layerscope.zoo.networks import GROUPS, Entry, ZooGroup


def image():
    return CallArguments((torch.ones(2, 3, 8, 8),))


def convolution():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))


def too_narrow():
    return nn.Conv2d(1, 4, 3)


class EndsItsProcess(nn.Module):
    def forward(self, x):
        os._exit(3)


def tiny():
    yield Entry("convolution", "tiny", convolution, image)
    yield Entry("linear", "tiny", convolution, image)


def broken():
    yield Entry("too_narrow", "broken", too_narrow, image)
    yield Entry("ends_its_process", "broken", EndsItsProcess, image)
    yield Entry("after_it", "broken", convolution, image)


ALL = (ZooGroup("tiny", "torch", tiny), ZooGroup("broken", "torch", broken))


def run(directory, *only, groups=ALL, **options):
    screen = TextScreen()
    code = run_zoo(directory, only, groups=groups, screen=screen, **options)
    return code, screen.text, read_results(directory / "results.jsonl")


def test_results_are_kept_and_not_made_again(tmp_path):
    code, text, results = run(tmp_path, "tiny", variants=("eval",), jobs=2)
    assert code == 0
    assert sorted(key[1:] for key in results) == [
        ("convolution", "eval"),
        ("convolution", "train"),
        ("linear", "eval"),
        ("linear", "train"),
    ]
    for result in results.values():
        assert result.num_compared > 10
        assert result.num_unexplained == result.num_unknown == 0
        assert result.predicted_live_bytes == result.measured_live_bytes
    assert "4 of 4" in text  # exact live peaks

    path = tmp_path / "results.jsonl"
    lines = path.read_text().splitlines()
    # A tool that was stopped while it wrote leaves half a line.
    path.write_text("\n".join(lines[:3]) + "\n" + lines[3][:40])
    kept = lines[:3]
    code, text, results = run(tmp_path, "tiny", variants=("eval",))
    assert code == 0
    assert len(results) == 4
    assert path.read_text().splitlines()[:3] == kept
    assert text.count("unexplained, ") == 1  # one network ran


def test_a_network_that_fails_is_named_and_the_rest_goes_on(tmp_path):
    code, text, results = run(tmp_path, "broken")
    assert code == 1
    assert "UserError" in results["broken", "too_narrow", "train"].error
    assert "exit code 3" in results["broken", "ends_its_process", "train"].error
    assert results["broken", "after_it", "train"].error is None
    assert "broken/too_narrow: UserError" in text

    assert run(tmp_path, "after_it")[0] == 0
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 3
    assert run(tmp_path, "broken/too_narrow", retry=True)[0] == 1
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 4


def test_a_group_without_its_library_is_skipped(tmp_path):
    groups = (
        ZooGroup("tiny", "torch", tiny),
        ZooGroup("other", "a_library_that_is_not_here", tiny),
    )
    code, text, _ = run(tmp_path, "linear", "other", groups=groups)
    assert code == 0
    assert "other: skipped, a_library_that_is_not_here is not installed" in text


def test_a_name_that_the_zoo_does_not_have(tmp_path):
    with pytest.raises(UserError, match="resnet_is_not_here"):
        run(tmp_path, "resnet_is_not_here")


def test_names_are_unique_within_their_groups():
    for group in GROUPS:
        if group.is_available:
            names = [entry.name for entry in group.entries()]
            assert len(names) == len(set(names))
