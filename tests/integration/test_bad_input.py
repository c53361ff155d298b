"""Each mistake: exit code 2, one line on stderr that names cause and mend, nothing on the disk."""

import pytest
import torch
from helpers import TINY

from layerscope.data import store
from layerscope.networks.cifar_cnn import CifarCNN

OWN_CLASS = ["model=custom", "model._target_=pathlib.PurePath"]

TRAIN = {
    "unknown key": (["trainer.max_epoch=3"], "did you mean trainer.max_epochs"),
    "unknown top-level key": (["sed=1"], "did you mean seed"),
    "key without its group": (["max_epochs=3"], "trainer.max_epochs"),
    "key of another option": (["optimizer=adam", "optimizer.momentum=0.9"], "optimizer.momentum"),
    "unknown option": (["model=resnet"], "cifar_cnn"),
    "unknown group": (["modl=cifar_cnn"], "did you mean model"),
    "not a number": (["optimizer.lr=abc"], "optimizer.lr=abc"),
    "empty value": (["optimizer.lr="], "optimizer.lr"),
    "negative": (["optimizer.lr=-0.1"], "optimizer.lr=-0.1: input should be greater than 0"),
    "infinite": (["optimizer.lr=inf"], "optimizer.lr=inf"),
    "nan": (["optimizer.lr=nan"], "optimizer.lr=nan"),
    "zero": (["data.batch_size=0"], "data.batch_size=0"),
    "fraction": (["trainer.max_epochs=1.5"], "trainer.max_epochs=1.5"),
    "out of range": (["loss.label_smoothing=1.5"], "loss.label_smoothing=1.5"),
    "limit above all": (["trainer.limit_val_batches=1.5"], "trainer.limit_val_batches=1.5"),
    "seed": (["seed=one"], "seed=one"),
    "precision": (["trainer.precision=16"], "'32-true', 'bf16-mixed' or 'auto'"),
    "twice": (["seed=1", "seed=2"], "seed is given 2 times"),
    "bracket": (["model.channels=[4,8"], "model.channels"),
    "no equals sign": (["model"], "model"),
    "unknown flag": (["--modle"], "--modle"),
    "list without -m": (["seed=0,1"], "seed"),
    "more than the set": (["data.batch_size=65"], "data.batch_size=65"),
    "pooled to nothing": (["model.input_shape=[3,4,4]"], "model.input_shape"),
    "tiny_cnn on RGB": (["model=tiny_cnn", "model.input_shape=[3,32,32]"], "model.input_shape"),
    "classes with no image": (
        ["model.num_classes=2", "data.groups={a:[ship],b:[truck]}", "data.num_test=3"],
        "test split",
    ),
    "crop beyond the image": (["data.crop_padding=40"], "data.crop_padding=40"),
    "momentum for Nesterov": (["optimizer=sgd", "optimizer.momentum=0.0"], "optimizer.nesterov"),
    "no job": (["-m", "seed=range(0,0)"], "no job"),
    "short last batch for two": (
        ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "data.drop_last=false"],
        "share equally",
    ),
    "flag of no use": (["--config-path", "/nowhere"], "--config-dir"),
    "bad override to show": (["--cfg", "job", "foo=1"], "foo is not a key"),
    "another image size": (["data.image_size=16"], "model.input_shape=[3,16,16]"),
    "classes": (["model.num_classes=7"], "data.groups"),
    "even kernel": (["model.kernel_size=2"], "model.kernel_size=2"),
    "torchvision name": (["model=torchvision", "model.name=resnet"], "model.name=resnet"),
    "torchvision size": (["model=torchvision", "model.name=alexnet"], "model.input_shape"),
    "no target": (["model=custom"], "model._target_ is missing"),
    "target not there": (["model=custom", "model._target_=no.Net"], "model._target_=no.Net"),
    "target no module": (OWN_CLASS, "not an nn.Module"),
    "gpu": (["trainer=gpu"], "trainer=cpu"),
    "devices": (["trainer.devices=2"], "trainer=ddp"),
    "package": (["logger=mlflow"], "pip install mlflow"),
    "checkpoint missing": (["ckpt_path=nowhere.ckpt"], "ckpt_path=nowhere.ckpt does not exist"),
    "checkpoint a URL": (["ckpt_path=http://127.0.0.1/x.ckpt"], "only local files"),
    "checkpoint a directory": (["ckpt_path=."], "is a directory"),
    "ddp in a sweep": (
        ["-m", "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", "seed=0,1"],
        "trainer=ddp_spawn",
    ),
    "one wrong job of a sweep": (["-m", "model.width=0.5,-1"], "model.width=-1"),
}


@pytest.fixture
def _in_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


def assert_refused(result, hint):
    assert result.code == 2, result
    assert result.out == ""
    assert result.err.count("\n") == 1, result.err
    assert hint in result.err
    assert "Traceback" not in result.err


@pytest.mark.usefixtures("_in_empty_directory")
@pytest.mark.parametrize("case", TRAIN)
def test_train_refuses(case, run):
    if case == "gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    overrides, hint = TRAIN[case]
    chosen = {override.partition("=")[0] for override in overrides}
    has_own_network = any(key.startswith("model") for key in chosen)
    if "optimizer=adam" in overrides or "optimizer=sgd" in overrides:
        chosen |= {"optimizer.lr", "optimizer.sgd_lr"}
    repeated = chosen if case != "twice" else set()
    given = [
        key
        for key in TINY
        if key.partition("=")[0] not in repeated
        and not (has_own_network and key.startswith(("model.", "optimizer.")))
    ]
    assert_refused(run("train", *given, *overrides), hint)


@pytest.mark.usefixtures("_in_empty_directory")
@pytest.mark.parametrize(
    "override",
    ["data.batch_size=32", "seed=1", "optimizer.lr=0.5", "data.drop_last=false", "loss=mse"],
)
def test_a_resume_that_would_not_go_on_is_refused(override, run, finished):
    name = override.partition("=")[0]
    keys = [key for key in TINY if key.partition("=")[0] != name]
    keys = ["trainer.max_epochs=4" if key.startswith("trainer.max_epochs") else key for key in keys]
    last = f"ckpt_path={finished}/checkpoints/last.ckpt"
    assert_refused(run("train", *keys, override, last), "give the same again")


@pytest.mark.usefixtures("_in_empty_directory")
def test_a_directory_that_cannot_be_made_is_the_commands_fault(run):
    assert_refused(run("train", *TINY, "hydra.run.dir=/dev/null/run"), "hydra.run.dir")


@pytest.mark.usefixtures("_in_empty_directory")
def test_no_source_of_the_data_is_reachable(run, monkeypatch):
    monkeypatch.setattr(store, "find_sources", lambda directory: [])
    monkeypatch.setattr(store.prepare_cifar10, "__defaults__", (lambda directory: [],))
    result = run("train", "data.dir=data", "trainer=cpu")
    assert_refused(result, "data=synthetic")


@pytest.mark.usefixtures("_in_empty_directory")
def test_a_directory_that_holds_a_run_is_not_written_over(run, finished):
    assert_refused(run("train", *TINY, f"hydra.run.dir={finished}"), "holds another run")


def broken_checkpoints(directory, good):
    """Name to path of files that are no checkpoint of ours."""
    content = good.read_bytes()
    files = {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "script": b"export A=1\nexport B=2\n",
        "html": b"<!doctype html><title>404</title>",
        "text": b"hello",
    }
    for name, data in files.items():
        (directory / f"{name}.ckpt").write_bytes(data)
    torch.save(CifarCNN().state_dict(), directory / "plain state.ckpt")
    torch.save({"state_dict": CifarCNN().state_dict()}, directory / "not ours.ckpt")
    torch.save(CifarCNN(), directory / "pickled module.ckpt")
    checkpoint = torch.load(good, weights_only=True)
    checkpoint["layerscope"]["format"] = 99
    torch.save(checkpoint, directory / "newer.ckpt")
    without = {**checkpoint, "layerscope": {**checkpoint["layerscope"], "preprocessing": {}}}
    without["layerscope"]["format"] = 1
    torch.save(without, directory / "no view.ckpt")
    checkpoint["layerscope"]["format"] = 1
    checkpoint["layerscope"]["config"]["model"]["channels"] = [4, 8, 16]
    torch.save(checkpoint, directory / "other network.ckpt")
    return sorted(directory.glob("*.ckpt"))


@pytest.mark.parametrize("script", ["train", "evaluate", "predict"])
def test_checkpoints_that_are_none(script, run, finished, tmp_path, monkeypatch):
    paths = broken_checkpoints(tmp_path, finished / "checkpoints/best.ckpt")
    assert len(paths) == 11
    empty = tmp_path / "cwd"
    empty.mkdir()
    monkeypatch.chdir(empty)
    keys = TINY if script == "train" else ("image=x.png",) if script == "predict" else ()
    for path in paths:
        if script == "train" and path.stem == "other network":
            continue  # training compares the weights with the command's network, not its words
        quoted = f"ckpt_path='{path}'"
        assert_refused(run(script, *keys, quoted), "checkpoint")
    assert list(empty.iterdir()) == []


def test_a_resume_with_another_network_is_refused(run, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = [key for key in TINY if not key.startswith("model.")]
    checkpoint = f"ckpt_path={finished}/checkpoints/last.ckpt"
    assert_refused(run("train", *keys, checkpoint), "model.channels was [4, 8, 8]")
    assert_refused(run("train", *keys, checkpoint, "allow_changes=true"), "another architecture")


@pytest.mark.usefixtures("_in_empty_directory")
@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        ((), "ckpt_path is missing"),
        (("ckpt_path={good}", "data.batchsize=3"), "data.batchsize is not a key"),
        (("ckpt_path={good}", "data.batch_size=0"), "data.batch_size=0"),
        (("ckpt_path={good}", "trainer=tpu"), "options of trainer"),
        (("ckpt_path={good}", "trainer=gpu"), "trainer=cpu"),
        (("ckpt_path={good}", "-m"), "leave out -m"),
        (("ckpt_path={good}", "data.grayscale=true"), "data.grayscale"),
        (("ckpt_path={good}", "model.num_classes=2"), "model.num_classes"),
        (("ckpt_path={good}", "model=tiny_cnn"), "data or trainer"),
    ],
)
def test_evaluate_refuses(overrides, hint, run, finished):
    good = finished / "checkpoints/best.ckpt"
    result = run("evaluate", *(override.format(good=good) for override in overrides))
    assert_refused(result, hint)


def test_predict_refuses(run, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.png").write_text("hello")
    checkpoint = f"ckpt_path={finished}/checkpoints/best.ckpt"
    assert_refused(run("predict", checkpoint), "image is missing")
    assert_refused(run("predict", checkpoint, "image=none.png"), "does not exist")
    assert_refused(run("predict", checkpoint, "image=text.png"), "no picture")


def test_a_target_in_a_checkpoint_is_never_imported(run, finished, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    checkpoint = torch.load(finished / "checkpoints/best.ckpt", weights_only=True)
    checkpoint["layerscope"]["config"]["model"] = {
        "family": "custom", "_target_": "evil.Net", "input_shape": [3, 32, 32], "num_classes": 10,
    }  # fmt: skip
    checkpoint["layerscope"]["format"] = 1  # which had no checksum
    torch.save(checkpoint, tmp_path / "evil.ckpt")
    assert_refused(run("evaluate", "ckpt_path=evil.ckpt"), "never taken from a file")
    assert not (tmp_path / "ran").exists()
