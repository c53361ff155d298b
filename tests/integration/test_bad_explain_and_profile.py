"""Mistakes in what is explained or profiled: see test_bad_input."""

import errno
import os
from pathlib import Path

import pytest
from bad_input import BOMB, assert_refused, snapshot

OWN_CLASS = ["model=custom", "model._target_=pathlib.PurePath"]
# Of both scripts, which compose, build and write alike.
BOTH = {
    "unknown key": (["lyer=conv1"], "lyer is not a key"),
    "added key": (["+foo=1"], "foo is not a key"),
    "key of training": (["data.batch_size=3"], "did you mean batch_size"),
    "group of training": (["data=cifar10"], "data is not a key"),
    "trainer": (["trainer.max_epochs=5"], "leave it out"),
    "trainer as a group": (["trainer=cpu"], "trainer is no group"),
    "trainer, added": (["+trainer.foo=1"], "leave it out"),
    "unknown key of Hydra's": (["+hydra.run.foo=1"], "hydra.run.foo is not a key"),
    "unknown key of a place": (["+paths.foo=1"], "paths.foo is not a key"),
    "places empty": (["paths.outputs="], "paths.outputs= names no directory"),
    "directory empty": (["hydra.run.dir="], "hydra.run.dir= names no directory"),
    "directory under a file": (["hydra.run.dir=/dev/null/x"], "cannot be made"),
    "directory a file": (["hydra.run.dir={run}/run.json"], "is a file"),
    "another run": (["hydra.run.dir={run}"], "holds another run"),
    "sweep": (["-m", "batch_size=1,2"], "only train sweeps"),
    "list": (["batch_size=1,2"], "batch_size=1,2 is a sweep"),
    "twice": (["batch_size=1", "batch_size=2"], "batch_size is given 2 times"),
    "bracket": (["model.channels=[2"], "close each bracket"),
    "interpolation of itself": (["batch_size=${batch_size}"], "Recursive"),
    "no such folder": (["--config-dir", "nowhere"], "--config-dir nowhere"),
    "flag": (["--bach"], "--bach"),
    "batch 0": (["batch_size=0"], "batch_size=0"),
    "batch no number": (["batch_size=abc"], "batch_size=abc"),
    "batch empty": (["batch_size="], "batch_size="),
    "batch fraction": (["batch_size=1.5"], "batch_size=1.5"),
    "batch of all memory": (["batch_size=1000000000"], "lower"),
    "batch beyond counting": (["batch_size=99999999999999999999"], "batch_size=9999"),
    "dtype": (["dtype=float16"], "dtype=float16"),
    "dtype empty": (["dtype="], "dtype="),
    "mode": (["train=maybe"], "train=maybe"),
    "unknown network": (["model=resnet"], "options of model are"),
    "no network": (["model=null"], "options of model are"),
    "width 0": (["model.width=0"], "model.width=0"),
    "channels of all memory": (["model.channels=[65536,65536,65536]"], "parameters"),
    "classes": (["model.num_classes=abc"], "model.num_classes=abc"),
    "half a shape": (["model.input_shape=[1,8]"], "model.input_shape"),
    "torchvision name": (["model=torchvision", "model.name=resnet"], "no torchvision"),
    "no target": (["model=custom"], "model._target_ is missing"),
    "target not there": (["model=custom", "model._target_=no.Net"], "no.Net"),
    "target no module": (OWN_CLASS, "not an nn.Module"),
    "checkpoint missing": (["ckpt_path=nowhere.ckpt"], "does not exist"),
    "checkpoint a URL": (["ckpt_path=http://127.0.0.1/x.ckpt"], "only local files"),
    "checkpoint a directory": (["ckpt_path=."], "is a directory"),
    "checkpoint empty": (["ckpt_path="], "names no file"),
    "checkpoint a number": (["ckpt_path=5"], "ckpt_path=5: names no file"),
    "checkpoint of another network": (["ckpt_path={good}", "model=tiny_cnn"], "says which network"),
    "checkpoint, wider": (["ckpt_path={good}", "model.width=2.0"], "says which network"),
    "checkpoint, batch 0": (["ckpt_path={good}", "batch_size=0"], "batch_size=0"),
}  # fmt: skip
EXPLAIN = {
    "optimizer": (["optimizer.lr=abc"], "says nothing about an explanation"),
    "optimizer as a group": (["optimizer=adam"], "says nothing about an explanation"),
    "optimizer, added": (["+optimizer.foo=1"], "says nothing about an explanation"),
    "seed": (["seed=abc"], "seed=abc"),
    "seed negative": (["seed=-1"], "seed=-1"),
    "seed empty": (["seed="], "seed="),
    "batch of a long time": (["batch_size=1048577"], "lower batch_size"),
    "layers of a long time": (["model=cifar_cnn", "batch_size=400"], "the layers return"),
    "layer a number": (["layer=5"], "layer=5 is not there"),
    "layer a fraction": (["layer=2.1"], "two kinds of quotes"),
    "layer empty": (["layer="], "layer= is not there: choose one of conv1"),
    "layer that is none": (["layer=loss"], "layer=loss is not there"),
    "layer like another": (["layer=conv4"], "did you mean conv"),
    "position, too few": (["layer=conv1", "position=[0,0]"], "2 of 4 indices"),
    "position of no layer": (["position=[0,0,1,1]"], "layer="),
    "position a number": (["layer=conv1", "position=5"], "position=5: input should be a"),
    "position empty": (["layer=conv1", "position=[]"], "position=[]"),
    "position a fraction": (["layer=conv1", "position=[0,0,1.5,0]"], "position.2=1.5"),
    "position of a channel": (["layer=conv1", "position=[0,2,0,0]"], "2 is outside 0 to 1"),
    "position of an image": (["layer=conv1", "position=[1,0,0,0]"], "1 is outside 0 to 0"),
    "position far away": (["layer=conv1", f"position=[0,0,0,{10**20}]"], "is outside 0 to 7"),
    "position, too many": (["layer=conv1", "position=[0,0,0,0,0]"], "5 of 4 indices"),
    "position of an input": (["layer=conv1", "input_position=[0,1,0,0]"], "conv1 reads 1×1×8×8"),
    "input of no layer": (["input_position=[0,0,0,0]"], "layer="),
    "weight outside": (["layer=conv1", "weight_position=[2,0,0,0]"], "a weight of 2×1×3×3"),
    "weight of no layer": (["weight_position=[0,0,0,0]"], "layer="),
    "weight of a pooling": (["layer=pool1", "weight_position=[0]"], "no weight, leave it out"),
    "target negative": (["target=-1"], "target=-1"),
    "target null": (["target=null"], "target=null"),
    "target above": (["target=2"], "classes 0 to 1"),
    "learning rate no number": (["learning_rate=abc"], "learning_rate=abc"),
    "learning rate negative": (["learning_rate=-1"], "learning_rate=-1"),
    "learning rate nan": (["learning_rate=nan"], "learning_rate=nan"),
    "learning rate beyond float32": (["learning_rate=1e300"], "learning_rate=1e+300"),
    "analysis": (["analysis=maybe"], "analysis=maybe"),
    "loss": (["loss=hinge"], "options of loss are"),
    "smoothing": (["loss.label_smoothing=1"], "loss.label_smoothing=1"),
    "unknown key of the loss": (["+loss.foo=1"], "loss.foo is not a key"),
    "instance": (["instance="], "'random' or 'seed'"),
    "example of another network": (["instance=seed", "model=cifar_cnn"], "model=tiny_cnn only"),
    "example and a picture": (["instance=seed", "image=x.png"], "give ckpt_path"),
    "example and a checkpoint": (["instance=seed", "ckpt_path={good}"], "leave out ckpt_path"),
    "picture without a checkpoint": (["image=x.png"], "give ckpt_path"),
    "picture and many": (["image=x.png", "ckpt_path={good}", "batch_size=2"], "leave it out"),
    "checkpoint's layers": (["ckpt_path={good}", "layer=conv1"], "choose one of block1.conv"),
    "checkpoint's classes": (["ckpt_path={good}", "target=10"], "classes 0 to 9"),
    "checkpoint's loss": (["ckpt_path={good}", "loss.label_smoothing=7"], "label_smoothing=7"),
    "not the network's shape": (
        ["model=torchvision", "model.name=squeezenet1_0", "model.input_shape=[3,8,8]"],
        "SqueezeNet cannot run on this input",
    ),
}  # fmt: skip
PROFILE = {
    "optimizer": (["optimizer.lr=abc"], "optimizer.lr=abc"),
    "optimizer that is none": (["optimizer=adagrad"], "options of optimizer are"),
    "loss": (["loss=mse"], "says nothing about a profile"),
    "loss's key": (["loss.label_smoothing=0.1"], "says nothing about a profile"),
    "seed": (["seed=1"], "seed is not a key"),
    "shape with the batch": (["input_shape=[2,1,8,8]"], "the batch is batch_size"),
    "shape of nothing": (["input_shape=[]"], "input_shape=[]"),
    "shape too short": (["input_shape=[8]"], "cannot run on this input"),
    "shape a number": (["input_shape=8"], "input_shape=8: input should be a valid list"),
    "shape with a 0": (["input_shape=[0,8,8]"], "input_shape.0=0"),
    "device": (["device=tpu"], "device=tpu: give cpu"),
    "device empty": (["device="], "device=: give cpu"),
    "device of no memory": (["device=meta"], "device=meta: give cpu"),
    "processor of a number": (["device=cpu:9"], "device=cpu:9: give cpu"),
    "memory format": (["channels_last=maybe"], "channels_last=maybe"),
    "freeze": (["freeze=[block9]"], "freeze=block9"),
    "freeze nothing": (["freeze="], "freeze"),
    "freeze a number": (["freeze=[5]"], "freeze.0=5"),
    "gradient": (["input_requires_grad=5"], "input_requires_grad=5"),
    "instrument": (["instruments.clock=true"], "instruments.clock is not a key"),
    "instrument maybe": (["instruments.outputs=maybe"], "instruments.outputs=maybe"),
    "instruments a list": (["instruments=[time]"], "instruments=[time]"),
    "depth 0": (["depth=0"], "depth=0"),
    "tolerance": (["tolerance=-1"], "tolerance=-1"),
    "tolerance nan": (["tolerance=nan"], "tolerance=nan"),
    "tolerance of nothing": (["tolerance=0.5"], "give budget=FILE"),
    "budget missing": (["budget=nowhere.json"], "give a profile.json"),
    "budget empty": (["budget="], "names no file"),
    "budget a URL": (["budget=http://127.0.0.1/x.json"], "only local files"),
    "budget a directory": (["budget=."], "is no file: give a profile.json"),
    "budget another file": (["budget={run}/results.json"], "give a profile.json"),
    "budget no JSON": (["budget={run}/metrics.csv"], "give a profile.json"),
}  # fmt: skip
QUICK = {"explain": ["analysis=false"], "profile_model": ["model=tiny_cnn", "batch_size=2"]}
CASES = [(script, case) for script in QUICK for case in BOTH]
CASES += [("explain", case) for case in EXPLAIN] + [("profile_model", case) for case in PROFILE]


def typed(script, overrides):
    """What makes it quick, but for what these say otherwise."""
    chosen = {override.partition("=")[0] for override in overrides}
    own_network = any(key.split(".")[0] in ("model", "ckpt_path") for key in chosen)
    quick = [key for key in QUICK[script] if key.partition("=")[0] not in chosen]
    return [key for key in quick if not (own_network and key.startswith("model="))] + overrides


@pytest.mark.parametrize(("script", "case"), CASES)
def test_refused(script, case, run, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = EXPLAIN if script == "explain" else PROFILE
    overrides, hint = own[case] if case in own else BOTH[case]
    places = {"{good}": f"{finished}/checkpoints/best.ckpt", "{run}": str(finished)}
    for name, place in places.items():
        overrides = [override.replace(name, place) for override in overrides]
    before = snapshot(finished)
    result = run(script, *typed(script, overrides))
    if script == "profile_model":  # it has said that it begins where the network itself refuses
        result = type(result)(result.code, "", result.err)
    assert_refused(result, hint)
    assert list(tmp_path.iterdir()) == []
    assert snapshot(finished) == before


# A user's own file, model/mine.yaml: see test_bad_input for all that such a file can be.
FILES = {
    "tab": ("family:\n\t- 1", "mine.yaml, line 2: a tab"),
    "duplicate key": ("family: tiny_cnn\nfamily: tiny_cnn", "found duplicate key family"),
    "bomb": (BOMB, "more than 10,000 values"),
    "deep": ("channels: " + "[" * 500 + "]" * 500, "more than 40 levels"),
    "unknown family": ("family: resnet", "model.family=resnet: choose one of cifar_cnn,"),
    "no family": ("channels: [2, 4, 2]", "model.family is missing"),
    "wrong type": ("5", "mine.yaml holds a int"),
    "target": ("family: custom\n_target_: os.system\ninput_shape: [1, 8, 8]\nnum_classes: 2",
               "never taken from a file"),
    "recipe that is none": ("# @package _global_\ndefaults:\n  - override /optimizer: adagrad",
                            "options of optimizer are"),
}  # fmt: skip


@pytest.mark.parametrize("script", QUICK)
@pytest.mark.parametrize("case", FILES)
def test_a_users_file_is_refused(script, case, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    text, hint = FILES[case]
    (tmp_path / "model/mine.yaml").write_text(text)
    before = snapshot(tmp_path)
    assert_refused(run(script, "--config-dir", ".", *typed(script, ["model=mine"])), hint)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("script", QUICK)
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_where_nothing_can_be_written(script, number, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def refuse(self, *arguments, **keys):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    result = run(script, *typed(script, ["hydra.run.dir=new"]))
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert f"hydra.run.dir=new cannot be made, {os.strerror(number)}: choose" in result.err
    assert list(tmp_path.iterdir()) == []


BUDGETS = {
    "empty": b"", "text": b"hello", "another list": b"[]", "another object": b"{}", "null": b"null",
    "rows no list": b'{"format": 2, "settings": 5, "rows": 5}', "not UTF-8": b"\xff\xfe",
    "deep": b"[" * 100_000, "deep objects": b'{"a":' * 5_000, "a long number": b"1" * 5_000,
}  # fmt: skip


@pytest.mark.parametrize("name", BUDGETS)
def test_budgets_that_are_none(name, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("budget.json").write_bytes(BUDGETS[name])
    result = run("profile_model", *typed("profile_model", ["budget=budget.json"]))
    assert_refused(result, "budget=budget.json is no profile.json")
    assert [path.name for path in tmp_path.iterdir()] == ["budget.json"]


def test_an_old_profile_as_a_budget(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old = Path(__file__).parents[1] / "frozen/files/profile.json"
    result = run("profile_model", *typed("profile_model", [f"budget={old}"]))
    assert_refused(result, "save a new one")
    assert list(tmp_path.iterdir()) == []


def test_a_step_that_the_memory_does_not_hold(run, tmp_path, monkeypatch):
    """The system would end the process without a word."""
    monkeypatch.chdir(tmp_path)
    read_text = Path.read_text
    for room, words in ((1_024, "an input of shape"), (10_240, "one step takes")):
        told = f"MemAvailable: {room // 1024} kB"
        monkeypatch.setattr(
            Path,
            "read_text",
            lambda self, *args, told=told, **keys: (
                told if self.name == "meminfo" else read_text(self, *args, **keys)
            ),
        )
        result = run("profile_model", "model=tiny_cnn", "batch_size=20")
        assert (result.code, result.err.count("\n")) == (2, 1), result
        assert words in result.err
        assert f"{room:,} B are free" in result.err
    assert list(tmp_path.iterdir()) == []


def test_the_memory_that_there_is():
    from layerscope.measure.available import available_bytes

    assert available_bytes("meta") is None
    found = available_bytes("cpu")
    assert found is None or 2**20 < found < 2**50
