"""Each mistake: exit code 2, one line on stderr that names cause and mend, nothing on the disk."""

import errno
import os
import socket
from pathlib import Path

import pytest
import torch
from bad_input import BOMB, IMAGES, assert_refused, broken_checkpoints, snapshot
from helpers import TINY
from PIL import Image

from layerscope.training.checkpoint_files import save_sealed

OWN_CLASS = ["model=custom", "model._target_=pathlib.PurePath"]
TWO_PROCESSES = ["trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2"]

TRAIN = {
    "unknown key": (["trainer.max_epoch=3"], "did you mean trainer.max_epochs"),
    "unknown top-level key": (["sed=1"], "did you mean seed"),
    "added key": (["+foo=1"], "foo is not a key"),
    "key without its group": (["max_epochs=3"], "trainer.max_epochs"),
    "key of another option": (["optimizer=adam", "optimizer.momentum=0.9"], "optimizer.momentum"),
    "unknown option": (["model=resnet"], "cifar_cnn"),
    "option outside": (["model=../../secret"], "cifar_cnn"),
    "no option": (["model=null"], "options of model are"),
    "unknown group": (["modl=cifar_cnn"], "did you mean model"),
    "options that are none": (["optimizer=[1]"], "optimizer are adam,"),
    "group without option": (["model={a:1}"], "options of model are"),
    "group chosen twice": (["+optimizer=adam"], "without +"),
    "added below a group": (["+trainer.foo=1"], "trainer.foo is not a key"),
    "unknown key of Hydra's": (["+hydra.run.foo=1"], "hydra.run.foo is not a key"),
    "unknown section of Hydra's": (["+hydra.foo=1"], "hydra.foo is not a key"),
    "unknown key of a place": (["+paths.foo=1"], "paths.foo is not a key"),
    "unknown key of a recipe": (["+experiment.foo=1"], "# @package _global_"),
    "group as a key": (["optimizer@model=sgd"], "is not a key"),
    "removed key": (["~seed"], "seed is missing"),
    "removed and never there": (["~sead"], "sead"),
    "not a number": (["optimizer.lr=abc"], "optimizer.lr=abc"),
    "empty value": (["optimizer.lr="], "optimizer.lr"),
    "lr 0": (["optimizer.lr=0"], "optimizer.lr=0: input should be greater than 0"),
    "negative": (["optimizer.lr=-0.1"], "optimizer.lr=-0.1: input should be greater than 0"),
    "infinite": (["optimizer.lr=inf"], "optimizer.lr=inf"),
    "nan": (["optimizer.lr=nan"], "optimizer.lr=nan"),
    "beyond float32": (["optimizer.lr=1e39"], "optimizer.lr=1e+39"),
    "growing beyond it": (["scheduler=milestones", "scheduler.factor=1e9"], "scheduler.factor"),
    "steps for a day": (["optimizer.newton_schulz_steps=1000000"], "newton_schulz_steps=1000000"),
    "null": (["optimizer.lr=null"], "optimizer.lr=null"),
    "zero": (["data.batch_size=0"], "data.batch_size=0"),
    "list for a number": (["seed=[1,2]"], "seed="),
    "truth for a number": (["trainer.max_epochs=true"], "trainer.max_epochs=true"),
    "fraction": (["trainer.max_epochs=1.5"], "trainer.max_epochs=1.5"),
    "more than torch counts": (["trainer.max_epochs=99999999999999999999"], "trainer.max_epochs"),
    "more than the memory": (["data.num_train=99999999999999"], "data.num_train"),
    "more threads than work": (["trainer.threads=100000000"], "trainer.threads"),
    "a network of all memory": (["model.channels=[65536,65536,65536]"], "model.channels"),
    "out of range": (["loss.label_smoothing=1.5"], "loss.label_smoothing=1.5"),
    "limit above all": (["trainer.limit_val_batches=1.5"], "trainer.limit_val_batches=1.5"),
    "seed": (["seed=one"], "seed=one"),
    "seed fraction": (["seed=1.5"], "seed=1.5"),
    "seed negative": (["seed=-1"], "seed=-1"),
    "seed too large": (["seed=4294967296"], "seed=4294967296"),
    "missing marker": (["seed=???"], "seed is missing"),
    "precision": (["trainer.precision=16"], "'32-true', 'bf16-mixed' or 'auto'"),
    "twice": (["seed=1", "seed=2"], "seed is given 2 times"),
    "twice, once added": (["seed=1", "++seed=2"], "seed is given 2 times"),
    "bracket": (["model.channels=[4,8"], "model.channels"),
    "brace": (["data.groups={a:[cat]"], "data.groups"),
    "spaces": (["seed = 1"], "leave out the spaces"),
    "function": (["seed=sort(1,a)"], "quote the value if it is a text"),
    "quote": (["ckpt_path='last.ckpt"], "ckpt_path"),
    "deep": (["optimizer.lr=" + "[" * 300 + "]" * 300], "more than 40 levels deep"),
    "a number of a book": (["seed=" + "1" * 5000], "4300 digits"),
    "no equals sign": (["model"], "model"),
    "no key": (["=1"], "=1 names no key"),
    "nothing": ([""], "write KEY=VALUE"),
    "a line break": (["seed=1\n2"], "seed=1 2"),
    "interpolation of nothing": (["seed=${nowhere}"], "seed: Interpolation key 'nowhere'"),
    "interpolation of itself": (["seed=${seed}"], "seed: Recursive"),
    "unset variable": (["seed=${oc.env:LAYERSCOPE_NOT_SET}"], "LAYERSCOPE_NOT_SET"),
    "unknown flag": (["--modle"], "--modle"),
    "list without -m": (["seed=0,1"], "seed=0,1 is a sweep"),
    "range without -m": (["seed=range(0,3)"], "is a sweep"),
    "nothing of a group": (["loss="], "options of loss are cross_entropy,"),
    "number for a group": (["loss=5"], "options of loss are"),
    "variant that is none": (["loss.name=hinge"], "loss.name=hinge: choose one of cross_entropy,"),
    "more than the set": (["data.batch_size=65"], "data.batch_size=65"),
    "pooled to nothing": (["model.input_shape=[3,4,4]"], "model.input_shape"),
    "tiny_cnn on RGB": (["model=tiny_cnn", "model.input_shape=[3,32,32]"], "model.input_shape"),
    "classes with no image": (
        ["model.num_classes=2", "data.groups={a:[ship],b:[truck]}", "data.num_test=3"],
        "test split",
    ),
    "no such class": (["model.num_classes=2", "data.groups={a:[dog],b:[wolf]}"], "wolf"),
    "crop beyond the image": (["data.crop_padding=40"], "data.crop_padding=40"),
    "momentum for Nesterov": (["optimizer=sgd", "optimizer.momentum=0.0"], "optimizer.nesterov"),
    "short last batch for two": ([*TWO_PROCESSES, "data.drop_last=false"], "share equally"),
    "flag of no use": (["--config-path", "/nowhere"], "--config-dir"),
    "no such folder": (["--config-dir", "nowhere"], "--config-dir nowhere"),
    "no such file": (["--config-name", "nowhere"], "nowhere"),
    "bad override to show": (["--cfg", "job", "foo=1"], "foo is not a key"),
    "another image size": (["data.image_size=16"], "model.input_shape=[3,16,16]"),
    "classes": (["model.num_classes=7"], "data.groups"),
    "even kernel": (["model.kernel_size=2"], "model.kernel_size=2"),
    "torchvision name": (["model=torchvision", "model.name=resnet"], "model.name=resnet"),
    "torchvision size": (["model=torchvision", "model.name=alexnet"], "model.input_shape"),
    "no target": (["model=custom"], "model._target_ is missing"),
    "target not there": (["model=custom", "model._target_=no.Net"], "model._target_=no.Net"),
    "target of a package": (["model=custom", "model._target_=..Net"], "give module.Class"),
    "target that ends": (["model=custom", "model._target_=sys.exit"], "sys.exit"),
    "target no module": (OWN_CLASS, "not an nn.Module"),
    "gpu": (["trainer=gpu"], "trainer=cpu"),
    "no such device": (["trainer.accelerator=tpu"], "trainer.accelerator=tpu"),
    "devices": (["trainer.devices=2"], "trainer=ddp"),
    "package": (["logger=mlflow"], "pip install mlflow"),
    "tracker": (["logger=[tensorboard,neptune]"], "options of logger are csv, mlflow,"),
    "tracker's key": (["logger=tensorboard", "logger.wandb.project=a"], "logger.wandb.project is"),
    "tracker's password": (
        ["logger=mlflow", "logger.mlflow.uri=http://me:secret@host"], "set MLFLOW_TRACKING_URI",
    ),
    "checkpoint missing": (["ckpt_path=nowhere.ckpt"], "ckpt_path=nowhere.ckpt does not exist"),
    "checkpoint a URL": (["ckpt_path=http://127.0.0.1/x.ckpt"], "only local files"),
    "checkpoint a directory": (["ckpt_path=."], "is a directory"),
    "checkpoint of no name": (["ckpt_path="], "ckpt_path=: names no file, give its path"),
    "checkpoint of a long name": ([f"ckpt_path={'x' * 300}.ckpt"], "does not exist"),
    "resume where": (["resume=auto"], "hydra.run.dir=DIR"),
    "resume how": (["resume=yes"], "resume=yes"),
    "resume and a checkpoint": (
        ["resume=auto", "hydra.run.dir=run", "ckpt_path=x.ckpt"], "leave out ckpt_path",
    ),
    "directory empty": (["hydra.run.dir="], "hydra.run.dir= names no directory"),
    "directory null": (["hydra.run.dir=null"], "hydra.run.dir=null: "),
    "directory a URL": (["hydra.run.dir=s3://x/y"], "names no local directory"),
    "directory of a long name": ([f"hydra.run.dir={'x' * 300}"], "too long"),
    "places empty": (["paths.outputs="], "paths.outputs= names no directory"),
    "places null": (["paths.outputs=null"], "paths.outputs=null names no directory"),
    "directory of nothing": (["hydra.run.dir=${nowhere}"], "hydra.run.dir"),
    "mode": (["hydra.mode=MULTIRUN"], "-m makes a sweep"),
    "search path": (["hydra.searchpath=[pkg://os]"], "--config-dir"),
    "no job": (["-m", "seed=range(0,0)"], "no job"),
    "empty choice": (["-m", "seed=choice()"], "seed=choice()"),
    "step of nothing": (["-m", "seed=range(0,3,0)"], "the sweep cannot be made"),
    "endless": (["-m", "seed=range(0,1000)", "data.batch_size=range(1,99)"], "10,000 jobs"),
    "swept and fixed": (["-m", "seed=0,1", "seed=3"], "seed is given 2 times"),
    "ddp in a sweep": (["-m", *TWO_PROCESSES, "seed=0,1"], "trainer=ddp_spawn"),
    "one wrong job of a sweep": (["-m", "model.width=0.5,-1"], "model.width=-1"),
    "one folder for all jobs": (["-m", "seed=0,1", "hydra.sweep.subdir=x"], "hydra.sweep.subdir"),
    "folders outside": (["-m", "seed=0,1", "hydra.sweep.subdir=../x"], "hydra.sweep.subdir"),
    "swept, a range of reals": (["-m", "seed=interval(0,1)"], "lists no values"),
    "sweep of no name": (["-m", "seed=0,1", "hydra.sweep.dir="], "hydra.sweep.dir= names no"),
    "unknown key of a launcher": (
        ["-m", "seed=0,1", "+hydra.launcher.foo=1"], "hydra.launcher.foo is not a key",
    ),
    "unknown key of a sweeper": (
        ["-m", "seed=0,1", "+hydra.sweeper.foo=1"], "hydra.sweeper.foo is not a key",
    ),
    "no jobs at once": (["-m", "seed=0,1", "hydra.sweeper.max_batch_size=0"], "max_batch_size=0"),
    "unknown sweeper": (["-m", "seed=0,1", "hydra/sweeper=optuna"], "hydra/sweeper"),
}  # fmt: skip

REFERENCES = "\n".join(
    ["a0: xxxxxxxxxx"] + [f"a{i}: '" + f"${{a{i - 1}}}" * 9 + "'" for i in range(1, 12)]
)
# A user's own file, experiment/bad.yaml: its text and what the line on stderr says.
FILES = {
    "tab": ("seed:\n\t- 1", "bad.yaml, line 3: a tab"),
    "duplicate key": ("seed: 1\nseed: 2", "bad.yaml, line 3: found duplicate key seed"),
    "unresolved": ("seed: ${nowhere}", "seed: Interpolation key 'nowhere'"),
    "loop": ("data: {dir: '${ckpt_path}'}\nckpt_path: ${data.dir}", "Recursive"),
    "half an interpolation": ("seed: ${", "'${'"),
    "bomb of aliases": (BOMB, "more than 10,000 values"),
    "bomb of references": (REFERENCES, "1,000 times"),
    "alias in itself": ("seed: &a [*a]", "bad.yaml, line 2: an alias stands for what it is in"),
    "deep": ("seed: " + "[" * 5000 + "]" * 5000, "more than 40 levels"),
    "long": ("seed: [" + "1," * 20_000 + "]", "more than 10,000 values"),
    "large": ("#" + "x" * 2**20, "1,048,576 bytes"),
    "wrong type": ("trainer: 5", "trainer.max_epochs is not a key"),
    "a list": ("- 1\n- 2", "holds a list"),
    "a sentence": ("hello", "holds a str"),
    "two documents": ("seed: 1\n---\nseed: 2", "another document"),
    "key no word": ("1: 2", "keys should be strings"),
    "null key": ("~: 2", "NoneType"),
    "unknown key": ("sed: 1", "sed is not a key"),
    "nested unknown key": ("trainer: {max_epoch: 1}", "trainer.max_epoch is not a key"),
    "not UTF-8": (b"seed: \xff", "not UTF-8"),
    "a zero byte": ("seed: \0", "special characters"),
    "python tag": ("seed: !!python/object/apply:os.system ['touch ran']", "bad.yaml, line 2"),
    "unknown tag": ("seed: !net 1", "!net"),
    "no header": ("seed: 1", "an experiment's file begins with # @package _global_"),
    "header": ("# @package a b\nseed: 1", "Too many components"),
    "group that is not there": ("defaults:\n  - /nowhere: x", "nowhere/x"),
    "refers to itself": ("defaults:\n  - bad", "refers to itself"),
    "target": ("optimizer: {_target_: os.system}", "for optimizer=custom"),
    "target of a network": (
        "model: {family: custom, _target_: os.system}", "never taken from a file",
    ),
    "swept and fixed": ("hydra: {sweeper: {params: {seed: '1,2'}}}", "seed is given 2 times"),
    "mark before the header": (b"\xef\xbb\xbf# @package _global_\nseed: -1", "seed=-1"),
    "unknown key of Hydra's": ("hydra: {run: {foo: 1}}", "experiment/bad.yaml: Key 'foo' not in"),
    "nothing of Hydra's": ("hydra: null", "bad.yaml: hydra=null"),
    "list for a group": ("model: []", "experiment/bad.yaml: Cannot merge"),
    "callback": ("hydra: {callbacks: {x: {_target_: os.system}}}", "hydra.callbacks"),
    "logging": ("hydra: {job_logging: {root: {handlers: [x]}}}", "job_logging"),
    "environment": ("hydra: {job: {env_set: {A: b}}}", "hydra.job.env_set"),
    "launcher": ("hydra: {launcher: {_target_: os.system}}", "hydra.launcher._target_=os.system"),
    "sweeper": ("hydra: {sweeper: {_target_: os.system}}", "hydra.sweeper._target_=os.system"),
}  # fmt: skip


@pytest.fixture
def _in_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    assert list(tmp_path.iterdir()) == []


def command_with(overrides):
    """TINY, but for what these say otherwise."""
    chosen = {override.partition("=")[0].lstrip("+~") for override in overrides}
    has_own_network = any(key.startswith("model") for key in chosen)
    if any(override.startswith("optimizer=") for override in overrides):
        chosen |= {"optimizer.lr", "optimizer.sgd_lr"}
    kept = [
        key
        for key in TINY
        if key.partition("=")[0] not in chosen
        and not (has_own_network and key.startswith(("model.", "optimizer.")))
    ]
    return [*kept, *overrides]


@pytest.mark.usefixtures("_in_empty_directory")
@pytest.mark.parametrize("case", TRAIN)
def test_train_refuses(case, run):
    if case in ("gpu", "devices") and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    overrides, hint = TRAIN[case]
    assert_refused(run("train", *command_with(overrides)), hint)


@pytest.mark.parametrize("case", FILES)
def test_a_users_file_is_refused(case, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text, hint = FILES[case]
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/bad.yaml").write_bytes(
        b"# @package _global_\n" * ("header" not in case) + content
    )
    before = snapshot(tmp_path)
    sweeps = ["-m", "seed=5"] if case in ("swept and fixed", "launcher", "sweeper") else []
    assert_refused(run("train", "--config-dir", ".", *TINY, "experiment=bad", *sweeps), hint)
    assert snapshot(tmp_path) == before


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
    assert_refused(run("train", *keys, override, last), "give the same")


# Of data and output: what is done to the empty directory, the overrides, the hint.
PLACES = {
    "under a file": (["hydra.run.dir=/dev/null/run"], "hydra.run.dir"),
    "a file": (["hydra.run.dir=taken"], "taken is a file"),
    "another run": (["hydra.run.dir=used"], "holds another run"),
    "another sweep": (["-m", "seed=0,1", "hydra.sweep.dir=used"], "holds another run"),
    "data in a file": (["data=cifar10", "data.dir=taken"], "data.dir="),
    "nothing of the data": (["data=cifar10", "data.dir=none"], "data=synthetic"),
    "data of no name": (["data=cifar10", "data.dir="], "data.dir=: names no file"),
    "data a URL": (["data=cifar10", "data.dir=http://127.0.0.1/x"], "only local files"),
    "data of a long name": (["data=cifar10", f"data.dir={'x' * 300}"], "data.dir="),
    "batches missing": (["data=cifar10", "data.dir=batches"], "test_batch is missing"),
    "wrong sums": (["data=cifar10", "data.dir=wrong"], "wrong md5"),
    "arrays of another shape": (["data=cifar10", "data.dir=shape"], "data=synthetic"),
    "labels out of range": (["data=cifar10", "data.dir=labels"], "data=synthetic"),
}


@pytest.fixture(scope="session")
def places(tmp_path_factory):
    """What somebody may point a run at."""
    import numpy as np

    folder = tmp_path_factory.mktemp("places")
    for name in ("used", "batches", "wrong", "shape", "labels"):
        (folder / name).mkdir()
    (folder / "taken").write_text("mine")
    (folder / "used/run.json").write_text("{}")
    (folder / "used/multirun.yaml").write_text("{}")
    for number in range(1, 6):
        (folder / f"batches/data_batch_{number}").write_bytes(b"")
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / "wrong" / name).write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    for name, size, label in (("shape", 31, 0), ("labels", 32, 11)):
        for part in ("train", "test"):
            np.save(folder / name / f"{part}_images.npy", np.zeros((9, size, size, 3), np.uint8))
            np.save(folder / name / f"{part}_labels.npy", np.full(9, label, np.uint8))
    return folder


@pytest.fixture
def _offline(monkeypatch):
    """Neither the official server nor npm is reached."""

    def unreachable(*_, **__):
        raise OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH))

    monkeypatch.setattr(socket, "getaddrinfo", unreachable)
    monkeypatch.setenv("PATH", "")


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize("case", PLACES)
def test_a_place_is_refused(case, run, places, monkeypatch):
    monkeypatch.chdir(places)
    overrides, hint = PLACES[case]
    keys = [key for key in TINY if "cifar10" not in str(overrides) or not key.startswith("data")]
    before = snapshot(places)
    result = run("train", *keys, *overrides)
    assert result.code == 2, result
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert hint in result.err
    assert snapshot(places) == before


@pytest.mark.usefixtures("_offline")
@pytest.mark.parametrize("case", [case for case in PLACES if "data" in str(PLACES[case][0])])
def test_data_that_is_none_is_refused_to_an_evaluation(case, run, finished, places, monkeypatch):
    monkeypatch.chdir(places)
    overrides, hint = PLACES[case]
    before = snapshot(places)
    checkpoint = f"ckpt_path={finished}/checkpoints/best.ckpt"
    result = run("evaluate", checkpoint, *overrides)
    assert (result.code, result.err.count("\n")) == (2, 1), result
    assert hint in result.err
    assert snapshot(places) == before


@pytest.mark.usefixtures("_in_empty_directory")
@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_where_nothing_can_be_written(number, run, finished, monkeypatch):
    def refuse(self, *arguments, **keys):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert_refused(
        run("train", *TINY, "hydra.run.dir=run"), f"cannot be made, {os.strerror(number)}: choose"
    )
    result = run("train", "-m", *TINY, "seed=0,1", "hydra.sweep.dir=sweep")
    assert_refused(result, f"hydra.sweep.dir=sweep cannot be made, {os.strerror(number)}: choose")
    result = run("evaluate", f"ckpt_path={finished}/checkpoints/best.ckpt", "hydra.run.dir=run")
    assert_refused(result, f"hydra.run.dir=run cannot be made, {os.strerror(number)}: choose")
    result = run("train", "data.dir=data", "trainer=cpu")
    assert_refused(result, "set data.dir or LAYERSCOPE_DATA_DIR")


@pytest.fixture(scope="session")
def broken(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("broken")
    return folder, broken_checkpoints(folder, finished / "checkpoints/last.ckpt")


# Of each step that opening a checkpoint takes, for scripts that take them as another one does.
OF_EACH_KIND = ("flipped", "html", "plain state", "newer", "another shape", "not finite")


@pytest.mark.parametrize("script", ["train", "evaluate", "predict", "profile_model", "explain"])
def test_checkpoints_that_are_none(script, run, broken, tmp_path, monkeypatch):
    folder, hints = broken
    keys = TINY if script == "train" else ("image=x.png",) if script == "predict" else ()
    monkeypatch.chdir(tmp_path)
    assert len(hints) == len(list(folder.iterdir())) == 19
    if script not in ("train", "evaluate"):  # which open one as evaluate does
        hints = {name: hints[name] for name in OF_EACH_KIND}
    for name, hint in hints.items():
        quoted = f"ckpt_path='{folder / name}.ckpt'"
        assert_refused(run(script, *keys, quoted), hint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_in_empty_directory")
def test_another_network_or_no_optimizer_is_nothing_to_go_on_from(run, finished, tmp_path_factory):
    last = finished / "checkpoints/last.ckpt"
    networks = [key for key in TINY if not key.startswith(("model.", "trainer.max"))]
    more = [*networks, "trainer.max_epochs=4", "allow_changes=true"]
    hint = "another architecture"
    for override in ("model.channels=[4,8,16]", "model.num_classes=2"):
        assert_refused(run("train", *more, override, f"ckpt_path={last}"), hint)
    checkpoint = torch.load(last, weights_only=True)
    del checkpoint["optimizer_states"]
    weights = tmp_path_factory.mktemp("weights") / "only.ckpt"
    save_sealed(weights, checkpoint)
    assert_refused(run("train", *TINY, f"ckpt_path={weights}"), "no optimizer to resume with")


@pytest.mark.parametrize("script", ["predict", "explain"])
def test_pictures_that_are_none(script, run, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, (content, _) in IMAGES.items():
        Path(name).mkdir() if content is None else Path(name).write_bytes(content)
    Image.new("I;16", (8, 8)).save("deep.png")
    os.mkfifo("pipe")  # which nobody writes to
    before = [path.name for path in sorted(tmp_path.iterdir())]
    checkpoint = f"ckpt_path={finished}/checkpoints/best.ckpt"
    hints = {name: hint for name, (_, hint) in IMAGES.items()} | {
        "deep.png": "more than 8 bits", "pipe": "is no file", "none.png": "does not exist",
        "": "names no file", "[a]": "image=[a]", "5": "image=5",
        "http://127.0.0.1/x.png": "only local files", "x" * 300 + ".png": "File name too long",
    }  # fmt: skip
    if script == "explain":  # which reads one as predict does
        hints = {name: hints[name] for name in ("text.png", "large.png", "folder", "pipe", "", "5")}
    for name, hint in hints.items():
        assert_refused(run(script, checkpoint, f"image={name}"), hint)
    assert [path.name for path in sorted(tmp_path.iterdir())] == before


EVALUATE = [
    ((), "ckpt_path is missing"),
    (("ckpt_path=null",), "ckpt_path=null: names no file"),
    (("ckpt_path=[a]",), "names no file"),
    (("ckpt_path={good}", "data.batchsize=3"), "data.batchsize is not a key"),
    (("ckpt_path={good}", "data.batch_size=0"), "data.batch_size=0"),
    (("ckpt_path={good}", "trainer=tpu"), "options of trainer"),
    (("ckpt_path={good}", "trainer=null"), "trainer=null cannot be chosen"),
    (("ckpt_path={good}", "optimizer=adam"), "data or trainer"),
    (("ckpt_path={good}", "seed=abc"), "seed=abc"),
    (("ckpt_path={good}", "seed=1", "seed=2"), "seed is given 2 times"),
    (("ckpt_path={good}", "seed=1,2"), "only key=value"),
    (("ckpt_path={good}", "seed=[1"), "close each bracket"),
    (("ckpt_path={good}", "seed@x=1"), "only key=value"),
    (("ckpt_path={good}", "~seed"), "only key=value"),
    (("ckpt_path={good}", "+seeds=1"), "seeds is not a key"),
    (("ckpt_path={good}", "loss.label_smoothing=nan"), "label_smoothing=nan"),
    (("ckpt_path={good}", "data=cifar10", "data.dir='${oc.env:HOME}'"), "write the value"),
    (("ckpt_path={good}", "data=cifar10", "data.dir="), "names no file"),
    (("ckpt_path={good}", "paths.outputs="), "names no directory"),
    (("ckpt_path={good}", "+hydra.run.foo=1"), "hydra.run.foo is not a key"),
    (("ckpt_path={good}", "hydra.run.dir=/dev/null/x"), "cannot be made"),
    (("ckpt_path={good}", "hydra.run.dir={good}"), "is a file"),
    (("ckpt_path={good}", "hydra.run.dir={run}"), "holds another run"),
    (("ckpt_path=http://127.0.0.1/x.ckpt",), "only local files"),
    (("ckpt_path=.",), "is a directory"),
    (("ckpt_path={good}", "trainer=gpu"), "trainer=cpu"),
    (("ckpt_path={good}", "-m"), "leave out -m"),
    (("ckpt_path={good}", "data.grayscale=true"), "data.grayscale"),
    (("ckpt_path={good}", "model.num_classes=2"), "model.num_classes"),
    (("ckpt_path={good}", "model=tiny_cnn"), "data or trainer"),
]
PREDICT = [
    (("image=x.png",), "ckpt_path is missing"),
    (("ckpt_path={good}",), "image is missing"),
    (("ckpt_path={good}", "image=null"), "image=null: names no file"),
    (("ckpt_path={good}", "image=x.png", "trainer=tpu"), "options of trainer"),
    (("ckpt_path={good}", "image=x.png", "seed=abc"), "seed=abc"),
    (("ckpt_path={good}", "image=x.png", "layer=fc"), "layer is not a key"),
    (("ckpt_path={good}", "image=x.png", "model.num_classes=2"), "and that stays"),
    (("ckpt_path={good}", "image=x.png", "image=y.png"), "image is given 2 times"),
    (("ckpt_path={good}", "image=x.png", "-m"), "leave out -m"),
    (("ckpt_path={good}", "image=x.png", "+hydra.run.foo=1"), "hydra.run.foo is not a key"),
    (("ckpt_path=http://127.0.0.1/x.ckpt", "image=x.png"), "only local files"),
    (("ckpt_path=.", "image=x.png"), "is a directory"),
    (("ckpt_path=", "image=x.png"), "names no file"),
]
OF_A_CHECKPOINT = [("evaluate", *row) for row in EVALUATE] + [("predict", *row) for row in PREDICT]


@pytest.mark.usefixtures("_in_empty_directory")
@pytest.mark.parametrize(("script", "overrides", "hint"), OF_A_CHECKPOINT)
def test_evaluate_and_predict_refuse(script, overrides, hint, run, finished):
    if "trainer=gpu" in overrides and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    good = finished / "checkpoints/best.ckpt"
    typed = [o.replace("{good}", str(good)).replace("{run}", str(finished)) for o in overrides]
    assert_refused(run(script, *typed), hint)
