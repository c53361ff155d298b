"""Checkpoints from strangers: nothing in them runs, and nothing of them fills the memory."""

import errno
import os
import pickle
import resource
import shutil
import struct
import subprocess
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from harness import KEYS, run
from hostile import COMMANDS, Payload, assert_refused, call, give, pickled, plain_checkpoint, put
from PIL import Image
from torch import nn

import layerscope
from layerscope.base.errors import NonFiniteLoss, UserError
from layerscope.config.problems import parse
from layerscope.config.schema import TrainConfig
from layerscope.training.checkpoint_files import (
    MAX_FILE_BYTES,
    MAX_STRUCTURE_BYTES,
    open_plain,
    save_sealed,
)
from layerscope.training.checkpoint_folder import CheckpointFolder, best_in, copy_file
from layerscope.training.checkpoints import FACTS_KEY, RunFacts
from layerscope.training.history import Best, History
from layerscope.training.module import Classifier
from layerscope.training.resume import start_of

PLACES = {
    "a weight": ("state_dict", "network.fc.bias"),
    "the state": ("state_dict",),
    "the configuration": (FACTS_KEY, "config", "model", "width"),
    "our facts": (FACTS_KEY, "batches_seen"),
    "a callback": ("callbacks", "EndOfEpoch", "best"),
    "another callback": ("callbacks", "ModelCheckpoint"),
    "the optimizer": ("optimizer_states", 0, "state"),
    "hyperparameters": ("hyper_parameters", "x"),
    "loops": ("loops", "fit_loop", "x"),
    "a key": ("anything",),
}
PAYLOADS = {
    "os.system": Payload(os.system, "touch ran"),
    "builtins.eval": Payload(eval, "open('ran', 'w')"),
    "builtins.exec": Payload(exec, "open('ran', 'w')"),
    "builtins.open": Payload(open, "ran", "w"),
    "subprocess": Payload(subprocess.check_call, ["touch", "ran"]),
    "os.mknod": Payload(os.mknod, "ran"),
    "np.save": Payload(np.save, "ran", 1),
    "torch.save": Payload(torch.save, 1, "ran"),
    "pathlib": Payload(Path.touch, Path("ran")),
}


@pytest.fixture(autouse=True)
def _directory(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    yield
    assert list((tmp_path / "here").iterdir()) == []  # no payload has run, nothing was made


def assert_nobody_opens(path, hint="ckpt_path", commands=tuple(COMMANDS)):
    for command in commands:
        assert_refused(give(command, path), hint)
    with pytest.raises(UserError, match=hint):
        layerscope.load(path)


def test_the_payload_would_run_where_it_is_let(tmp_path):
    """Show that the tests below can fail."""
    path = pickled(tmp_path / "a.ckpt", {"a": PAYLOADS["os.system"]})
    torch.load(path, weights_only=False)
    Path("ran").unlink()


def assert_opens(path):
    assert layerscope.load(path).training is False


def test_the_plain_one_opens(tmp_path):
    save_sealed(tmp_path / "a.ckpt", plain_checkpoint())
    assert_opens(tmp_path / "a.ckpt")


@pytest.mark.parametrize("place", PLACES)
def test_a_payload_in_any_place(place, tmp_path):
    checkpoint = put(plain_checkpoint(), PLACES[place], PAYLOADS["os.system"])
    path = tmp_path / "a.ckpt"
    save_sealed(path, checkpoint)
    assert_nobody_opens(path, "no readable checkpoint", ("train", "explain"))
    save_unsealed = pickled(tmp_path / "b.ckpt", checkpoint)
    assert_refused(give("evaluate", save_unsealed), "no readable checkpoint")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_any_payload(payload, tmp_path):
    save_sealed(tmp_path / "a.ckpt", {**plain_checkpoint(), "x": PAYLOADS[payload]})
    assert_refused(give("predict", tmp_path / "a.ckpt"), "no readable checkpoint")
    (tmp_path / "b.ckpt").write_bytes(pickle.dumps(PAYLOADS[payload]))
    with pytest.raises(UserError, match="no readable checkpoint"):
        open_plain(tmp_path / "b.ckpt")


def test_in_the_directory_of_a_run(tmp_path):
    """resume=auto does not pass over a file that is somebody's, nor runs it."""
    folder = tmp_path / "run/checkpoints"
    folder.mkdir(parents=True)
    pickled(folder / "last.ckpt", {**plain_checkpoint(), "x": PAYLOADS["os.system"]})
    save_sealed(folder / "previous.ckpt", plain_checkpoint())
    result = call("train", *KEYS, "resume=auto", f"hydra.run.dir={tmp_path}/run")
    assert_refused(result)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/a.ckpt", "https://x.y/a", "s3://a/b", "file:///etc/passwd", "hdfs://a"],
)
def test_addresses(url):
    commands = tuple(COMMANDS) if url.startswith("http:") else ("evaluate",)
    assert_nobody_opens(url, "only local files", commands)


def test_an_address_in_a_callbacks_state_is_not_asked(tmp_path, monkeypatch):
    def refuse(*arguments, **keys):
        raise AssertionError(f"somebody was asked: {arguments}")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    state = {"best_model_path": "http://127.0.0.1:1/a.ckpt", "dirpath": "http://127.0.0.1:1"}
    checkpoint = plain_checkpoint()
    checkpoint["callbacks"] = {name: dict(state) for name in ("ModelCheckpoint", "EndOfEpoch")}
    save_sealed(tmp_path / "a.ckpt", checkpoint)
    assert_refused(give("train", tmp_path / "a.ckpt"))
    assert layerscope.load(tmp_path / "a.ckpt") is not None


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def test_a_small_file_with_a_gibibyte_inside(tmp_path):
    good = zipfile.ZipFile(save(tmp_path / "good.ckpt"))
    members = {name: good.read(name) for name in good.namelist()}
    tensor = next(name for name in members if "/data/" in name)
    members[tensor] = bytes(2**26)  # a 16th, which tells as much
    path = archive(tmp_path / "bomb.ckpt", members, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert_nobody_opens(path, "compressed")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**15  # KiB


def save(path):
    save_sealed(path, plain_checkpoint())
    return path


def test_a_member_that_says_it_is_larger_than_the_file(tmp_path):
    content = bytearray(save(tmp_path / "a.ckpt").read_bytes())
    entry = content.index(b"PK\x01\x02")
    content[entry + 20 : entry + 28] = struct.pack("<II", 2**31, 2**31)
    (tmp_path / "b.ckpt").write_bytes(content)
    assert_refused(give("evaluate", tmp_path / "b.ckpt"))


TENSORS = {
    "expanded": lambda: torch.zeros(1).expand(2**33),
    "strided": lambda: torch.zeros(1).as_strided((2**20, 2**20), (0, 0)),
    "large sparse": lambda: torch.sparse_coo_tensor(
        torch.zeros(1, 1).long(), torch.ones(1), (2**33,)
    ),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "meta": lambda: torch.zeros(2, device="meta"),
    "quantized": lambda: torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8),
}


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.filterwarnings("ignore:Sparse", "ignore:.*quantize:UserWarning")
def test_a_tensor_that_says_it_is_large_or_is_of_another_kind(name, tmp_path):
    checkpoint = put(plain_checkpoint(), ("state_dict", "network.fc.bias"), TENSORS[name]())
    save_sealed(tmp_path / "a.ckpt", checkpoint)
    hint = "describes a tensor of|another kind|no readable checkpoint"
    assert_nobody_opens(tmp_path / "a.ckpt", hint, ())
    assert_refused(give("evaluate", tmp_path / "a.ckpt"))


def test_more_than_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "read_bytes", lambda self: pytest.fail("it was read"))
    with (tmp_path / "large.ckpt").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # a hole: no byte of it is on the disk
    assert_nobody_opens(tmp_path / "large.ckpt", "none above")


def test_a_structure_without_end(tmp_path):
    path = archive(tmp_path / "a.ckpt", {"a/data.pkl": bytes(MAX_STRUCTURE_BYTES + 1)})
    with pytest.raises(UserError, match="describes too much"):
        open_plain(path)


def test_files_that_are_something_else(tmp_path):
    """More files than those of test_bad_input, also for layerscope.load."""
    whole = save(tmp_path / "good.ckpt").read_bytes()
    legacy = pickled(tmp_path / "old", plain_checkpoint(), _use_new_zipfile_serialization=False)
    (tmp_path / "seal without a file").write_bytes(whole[-82:])
    (tmp_path / "cut").write_bytes(whole[:-1000])
    for path in (legacy, tmp_path / "seal without a file", tmp_path / "cut"):
        assert_nobody_opens(path, commands=("evaluate",))


@pytest.mark.parametrize(
    "value",
    [np.float64(1), np.zeros(2), Path("a"), range(3), {"a": nn.Linear}, torch.nn.Linear(1, 1)],
)
def test_what_is_not_plain(value, tmp_path):
    save_sealed(tmp_path / "a.ckpt", {**plain_checkpoint(), "x": value})
    assert_refused(give("evaluate", tmp_path / "a.ckpt"), "no readable checkpoint")


def nested(levels):
    value = 1
    for _ in range(levels):
        value = [value]
    return value


def doubled(times):
    """Few lists, each of which holds the one before it twice."""
    value = [1]
    for _ in range(times):
        value = [value, value]
    return value


def in_itself():
    value = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (lambda: nested(300), "levels deep"),
        (lambda: [nested(40), [[[[[[[[[[[nested(40)]]]]]]]]]]]], "levels deep"),
        (lambda: doubled(40), "members"),
        (in_itself, "levels deep"),
    ],
)
@pytest.mark.parametrize("place", ["the configuration", "our facts", "a callback"])
def test_containers_without_end(make, hint, place, tmp_path):
    """Who reads it would follow them all."""
    save_sealed(tmp_path / "a.ckpt", put(plain_checkpoint(), PLACES[place], make()))
    with pytest.raises(UserError, match=hint):
        open_plain(tmp_path / "a.ckpt")


def test_as_deep_as_no_run_is_opens(tmp_path):
    save_sealed(tmp_path / "a.ckpt", {**plain_checkpoint(), "x": [nested(20), doubled(10)]})
    assert_opens(tmp_path / "a.ckpt")


PREPROCESSING = (FACTS_KEY, "preprocessing")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((*PREPROCESSING, "groups"), {f"c{i}": [i] for i in range(9)}),
        ((*PREPROCESSING, "groups"), {f"c{i}": [99] for i in range(10)}),
        ((*PREPROCESSING, "image_size"), 16384),
        ((*PREPROCESSING, "std"), [1e-300, 0.2, 0.2]),
        ((*PREPROCESSING, "stored_size"), 16384),
        ((*PREPROCESSING, "class_names"), [f"c{i}" for i in range(10)]),
        ((FACTS_KEY, "data", "name"), "\x1b[31m"),
        ((*PREPROCESSING, "mean"), [1e300, 0.2, 0.2]),
        ((FACTS_KEY, "config", "model", "input_shape"), [3, 16384, 16384]),
        ((FACTS_KEY, "config", "data", "num_test"), 10**9),
    ],
)
def test_a_view_that_contradicts_the_network(place, value, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    path = tmp_path / "a.ckpt"
    save_sealed(path, put(plain_checkpoint(), place, value))
    assert_refused(give("evaluate", path))
    assert_refused(call("predict", f"ckpt_path='{path}'", f"image='{tmp_path}/x.png'"))


def test_answers_that_are_no_numbers(tmp_path):
    """Finite weights can give them; nothing is written that holds them."""
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    path = tmp_path / "a.ckpt"
    variance = torch.full((4,), -1.0)
    place = ("state_dict", "network.block1.bn.running_var")
    save_sealed(path, put(plain_checkpoint(), place, variance))
    photo = f"image='{tmp_path}/x.png'"
    assert_refused(call("predict", f"ckpt_path='{path}'", photo), "numbers that are not finite")
    evaluation = tmp_path / "evaluation"
    code, err = call("evaluate", f"ckpt_path='{path}'", f"hydra.run.dir={evaluation}")
    assert (code, err.count("\n")) == (3, 1)
    assert "the test loss is" in err
    assert list(evaluation.iterdir()) == []


JUNK = [None, "x", -1, {}, [], float("nan"), {"_target_": "os.system"}, torch.zeros(3)]


def leaves(value, path=()):
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(len(value)):
            yield from leaves(value[index], (*path, index))
    else:
        yield path


def test_junk_in_any_of_our_facts_is_used_or_refused(tmp_path):
    """Every leaf once, each with another piece of junk."""
    places = list(leaves(plain_checkpoint()[FACTS_KEY]))
    refused = 0
    for number, place in enumerate(places):
        junk = JUNK[number % len(JUNK)]
        save_sealed(tmp_path / "a.ckpt", put(plain_checkpoint(), (FACTS_KEY, *place), junk))
        try:
            layerscope.load(tmp_path / "a.ckpt")
        except UserError:
            refused += 1
    assert refused > len(places) // 2


KEPT_EPOCHS = 2
RUN = (
    *KEYS[:7],  # of the small network, in epochs of five batches
    "trainer.precision=32-true", "trainer=cpu", "trainer.threads=1", "profile=false",
    "optimizer=adam", "callbacks.early_stopping.patience=9", "checkpoint_every_n_steps=2",
)  # fmt: skip
HISTORY = ("callbacks", "EndOfEpoch")
STOPPING = ("callbacks", "EarlyStopping{'monitor': 'val/loss', 'mode': 'min'}")
OTHER_FUTURE = {
    "metrics": ["0,5,9.0,0.1,2.0,0.8,0.1\n"], "timing": ["0,1.0,1.0\n"],
    "best": {"epoch": 0, "accuracy": 0.8, "loss": 2.0}, "stopped_early": False,
}  # fmt: skip
ADAM = ("optimizer_states", 0)
PROGRESS = ("loops", "fit_loop", "epoch_loop.batch_progress", "total", "processed")


@pytest.fixture(scope="module")
def trained(forks, tmp_path_factory):
    """The checkpoints of a whole run; no test changes them."""
    directory = tmp_path_factory.mktemp("trained") / "run"
    keys = (*RUN, f"trainer.max_epochs={KEPT_EPOCHS}", f"hydra.run.dir={directory}")
    ended = forks(run, keys)
    assert ended.code == 0, ended
    return directory / "checkpoints"


def longer(trained, tmp_path, name="", place=(), junk=None):
    """The command for an epoch more, from a copy of the run with junk in one of its checkpoints."""
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    if place:
        checkpoint = open_plain(folder / name)
        save_sealed(folder / name, put(checkpoint, place, junk))
    keys = (*RUN, f"trainer.max_epochs={KEPT_EPOCHS + 1}", "allow_changes=true")
    return (*keys, f"ckpt_path={folder}/last.ckpt", f"hydra.run.dir={tmp_path}/new")


@pytest.mark.parametrize(
    ("place", "junk"),
    [
        (("callbacks",), {}),
        (HISTORY, 3),
        ((*HISTORY, "best"), {"boom": 0}),
        ((*HISTORY, "best"), None),
        ((*HISTORY, "best", "accuracy"), "x"),
        ((*HISTORY, "best", "accuracy"), 7.0),
        ((*HISTORY, "best", "loss"), float("nan")),
        ((*HISTORY, "best", "epoch"), 10**30),
        ((*HISTORY, "metrics"), ["nan,nan,,,,,\n"] * KEPT_EPOCHS),
        ((*HISTORY, "metrics", 1), "1,8,nan,0.1,2.0,0.1,0.1\n"),
        ((*HISTORY, "metrics", 1), "1,8,2.0,0.1,2.0,,0.1\n"),
        ((*HISTORY, "timing"), []),
        ((*HISTORY, "stopped_early"), "yes"),
        (STOPPING, {}),
        (STOPPING, {"x": 1}),
        ((*STOPPING, "best_score"), 1.0),
        ((*STOPPING, "best_score"), torch.tensor(float("nan"))),
        ((*STOPPING, "patience"), "x"),
        ((*STOPPING, "stopping_reason"), 99),
        ((FACTS_KEY, "batches_seen"), 10**30),
        ((FACTS_KEY, "batches_seen"), 3),
        (PROGRESS, 10**30),
        (("epoch",), -1),
        (("global_step",), "x"),
        (("pytorch-lightning_version",), "0.0.1"),
        (("lr_schedulers",), [{}]),
        (("callbacks",), []),
        (("loops",), {}),
        (("loops",), {"fit_loop": {"x": 1}}),
        (("optimizer_states",), [{}]),
        (("optimizer_states",), "x"),
        ((*ADAM, "param_groups"), []),
        ((*ADAM, "state", 0), {}),
        ((*ADAM, "state", 0, "exp_avg"), torch.zeros(1)),
        ((*ADAM, "state", 0, "step"), torch.tensor(float("nan"))),
        (("epoch",), 10**30),
        (("epoch",), 0),
        (("state_dict", "train_scores.accuracy.tp"), torch.tensor([-1])),
        (("state_dict", "val_scores.loss.count"), torch.tensor(-1)),
        (("state_dict", "val_scores.loss.total"), torch.tensor(float("nan")).double()),
    ],
)
def test_junk_in_a_runs_last_checkpoint_is_refused(place, junk, trained, tmp_path):
    assert_refused(call("train", *longer(trained, tmp_path, "last.ckpt", place, junk)))
    assert not (tmp_path / "new").exists()


def test_a_best_of_another_future_beside_it_is_passed_over(forks, trained, tmp_path):
    ended = forks(run, longer(trained, tmp_path, "best.ckpt", HISTORY, OTHER_FUTURE))
    assert ended.code == 0, ended
    assert "the best epoch is sought from here on" in ended.err


@pytest.mark.parametrize(
    ("place", "junk"),
    [
        (("callbacks",), {}),
        (HISTORY, 3),
        ((*HISTORY, "best"), {"boom": 0}),
        ((*HISTORY, "best", "accuracy"), "x"),
        (("state_dict",), {}),
        (("state_dict", "network.0.weight"), torch.zeros(2)),
        ((FACTS_KEY, "format"), 99),
    ],
)
def test_junk_in_the_best_beside_it_makes_it_none(place, junk, trained, tmp_path):
    last, best = open_plain(trained / "last.ckpt"), open_plain(trained / "best.ckpt")
    known = (History.of(last), last["state_dict"])
    assert best_in(trained / "best.ckpt", *known) is not None
    save_sealed(tmp_path / "best.ckpt", put(best, place, junk))
    assert best_in(tmp_path / "best.ckpt", *known) is None


def test_a_good_pair_goes_on(forks, trained, tmp_path):
    ended = forks(run, longer(trained, tmp_path))
    assert (ended.code, ended.err) == (0, ""), ended


@pytest.fixture
def resumed(trained, tmp_path):
    """A copy of the run's directory, and the configuration with which the command goes on."""
    shutil.copytree(trained.parent, tmp_path / "run")
    config = RunFacts.of(open_plain(trained / "last.ckpt")).parsed_config()
    return tmp_path / "run", config.model_copy(update={"resume": "auto"})


def failing_reads(monkeypatch, number, names):
    read = Path.read_bytes

    def read_bytes(self):
        if self.name in names:
            raise OSError(number, os.strerror(number))
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)


def test_a_checkpoint_that_the_disk_does_not_give_is_passed_over(resumed, monkeypatch):
    directory, config = resumed
    failing_reads(monkeypatch, errno.EIO, ("last.ckpt",))
    start = start_of(config, directory)
    assert start.checkpoint == directory / "checkpoints/previous.ckpt"
    assert "last.ckpt cannot be read: Input/output error" in start.warning
    assert_refused(give("evaluate", directory / "checkpoints/last.ckpt"), "Input/output error")


@pytest.mark.parametrize(
    ("number", "names", "hint"),
    [
        (errno.EIO, ("last.ckpt", "previous.ckpt"), r"last\.ckpt cannot be read: Input/output"),
        (errno.EACCES, ("last.ckpt",), "Permission denied: give yourself the permission"),
    ],
)
def test_a_run_that_may_be_whole_is_not_started_again(number, names, hint, resumed, monkeypatch):
    """It would be written over."""
    directory, config = resumed
    failing_reads(monkeypatch, number, names)
    with pytest.raises(UserError, match=hint):
        start_of(config, directory)


@pytest.mark.parametrize(("place", "junk"), [(HISTORY, OTHER_FUTURE), (("state_dict",), {})])
def test_results_are_of_no_best_that_a_resume_would_not_take(place, junk, resumed):
    directory, config = resumed
    (directory / "results.json").unlink()
    assert start_of(config, directory).has_trained
    best = directory / "checkpoints/best.ckpt"
    save_sealed(best, put(open_plain(best), place, junk))
    with pytest.raises(UserError, match="missing or damaged, or of another run"):
        start_of(config, directory)


def history(num_epochs, best, accuracy=0.5, other=()):
    rows = [{"epoch": str(i), "x": "other" if i in other else ""} for i in range(num_epochs)]
    return History(rows, [], Best(best, accuracy, 1.0), False)


@pytest.mark.parametrize(
    ("best", "last", "is_adopted"),
    [
        (history(2, 1), history(2, 1), True),
        (history(2, 1), history(4, 1), True),
        (history(3, 2), history(2, 1), True),  # killed between the two files
        (history(3, 2, other=[2]), history(3, 2), True),  # and its last bits differ, done again
        (history(3, 2, 0.6, other=[2]), history(3, 2), False),
        (history(4, 3), history(2, 1), False),
        (history(3, 2, other=[1]), history(2, 1), False),
        (history(3, 1), history(3, 1), False),  # no file of its own best
    ],
)
def test_a_best_of_another_future_is_not_adopted(best, last, is_adopted):
    assert best.best_of(last) == (best.best if is_adopted else None)


def test_what_a_resume_would_refuse_is_not_saved(tmp_path):
    """The square of a gradient in Adam can be infinite where the gradient is not."""
    module = Classifier(
        nn.Linear(2, 2), parse(TrainConfig, plain_checkpoint()[FACTS_KEY]["config"])
    )
    optimizer = torch.optim.Adam(module.parameters(), lr=0.0)
    saved = []
    trainer = SimpleNamespace(
        lightning_module=module, optimizers=[optimizer], is_global_zero=True,
        save_checkpoint=saved.append,
    )  # fmt: skip
    folder = CheckpointFolder(tmp_path)
    for size in (1.0, 1e22):
        for parameter in module.parameters():
            parameter.grad = torch.full_like(parameter, size)
        optimizer.step()
        if size == 1.0:
            folder.save(trainer)
    with pytest.raises(
        NonFiniteLoss, match=r"exp_avg_sq of network\.weight is no longer finite in step 0"
    ):
        folder.save(trainer)
    assert saved == [folder.last]


def test_a_file_system_without_links_gets_copies(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    source, target = tmp_path / "best.ckpt", tmp_path / "last.ckpt"
    source.write_bytes(b"best")
    target.write_bytes(b"last")
    monkeypatch.setattr(os, "link", no_links)
    copy_file(source, target)
    assert target.read_bytes() == b"best"
    assert not target.samefile(source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.ckpt", "here", "last.ckpt"]
