import errno

import pytest
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError

from layerscope.base.errors import NonFiniteLoss, RunFailed, UserError
from layerscope.commands.runner import Command, Request, one_line, run_command
from layerscope.config.compose import compose
from layerscope.config.overrides import key_of
from layerscope.config.schema import TrainConfig


def command(configs, check=None, **keys):
    return Command(
        "train",
        TrainConfig,
        "Train.",
        check or (lambda request: lambda directory: None),
        config_dir=configs,
        **keys,
    )


def test_keys_of_overrides():
    assert [key_of(o) for o in ("a.b=1", "+a.b=x=y", "~a", "a")] == ["a.b", "a.b", "a", "a"]


def test_what_was_typed_is_told_from_what_a_file_says():
    request = Request(None, ("seed=1",))
    assert "model._target_" not in request.targets
    assert Request(None, ("+model._target_=a.B",)).targets["model._target_"] == "a.B"


def test_one_line_drops_what_is_hydras_own():
    text = "Could not find\n\n  it\n    full_key: a.b\n    object_type=dict\n"
    text += "See https://x.y for details"
    assert one_line(Exception(text)) == "Could not find it"
    assert one_line(KeyError()) == "KeyError"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("a"), 2),
        (RunFailed("a"), 1),
        (NonFiniteLoss("a"), 3),
        (OSError(28, "No space left on device"), 1),
        (KeyboardInterrupt(), 130),
        (InterpolationKeyError("a"), 2),
    ],
)
def test_each_error_has_its_exit_code_and_one_line(error, code, configs, tmp_path, capsys):
    def fail(directory):
        raise error

    argv = [f"hydra.run.dir={tmp_path}/run"]
    assert run_command(argv, command(configs, lambda request: fail)) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1


def test_an_error_that_no_user_can_cause_is_a_traceback(configs, tmp_path):
    def fail(directory):
        raise AssertionError("a bug")

    with pytest.raises(AssertionError):
        run_command([f"hydra.run.dir={tmp_path}/run"], command(configs, lambda request: fail))


def test_the_job_runs_in_its_directory_only_after_the_check(configs, tmp_path):
    seen = []

    def check(request):
        assert not (tmp_path / "run").exists()
        seen.append(request)
        return seen.append

    argv = ["seed=3", f"hydra.run.dir={tmp_path}/run"]
    assert run_command(argv, command(configs, check)) == 0
    request, directory = seen
    assert request.config.seed == 3
    assert directory == tmp_path / "run"
    assert directory.is_dir()


def test_every_job_of_a_sweep_is_checked_first(configs, tmp_path):
    def check(request):
        if request.config.seed == 2:
            raise UserError("seed 2 is wrong")
        return lambda directory: None

    argv = ["-m", "seed=0,1,2", f"hydra.sweep.dir={tmp_path}/sweep"]
    assert run_command(argv, command(configs, check, finish_sweep=lambda directory: 0)) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_says_which_file_what_mends_it_and_how_to_resume(configs, tmp_path, capsys):
    def fail(directory):
        raise OSError(errno.ENOSPC, "No space left on device", "some file")

    argv = [f"hydra.run.dir={tmp_path}/run"]
    assert run_command(argv, command(configs, lambda request: fail)) == 1
    assert capsys.readouterr().err == (
        "error: some file: No space left on device: make room; to resume, run the same command "
        f"with resume=auto hydra.run.dir={tmp_path}/run\n"
    )


def test_a_disk_that_cannot_hold_the_reason_of_a_failed_job_ends_the_sweep(
    configs, tmp_path, capsys, monkeypatch
):
    jobs = []

    def fail(directory):
        jobs.append(directory)
        raise ValueError("odd")

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("layerscope.commands.runner.save_failure", full)
    argv = ["-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep"]
    train = command(configs, lambda request: fail, finish_sweep=lambda directory: 0)
    assert run_command(argv, train) == 1
    assert jobs == [tmp_path / "sweep/0"]
    assert capsys.readouterr().err == (
        "error: job 0 failed: ValueError: odd; nor can that be noted (No space left on device); "
        f"to resume, run the same command with resume=auto hydra.sweep.dir={tmp_path}/sweep\n"
    )


def test_a_sweep_whose_disk_is_full_before_its_first_job(configs, tmp_path, capsys, monkeypatch):
    def full(*arguments, **keys):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(OmegaConf, "save", full)
    argv = ["-m", "seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep"]
    train = command(configs, finish_sweep=lambda directory: 0)
    assert run_command(argv, train) == 1
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: {tmp_path}/sweep: No space left on device: make room; to resume"
    )
    assert error.count("\n") == 1


def test_a_users_config_folder_is_found(configs, tmp_path):
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\nseed: 17\n"
    (tmp_path / "experiment/mine.yaml").write_text(text)
    seen = []

    def check(request):
        seen.append(request.config.seed)
        return lambda directory: None

    argv = ["--config-dir", str(tmp_path), "experiment=mine", f"hydra.run.dir={tmp_path}/run"]
    assert run_command(argv, command(configs, check)) == 0
    assert seen == [17]


def leaves(values, prefix=""):
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


@pytest.mark.parametrize("group", ["", "model", "data", "optimizer", "scheduler", "loss", "logger"])
def test_the_keys_change_on_purpose_only(group, configs, golden):
    """Others rely on these names. LAYERSCOPE_UPDATE_GOLDEN=1 writes them anew."""
    found = []
    options = sorted(path.stem for path in (configs / group).glob("*.yaml")) if group else [""]
    for option in options:
        target = ["model._target_=a.B"] if option == "custom" else []
        values = compose(configs, "train", [f"{group}={option}", *target] if group else [])
        chosen = {group: values[group]} if group else values
        found += [f"{option} {key}".strip() for key in leaves(chosen)]
    golden(f"keys {group or 'all'}.txt", "\n".join(found) + "\n")


def test_home_is_found_in_a_path(configs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    seen = []

    def check(request):
        seen.append(request.config.ckpt_path)
        return seen.append

    argv = ["ckpt_path=~/a.ckpt", "hydra.run.dir=~/run"]
    assert run_command(argv, command(configs, check)) == 0
    assert seen == [str(tmp_path / "a.ckpt"), tmp_path / "run"]
    assert (tmp_path / "run").is_dir()


def test_home_is_found_in_the_folder_of_a_sweep(configs, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    ended = []
    train = command(configs, finish_sweep=lambda directory: ended.append(directory) or 0)
    assert run_command(["-m", "seed=0,1", "hydra.sweep.dir=~/sweep"], train) == 0
    assert ended == [tmp_path / "sweep"]
    assert {path.name for path in tmp_path.iterdir()} == {"sweep"}
    assert (tmp_path / "sweep/1").is_dir()


def test_the_job_that_is_wrong_is_named(configs, tmp_path, capsys):
    argv = ["-m", "model=cifar_cnn,tiny_cnn", "model.channels=[4,8]"]
    train = command(configs, finish_sweep=lambda directory: 0)
    assert run_command([*argv, f"hydra.sweep.dir={tmp_path}/sweep"], train) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: job 1, model=tiny_cnn model.channels=[4,8]: model.channels")
    assert error.count("\n") == 1
    assert not (tmp_path / "sweep").exists()
