"""A user's own images: whole runs on a folder of pictures, and on a dataset class."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers import TINY, load_script, read_json, same_weights
from PIL import Image

from layerscope.training.callbacks.end_of_epoch import EndOfEpoch

SIZE = 40  # larger than CIFAR-10's images
COLOURS = {"cat": (200, 40, 40), "dog": (40, 200, 40), "große Eule": (40, 40, 200)}
KEYS = [key for key in TINY if not key.startswith("data")]
KEYS += ["data.batch_size=4", f"model.input_shape=[3,{SIZE},{SIZE}]"]
LONGER = [key for key in KEYS if not key.startswith("trainer.max_epochs")]
LONGER += ["data=imagefolder", "trainer.max_epochs=8"]
DOCS = Path(__file__).parents[2] / "docs/own_data.md"


def draw_photos(folder, names, count, seed=0):
    """Noisy pictures of a colour for each class, each of another size."""
    random = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            shape = (44 + number, 50, 3)
            pixels = np.array(COLOURS[name]) + random.integers(-30, 30, shape)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with pictures and a run on them; nothing goes into the user's own cache."""
    folder = tmp_path_factory.mktemp("own data")
    draw_photos(folder / "photos", COLOURS, 10)
    keys = [*LONGER, f"data.dir={folder}/photos", f"data.cache={folder}/cache"]
    assert load_script("train").main([*keys, f"hydra.run.dir={folder}/run"]) == 0
    return folder


@pytest.fixture
def evaluate(run, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("LAYERSCOPE_DATA_DIR", str(tmp_path / "cache"))
    best = f"ckpt_path={trained}/run/checkpoints/best.ckpt"

    def call(*overrides):
        return run("evaluate", best, f"hydra.run.dir={tmp_path}/evaluation", *overrides)

    return call


def test_a_run_on_a_folder_says_what_it_has_seen(trained):
    results = read_json(trained / "run/results.json")
    assert results["val/acc"] == results["test/acc"] == 1
    data = read_json(trained / "run/run.json")["data"]
    assert (data["name"], data["source"]) == ("imagefolder", str(trained / "photos"))
    assert sorted(data["sha256"]) == sorted(
        f"{split}_{what}" for split in ("train", "val", "test") for what in ("images", "labels")
    )
    checkpoint = torch.load(trained / "run/checkpoints/best.ckpt", weights_only=True)
    preprocessing = checkpoint["layerscope"]["preprocessing"]
    assert preprocessing["class_names"] == list(COLOURS)
    assert preprocessing["stored_size"] == SIZE
    assert checkpoint["layerscope"]["config"]["model"]["num_classes"] == 3


def test_evaluation_and_prediction_see_what_training_saw(run, evaluate, trained, tmp_path):
    result = evaluate()
    assert result.code == 0, result.err
    assert "other data" not in result.err
    evaluation = read_json(tmp_path / "evaluation/evaluation.json")
    assert (evaluation["other_data"], evaluation["num_images"]) == (False, 3)
    assert evaluation["test/loss"] == read_json(trained / "run/results.json")["test/loss"]
    with (tmp_path / "evaluation/predictions.csv").open() as file:
        first = next(csv.DictReader(file))
    photos = sorted((trained / "photos/cat").iterdir())
    shares = []
    for photo in photos:
        shown = run("predict", f"ckpt_path={trained}/run/checkpoints/best.ckpt", f"image={photo}")
        shares.append(re.search(r"cat +([\d.]+) %", shown.out)[1])
    assert f"{100 * float(first['p(cat)']):.2f}" in shares


def test_other_data_is_matched_by_name_and_said(evaluate, tmp_path):
    draw_photos(tmp_path / "other", ["dog", "cat"], 4, seed=1)
    result = evaluate(f"data.dir={tmp_path}/other", "data.test_size=1.0")
    assert result.code == 0, result.err
    assert "warning: the network was trained on other data" in result.err
    assert "große Eule" in result.err
    evaluation = read_json(tmp_path / "evaluation/evaluation.json")
    assert (evaluation["other_data"], evaluation["num_images"]) == (True, 8)
    assert evaluation["test/acc"] == 1


def test_other_classes_are_refused_until_they_are_named(evaluate, tmp_path):
    refused = evaluate("data=synthetic")
    assert refused.code == 2
    assert refused.err.startswith("error: data=synthetic has the class airplane (and 7 more)")
    assert refused.err.count("\n") == 1
    assert not (tmp_path / "evaluation").exists()
    allowed = evaluate("data.groups={cat:[cat],dog:[dog,frog]}", "data=synthetic")
    assert allowed.code == 0, allowed.err
    assert read_json(tmp_path / "evaluation/evaluation.json")["num_images"] == 150


def test_changed_images_do_not_resume(run, trained, tmp_path):
    draw_photos(tmp_path / "photos", COLOURS, 10, seed=2)
    keys = [*LONGER, f"data.dir={tmp_path}/photos", f"data.cache={tmp_path}/cache"]
    keys.append(f"ckpt_path={trained}/run/checkpoints/previous.ckpt")
    refused = run("train", *keys, f"hydra.run.dir={tmp_path}/run")
    assert refused.code == 2
    assert "the train images are not those that the checkpoint was trained on" in refused.err
    assert "or allow_changes=true" in refused.err
    assert not (tmp_path / "run").exists()


class PowerCut(Exception):
    pass


def test_the_dataset_of_the_documentation_resumes_within_an_epoch(run, tmp_path, monkeypatch):
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        draw_photos(tmp_path / "photos" / split, ["cat", "dog"], count)
    (code,) = re.findall(r"```python\n(# mydata.py.*?)```", DOCS.read_text(), re.DOTALL)
    assert code.count("\n") <= 25
    (tmp_path / "mydata.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = [*KEYS, "data=custom", "data._target_=mydata.Photos", "+data.root=photos"]
    keys += ["data.loader=workers", "data.num_workers=0", "checkpoint_every_n_steps=1"]

    assert run("train", *keys, "hydra.run.dir=whole").code == 0
    with monkeypatch.context() as patched:

        def cut(self, trainer, module, *_):
            if module.batches_seen == 4:
                raise PowerCut

        patched.setattr(EndOfEpoch, "on_train_batch_start", cut)
        with pytest.raises(PowerCut):
            run("train", *keys, "hydra.run.dir=cut")
    (photo, other), moved = sorted(Path("photos/train/cat").iterdir())[:2], Path("moved.png")
    photo.rename(moved)
    photo.write_bytes(other.read_bytes())
    refused = run("train", *keys, "hydra.run.dir=cut", "resume=auto", "allow_changes=true")
    assert (refused.code, "are not those that the checkpoint" in refused.err) == (2, True)
    moved.rename(photo)
    keys[keys.index("data.num_workers=0")] = "data.num_workers=2"
    resumed = run("train", *keys, "hydra.run.dir=cut", "resume=auto")
    assert resumed.code == 0, resumed.err
    for name in ("best.ckpt", "last.ckpt"):
        assert same_weights(f"whole/checkpoints/{name}", f"cut/checkpoints/{name}")
    assert Path("whole/metrics.csv").read_bytes() == Path("cut/metrics.csv").read_bytes()
    best = "ckpt_path=whole/checkpoints/best.ckpt"
    refused = run("evaluate", best, "hydra.run.dir=evaluation")
    assert (refused.code, "data._target_=mydata.Photos" in refused.err) == (2, True)
    named = run("evaluate", best, "data._target_=mydata.Photos", "hydra.run.dir=evaluation")
    assert named.code == 0, named.err
    evaluation = read_json("evaluation/evaluation.json")
    assert evaluation["test/loss"] == read_json("whole/results.json")["test/loss"]


def test_a_key_of_ones_own_decides_whatever_it_begins_with(run, tmp_path, monkeypatch):
    (tmp_path / "directed.py").write_text(
        "class Photos(list):\n"
        "    class_names = ['cat', 'dog']\n"
        "    def __init__(self, split, directions):\n"
        "        super().__init__()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    keys = [*KEYS, "data=custom", "data._target_=directed.Photos"]
    one, two = ([*keys, f"+data.directions={number}"] for number in (1, 2))
    shown = run("train", *one, "--cfg", "job").out
    config = {k: v for k, v in yaml.safe_load(shown).items() if k not in ("paths", "experiment")}
    Path("run").mkdir()
    Path("run/config.yaml").write_text(yaml.safe_dump(config))
    refused = run("train", *two, "resume=auto", "hydra.run.dir=run")
    assert refused.code == 2
    assert "data.directions was 1 and is 2" in refused.err


REFUSED = {
    "a broken picture": (["data.dir=photos"], r"photos/dog/7\.png is no picture"),
    "another number of classes": (["data.dir=good", "model.num_classes=5"], "the data has 2 class"),
    "no folder": (["data.dir=none"], r"data\.dir=none is no folder"),
    "no archive": (["data=cifar100", "data.dir=none"], r"put cifar-100-python\.tar\.gz there"),
    "no class": (["data=custom"], r"data\._target_ is missing"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_on_is_one_line_and_leaves_nothing(case, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("good", "photos"):
        draw_photos(tmp_path / folder, ["cat", "dog"], 9)
    (tmp_path / "photos/dog/7.png").write_bytes(b"hello")
    overrides, hint = REFUSED[case]
    data = [] if overrides[0].startswith("data=") else ["data=imagefolder", "data.cache=cache"]
    refused = run("train", *KEYS, *data, *overrides, "hydra.run.dir=run")
    assert refused.code == 2
    assert refused.err.startswith("error: ")
    assert refused.err.count("\n") == 1
    assert re.search(hint, refused.err), refused.err
    assert {path.name for path in tmp_path.iterdir()} <= {"good", "photos", "cache"}
