import csv
import shutil

import numpy as np
import pytest
from helpers import read_json
from PIL import Image

import layerscope
from layerscope.data.synthetic import read_split


@pytest.fixture(scope="module")
def moved(finished, tmp_path_factory):
    """The best checkpoint, alone in another place."""
    return shutil.copy(finished / "checkpoints/best.ckpt", tmp_path_factory.mktemp("moved"))


def test_evaluation_reproduces_what_training_printed(run, finished, moved, tmp_path):
    result = run("evaluate", f"ckpt_path={moved}", f"hydra.run.dir={tmp_path}/evaluation")
    assert result.code == 0, result.err
    trained = read_json(finished / "results.json")
    evaluation = read_json(tmp_path / "evaluation/evaluation.json")
    assert evaluation["test/acc"] == trained["test/acc"]
    assert evaluation["test/loss"] == trained["test/loss"]
    assert f"{100 * trained['test/acc']:.2f} %" in result.out


def test_the_files_of_an_evaluation_agree_with_each_other(run, moved, tmp_path):
    assert run("evaluate", f"ckpt_path={moved}", f"hydra.run.dir={tmp_path}").code == 0
    evaluation = read_json(tmp_path / "evaluation.json")
    with (tmp_path / "predictions.csv").open() as file:
        predictions = list(csv.DictReader(file))
    names = evaluation["confusion"]["class_names"]
    counts = np.array(evaluation["confusion"]["counts"])
    assert len(predictions) == evaluation["num_images"] == counts.sum() == 30
    right = sum(row["label"] == row["prediction"] for row in predictions)
    assert right / 30 == pytest.approx(evaluation["test/acc"], abs=1e-6)
    assert right == counts.trace()
    for row in predictions:
        shares = [float(row[f"p({name})"]) for name in names]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert names[int(np.argmax(shares))] == row["prediction"]
        assert row["label"] == names[int(row["index"]) % 10]
    assert [row["num_images"] for row in evaluation["per_class"]] == [3] * 10
    with Image.open(tmp_path / "misclassified.png") as image:
        assert image.size[0] > 96
    assert (tmp_path / "confusion.svg").read_text().startswith("<?xml")
    with (tmp_path / "confusion.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [[int(row[name]) for name in names] for row in rows] == counts.tolist()


def test_the_checkpoints_keys_can_be_overridden(run, moved, tmp_path):
    keys = ("data.num_test=10", "data.batch_size=3", "trainer=cpu")
    assert run("evaluate", f"ckpt_path={moved}", *keys, f"hydra.run.dir={tmp_path}").code == 0
    assert read_json(tmp_path / "evaluation.json")["num_images"] == 10


def test_predict_gives_the_networks_own_probabilities(run, moved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (image, *_), _ = read_split("test", 1)
    Image.fromarray(image).save("photo.png")
    result = run("predict", f"ckpt_path={moved}", "image=photo.png")
    assert result.code == 0, result.err
    assert [path.name for path in tmp_path.iterdir()] == ["photo.png"]
    assert run("evaluate", f"ckpt_path={moved}", "hydra.run.dir=evaluation").code == 0
    with open("evaluation/predictions.csv") as file:
        row = next(csv.DictReader(file))
    for name, share in row.items():
        if name.startswith("p("):
            line = next(line for line in result.out.splitlines() if f" {name[2:-1]} " in line)
            assert float(line.split()[1]) == pytest.approx(100 * float(share), abs=0.011)


def test_photos_of_any_size_and_mode_are_read(run, moved, tmp_path):
    for mode, size in (("L", (100, 60)), ("RGBA", (32, 32)), ("P", (7, 9))):
        path = tmp_path / f"{mode}.png"
        Image.new(mode, size, 7).save(path)
        assert run("predict", f"ckpt_path={moved}", f"image={path}").code == 0


def test_load_refuses_in_one_line(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        layerscope.load(tmp_path / "none.ckpt")
