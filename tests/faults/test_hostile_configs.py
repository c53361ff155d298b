"""Names in a file: nothing that a file names is imported or called."""

import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from harness import KEYS
from hostile import Payload, assert_refused, call, give, plain_checkpoint, put

import layerscope
from layerscope.base.errors import UserError
from layerscope.config.problems import parse
from layerscope.config.schema import TrainConfig
from layerscope.networks import build_network
from layerscope.training.checkpoint_files import save_sealed
from layerscope.training.checkpoints import FACTS_KEY

# Hydra 1.3.8's own blocklist misses most of these; a list of allowed beginnings, the aliases.
TARGETS = [
    "os.system", "posix.system", "builtins.eval", "builtins.exec", "builtins.open", "open", "eval",
    "subprocess.Popen", "shutil.rmtree", "shutil.copy", "pathlib.Path.touch",
    "importlib.import_module",
    "logging.FileHandler", "logging.config.dictConfig", "runpy.run_path", "pickle.loads",
    "torch.load", "torch.save", "torch.hub.load", "torch.jit.load", "numpy.load", "numpy.save",
    "torch.nn.functional.torch.load", "torch.nn.modules.module.torch.load",
    "torch.nn.functional.importlib.import_module",
    "torchvision.models._api.importlib.import_module",
    "layerscope.networks.registry.importlib.import_module", "layerscope.base.files.os.system",
    "layerscope.networks.registry.os.system", "torch.nn.Linear", "evil.Net",
]  # fmt: skip
TRIED = ("evil.Net", "os.system")  # by every command; by a call, all of them


@pytest.fixture(autouse=True)
def _nothing_is_imported(tmp_path, monkeypatch):
    """A module `evil` lies at hand; the commands run in an empty directory beside it."""
    (tmp_path / "evil.py").write_text("import pathlib; pathlib.Path('ran').touch()")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    assert "evil" not in sys.modules
    assert list((tmp_path / "here").iterdir()) == []


def custom(target):
    return {
        "family": "custom", "_target_": target, "input_shape": [3, 32, 32], "num_classes": 10,
        "command": "touch ran", "file": "ran", "f": "ran", "filename": "ran",
    }  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_in_a_checkpoint(target, tmp_path):
    path = tmp_path / "a.ckpt"
    save_sealed(path, put(plain_checkpoint(), (FACTS_KEY, "config", "model"), custom(target)))
    for command in ("evaluate", "profile", "explain") if target in TRIED else ():
        assert_refused(give(command, path), "never taken from a file")
    with pytest.raises(UserError, match="never taken from a file"):
        layerscope.load(path)
    with pytest.raises(UserError, match=re.escape(f"target={target!r}")):
        layerscope.load(path)


def test_other_targets_in_a_checkpoint(tmp_path):
    own = [{"_target_": "own_code.Class"}]
    optimizer = {"name": "custom", "_target_": "own_code.Class", "lr": None}
    scheduler = {"name": "custom", "_target_": "own_code.Class", "interval": None}
    checkpoint = plain_checkpoint()
    config = checkpoint[FACTS_KEY]["config"]
    config.update(optimizer=optimizer, scheduler=scheduler, metrics={"extra": own})
    config["callbacks"]["extra"] = own
    save_sealed(tmp_path / "a.ckpt", checkpoint)
    assert_refused(give("evaluate", tmp_path / "a.ckpt"), "metrics.extra names own_code.Class in")
    layerscope.load(tmp_path / "a.ckpt")
    assert "own_code" not in sys.modules


def test_a_target_in_a_users_file_or_beside_a_key():
    config = plain_checkpoint()[FACTS_KEY]["config"]
    for section in ("optimizer", "scheduler", "loss", "data", "trainer", "callbacks", "logger"):
        changed = {**config, section: {**config[section], "_target_": "os.system"}}
        with pytest.raises(UserError, match=f"{section}._target_ (is not taken|names a class)"):
            parse(TrainConfig, changed)
        with pytest.raises(UserError, match=section):
            parse(TrainConfig, {**config, section: {"_target_": "os.system"}})


FAMILIES = ["resnet", "custom.x", "os.system", "", None, 5, ["custom"], {"_target_": "os.system"}]
TORCHVISION = ["os.system", "../resnet18", "get_model", "_api", "ResNet", "vgg"]
ALL_MEMORY = [
    {"channels": [65536, 65536, 8]}, {"channels": [10**9, 8, 8]}, {"channels": [1] * 1000},
    {"width": 1e300}, {"kernel_size": 10**9 + 1}, {"input_shape": [3, 10**9, 10**9]},
    {"num_classes": 10**12}, {"channels": [True, 8, 8]}, {"channels": "abc"},
]  # fmt: skip
MODELS = [
    *(({"family": family}, "model") for family in FAMILIES),
    *(({"family": "torchvision", "name": name}, "torchvision") for name in TORCHVISION),
    *((keys, "model") for keys in ALL_MEMORY),
]


@pytest.mark.parametrize(("keys", "hint"), MODELS)
def test_a_checkpoints_network_that_is_none(keys, hint, tmp_path):
    checkpoint = plain_checkpoint(**keys)
    if hint == "torchvision":
        model = {**keys, "input_shape": [3, 32, 32], "num_classes": 10}
        hint = "is no torchvision classifier"
        put(checkpoint, (FACTS_KEY, "config", "model"), model)
    save_sealed(tmp_path / "a.ckpt", checkpoint)
    with pytest.raises(UserError, match=hint):
        layerscope.load(tmp_path / "a.ckpt")


def test_only_the_command_line_names_a_class(tmp_path):
    """The class on the command line is built, whatever the file says."""
    model = {
        "family": "custom", "_target_": "evil.Net", "input_shape": [3, 32, 32], "num_classes": 10,
    }  # fmt: skip
    config = parse(TrainConfig, {**plain_checkpoint()[FACTS_KEY]["config"], "model": model})
    assert type(build_network(config.model, "faulty_network.Small")).__name__ == "Small"
    with pytest.raises(UserError, match="never taken from a file"):
        build_network(config.model)


@pytest.mark.parametrize(
    "text",
    [
        "model: !!python/object/apply:os.system ['touch ran']",
        "model: !!python/name:os.system",
        "model: &a [*a]",
        "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: [*b,*b,*b,*b]",
        "[" * 3000,
        "1",
        "\tmodel: 1",
        "\0",
        None,  # a target in a configuration that is otherwise whole
    ],
)
def test_the_configuration_of_a_runs_directory(text, tmp_path):
    """It is compared when the run resumes, and never run."""
    run = tmp_path / "run"
    run.mkdir()
    if text is None:
        config = {**plain_checkpoint()[FACTS_KEY]["config"], "model": custom("evil.Net")}
        text, hint = yaml.safe_dump(config), "model."
    else:
        hint = "config.yaml"
    (run / "config.yaml").write_text(text)
    assert_refused(call("train", *KEYS, "resume=auto", f"hydra.run.dir={run}"), hint)
    assert [path.name for path in run.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_a_directory_in_a_checkpoint_is_not_written_to(name, tmp_path):
    from layerscope.commands.checkpoint import _without_writing
    from layerscope.config.schema import Cifar10Config, Cifar100Config

    (tmp_path / "private").mkdir()
    kind = {"cifar10": Cifar10Config, "cifar100": Cifar100Config}[name]
    data = kind.model_construct(name=name, dir=str(tmp_path / "private"), labels="fine", val_size=9)
    assert _without_writing(data, frozenset()).dir is None
    assert _without_writing(data, frozenset({"data.dir"})).dir == data.dir
    assert list((tmp_path / "private").iterdir()) == []


HYDRA = {
    "callbacks": {"x": {"_target_": "os.system", "command": "touch ran"}},
    "job_logging": {"handlers": {"x": {"()": "os.system", "command": "touch ran"}}},
    "hydra_logging": {"handlers": {"x": {"()": "os.system", "command": "touch ran"}}},
    "launcher": {"_target_": "os.system"},
    "sweeper": {"_target_": "hydra_plugins.os.system"},
    "job": {"env_set": {"PYTHONPATH": "."}},
    "mode": "MULTIRUN",
}


@pytest.mark.parametrize("key", HYDRA)
@pytest.mark.parametrize("sweep", [(), ("-m", "seed=0,1")])
def test_hydras_own_part_of_a_users_file(key, sweep, tmp_path):
    """Hydra calls what stands there by name, in a sweep."""
    folder = tmp_path / "mine/experiment"
    folder.mkdir(parents=True)
    text = "# @package _global_\n" + yaml.safe_dump({"hydra": {key: HYDRA[key]}})
    (folder / "bad.yaml").write_text(text)
    keys = [k for k in KEYS if not k.startswith("seed")]
    result = call("train", "--config-dir", folder.parent, *keys, "experiment=bad", *sweep)
    assert_refused(result, "hydra")


def test_a_search_path_imports_nothing(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/main.yaml").write_text("hydra:\n  searchpath: [pkg://evil]\n")
    for flags in ((), ("--cfg", "job")):
        result = call("train", *flags, "--config-dir", tmp_path / "mine", "--config-name", "main")
        assert_refused(result, "hydra.searchpath")
    assert_refused(call("train", "hydra.searchpath=[pkg://evil]"), "hydra.searchpath")


def test_the_payloads_of_this_file_would_run():
    assert Payload(os.system, "touch ran").__reduce__()[0] is os.system
    os.system("touch ran")
    Path("ran").unlink()


def test_a_target_that_a_file_sweeps(tmp_path):
    (tmp_path / "mine/experiment").mkdir(parents=True)
    swept = "hydra:\n  sweeper:\n    params:\n      model: custom\n      model._target_: evil.Net\n"
    (tmp_path / "mine/experiment/y.yaml").write_text(f"# @package _global_\n{swept}")
    keys = [key for key in KEYS if not key.startswith("model")]
    result = call("train", "-m", f"--config-dir={tmp_path / 'mine'}", *keys, "experiment=y")
    assert_refused(result, "never taken from a file")


def test_files_that_name_files_that_name_files_are_bounded(tmp_path):
    """A few lines each; without a bound it takes minutes at twelve and for ever at twenty-five."""
    folder = tmp_path / "experiment"
    folder.mkdir()
    for number in range(25):
        names = f"[e{number + 1}@a, e{number + 1}@b]"
        (folder / f"e{number}.yaml").write_text(f"defaults: {names}\n")
    (folder / "e25.yaml").write_text("x: 1\n")
    result = call("train", "--config-dir", tmp_path, "experiment=e0")
    assert_refused(result, "more than 500 files")
