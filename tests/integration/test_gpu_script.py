"""benchmarks/gpu.py: run small on a CPU, and the parts of it that need no run at all."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import gpu
import gpu_pack
from gpu_parts import PARTS, Finding, Part, _unequal

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_quick_parts_run_and_their_results_can_be_shown_again(tmp_path, capfd):
    """Each part in a process of its own."""
    names = ("versions", "probes")
    assert gpu.main(["--half", "1", "--only", *names, "--out", str(tmp_path)]) == 0
    first = capfd.readouterr()
    assert first.err == ""
    assert f"| versions | torch | {torch.__version__.partition('+')[0]}" in first.out
    assert "2 of 2 that were judged hold." in first.out
    lines = (tmp_path / "results.jsonl").read_text().splitlines()
    assert {json.loads(line)["part"] for line in lines} == set(names)
    assert gpu.main(["--table", str(tmp_path / "results.jsonl")]) == 0
    assert capfd.readouterr().out.strip() in first.out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_part_runs_on_a_cpu(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout
    assert "**no**" not in done.stdout


def test_the_halves_fit_their_time():
    limits = {1: 200, 2: 390}
    for half, limit in limits.items():
        assert sum(part.limit_seconds for part in PARTS if part.half == half) <= limit


def test_a_part_that_hangs_or_breaks_loses_nothing(tmp_path):
    (tmp_path / "results.jsonl").write_text(
        json.dumps(Finding("versions", "torch", "2.11").record()) + "\n"
    )
    hangs = Part("versions", 1, 0, lambda out: iter(()))
    *_, end = gpu.run_part(hangs, tmp_path)
    assert (end.holds, end.note) == (False, "stopped at its limit of 0 s")
    breaks = Part("no such part", 1, 60, lambda out: iter(()))
    (end,) = gpu.run_part(breaks, tmp_path)
    assert end.holds is False
    assert end.note.startswith("exit code 2: ")
    table = gpu.table(gpu.read(tmp_path / "results.jsonl"))
    assert "| versions | torch | 2.11 |  | – |" in table
    assert "0 of 2 that were judged hold." in table


def test_pictures_of_tiles_are_lossless_and_the_last_piece_completes_the_arrays(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(gpu_pack, "_STORE", tmp_path / "store")
    monkeypatch.setattr(gpu_pack, "_TILES", 10)  # 100 images a picture
    monkeypatch.setattr(gpu_pack, "_NUM_IMAGES", 600)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8)
    picture = gpu_pack._picture(images)
    pieces = [tmp_path / "piece1", tmp_path / "piece2"]
    for number, piece in enumerate(pieces):
        piece.mkdir()
        for name in (f"train_{2 * number:02}", f"train_{2 * number + 1:02}"):
            (piece / f"{name}.webp").write_bytes(picture)
    (pieces[0] / "train_04.webp").write_bytes(picture)
    (pieces[1] / "test_00.webp").write_bytes(picture)
    for split, count in (("train", 500), ("test", 100)):
        np.save(pieces[0] / f"{split}_labels.npy", np.zeros(count, np.uint8))
    assert gpu_pack.take_in(pieces[0]) == "CIFAR-10: 300 of 600 images are here"
    assert gpu_pack.take_in(pieces[1]) == f"CIFAR-10 is in {tmp_path / 'store'}"
    assert gpu_pack.data_directory() == tmp_path / "store"
    train = np.load(tmp_path / "store/train_images.npy", mmap_mode="r")
    assert train.shape == (500, 32, 32, 3)
    assert np.array_equal(train[400:], images)


@pytest.mark.parametrize(
    ("one", "other", "different"),
    [
        ({"a": [torch.ones(2), 1]}, {"a": [torch.ones(2), 1]}, []),
        ({"a": [torch.ones(2), 1]}, {"a": [torch.zeros(2), 2]}, ["x.a.0", "x.a.1"]),
        ({"a": 1}, {"b": 1}, ["x"]),
        ([1], [1, 2], ["x"]),
    ],
)
def test_differences_are_named(one, other, different):
    assert _unequal("x", one, other) == different
