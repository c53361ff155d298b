"""What a command may find in its directory, and what may end it: one run each."""

import json
import os
import signal
from functools import partial
from pathlib import Path

import injections as inject
import pytest
import torch
from harness import KEYS, KILLED, Child, run
from scenarios import command, compare, ends_alike, whole, wrong_end


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


def state(directory: Path) -> dict[str, tuple]:
    """Return times and content of the directory and of everything in it."""
    paths = [directory, *directory.rglob("*")]
    return {
        str(path): (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in paths
    }


def test_a_non_finite_loss_is_never_applied_and_never_saved(forks, root):
    assert forks(_non_finite, root) == []


def _non_finite(root: Path) -> list[str]:
    directory = root / "nan"
    ended = run(command(directory), partial(inject.loss_is_nan_at, 8))
    problems = wrong_end(ended, 3, "step 8", f"{directory}/checkpoints/last.ckpt", "optimizer.lr")
    saved = torch.load(directory / "checkpoints/last.ckpt", weights_only=True)
    if saved["layerscope"]["batches_seen"] != 7:
        problems.append(f"saved after step {saved['layerscope']['batches_seen']}")
    return problems + ends_alike(directory, root)


def test_a_non_finite_loss_of_the_validation_names_epoch_and_step(forks, root):
    ended = forks(run, command(root / "val nan"), inject.validation_loss_is_nan)
    assert wrong_end(ended, 3, "val/loss is nan in epoch 1, after step 5", "last.ckpt") == []


def test_non_finite_weights_are_not_saved(forks, root):
    ended, seen, finite = forks(_non_finite_weights, root)
    assert wrong_end(ended, 3, "no longer finite", "last.ckpt") == []
    assert (seen, finite) == (2, True)


def _non_finite_weights(root: Path):
    directory = root / "inf"
    ended = run(command(directory), partial(inject.weights_are_infinite_after, 4))
    saved = torch.load(directory / "checkpoints/last.ckpt", weights_only=True)
    weights = [value for name, value in saved["state_dict"].items() if name.startswith("network.")]
    finite = all(torch.isfinite(value).all() for value in weights if value.is_floating_point())
    return ended, saved["layerscope"]["batches_seen"], bool(finite)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_validation_ends_before_the_run_does(number, forks, root):
    assert forks(_stopped_in_validation, number, root) == []


def _stopped_in_validation(number: int, root: Path) -> list[str]:
    directory = root / f"validation{number}"
    ended = run(command(directory), partial(inject.signal_in, "validation_step", number))
    problems = wrong_end(ended, 128 + number, "ended after epoch 1", "last.ckpt", "resume=auto")
    return problems + ends_alike(directory, root)


def test_a_finished_run_stays_as_it_is(forks, root):
    directory = forks(whole, root).directory
    before = state(directory)
    ended = forks(run, command(directory))
    assert (ended.code, ended.err) == (0, "")
    assert "nothing to do" in ended.out
    assert state(directory) == before


def test_more_epochs_go_on_in_the_same_directory(forks, root):
    """Interrupted too: the results of fewer epochs do not count."""
    longer = ("trainer.max_epochs=3", "scheduler=constant", "allow_changes=true")
    assert forks(_longer, root, longer) == []


def _longer(root: Path, longer: tuple[str, ...]) -> list[str]:
    directory = root / "longer"
    assert run(command(directory, "scheduler=constant")).code == 0
    die = partial(inject.die_at, "after training_step", 1)
    ended = run(command(directory, *longer), die)
    problems = wrong_end(ended, KILLED)
    return problems + ends_alike(directory, root, *longer)


def test_without_a_directory_of_its_own_resume_is_refused(forks):
    ended = forks(run, [*KEYS, "resume=auto"])
    assert wrong_end(ended, 2, "hydra.run.dir=DIR") == []


@pytest.mark.parametrize(
    ("key", "told"),
    [
        ("seed=1", "seed was 0 and is 1"),
        ("trainer.threads=2", "threads was 1 and is 2"),
    ],
)
def test_a_run_that_would_end_otherwise_is_refused(key, told, forks, root):
    directory = forks(whole, root).directory
    before = state(directory)
    last = directory / "checkpoints/last.ckpt"
    argv = [a for a in command(root / "other", key) if a != "resume=auto"]
    for given in (command(directory, key), [*argv, f"ckpt_path={last}"]):
        ended = forks(run, given)
        assert wrong_end(ended, 2, told, "allow_changes=true") == []
    assert state(directory) == before
    assert not (root / "other").exists()


def test_two_processes_do_not_share_a_directory(forks, root):
    second, first = forks(_second_process, command(root / "both"), signal.SIGCONT)
    assert wrong_end(second, 2, "another process", "both") == []
    assert first.code == 0


def _second_process(argv: list[str], number: int):
    """Start the same beside a process that trains, which then gets that signal."""
    child = Child(argv)
    child.wait_for_training()
    child.signal(signal.SIGSTOP)
    second = run(argv)
    child.signal(number)
    return second, child.wait()


def test_runs_started_together_have_directories_of_their_own(forks, root):
    codes = forks(_eight, root)
    assert codes == [KILLED] * 8
    assert len(list((root / "outputs/train").iterdir())) == 8


def _eight(root: Path) -> list[int]:
    """Start eight runs at once, which end when they have their directories."""
    children = [
        Child(
            KEYS,
            partial(
                inject.both,
                partial(os.chdir, root),
                partial(inject.die_at, "before create config.yaml", 0),
            ),
        )
        for _ in range(8)
    ]
    return [child.wait().code for child in children]


def test_an_early_stopped_run_goes_on_to_its_results_or_trains_on(forks, root):
    problems, num_epochs = forks(_early_stopped, root)
    assert problems == []
    assert num_epochs == 4


def _early_stopped(root: Path) -> tuple[list[str], int]:
    keys = ("trainer.max_epochs=4", "callbacks.early_stopping.min_delta=100")
    stopping = (*keys, "callbacks.early_stopping.patience=1")
    directory = root / "early"
    die = partial(inject.die_at, "before write results.json", 0)
    ended = run(command(directory, *stopping), die)
    problems = wrong_end(ended, KILLED)
    rows = (directory / "metrics.csv").read_bytes()
    if rows.count(b"\n") != 3:
        problems.append(f"not stopped after two epochs: {rows}")
    problems += ends_alike(directory, root, *stopping)
    more = ("callbacks.early_stopping.patience=null", "allow_changes=true")
    run(command(directory, *keys, *more))
    return problems, (directory / "metrics.csv").read_bytes().count(b"\n") - 1


def test_within_an_epoch_other_batches_are_refused_and_another_seed_may_be_allowed(forks, root):
    refused, ended, seconds = forks(_changed_within_an_epoch, root)
    assert wrong_end(refused, 2, "within an epoch", "data.batch_size=8") == []
    assert (ended.code, ended.err) == (0, "")
    assert 0 < seconds < 100  # counted from the resume, not from the start of the machine


def _changed_within_an_epoch(root: Path):
    directory = root / "changed"
    run(command(directory), partial(inject.die_at, "before training_step", 3))
    allowed = (directory, "allow_changes=true")
    refused = run(command(*allowed, "data.batch_size=8"))
    ended = run(command(*allowed, "seed=1"))
    results = json.loads((directory / "results.json").read_text())
    return refused, ended, results["train_seconds"]


def test_code_that_ends_the_program_is_a_failed_run(forks, root):
    ended = forks(run, command(root / "exits"), inject.exit_in_step)
    assert wrong_end(ended, 1, "sys.exit(0)") == []


def test_ckpt_path_goes_on_in_a_new_directory(forks, root):
    assert forks(_new_directory, root) == []


def _new_directory(root: Path) -> list[str]:
    old, new = root / "old", root / "new"
    assert run(command(old), partial(inject.die_at, "before write *.ckpt", 4)).code == KILLED
    before = state(old)
    keys = [*KEYS, f"ckpt_path={old}/checkpoints/last.ckpt", f"hydra.run.dir={new}"]
    ended = run(keys)
    if ended.code != 0 or state(old) != before:
        return [f"ended with {ended}, or changed {old}"]
    return compare(new, whole(root))


def test_a_damaged_best_checkpoint_is_told_of(forks, root):
    """Going on seeks the best from there; where only the results are missing, the user decides."""
    directory = root / "bad best"
    die = partial(inject.die_at, "before write results.json", 0)
    assert forks(run, command(directory), die).code == KILLED
    best = directory / "checkpoints/best.ckpt"
    content = bytearray(best.read_bytes())
    content[len(content) // 2] ^= 1
    best.unlink()
    best.write_bytes(content)
    before = state(directory)
    ended = forks(run, command(directory))
    assert wrong_end(ended, 2, "best.ckpt", "missing or damaged", "trainer.max_epochs") == []
    assert state(directory) == before
    keys = ("trainer.max_epochs=3", "allow_changes=true")
    ended = forks(run, command(directory, *keys))
    assert wrong_end(ended, 0, "warning", "best.ckpt") == []


# Sweeps


def sweep(directory: Path, *keys: str) -> list[str]:
    return ["-m", *KEYS, *keys, "resume=auto", f"hydra.sweep.dir={directory}"]


def test_a_sweep_is_stopped_and_goes_on_with_what_is_not_finished(forks, root):
    directory = root / "sweep"
    prepare = partial(inject.fail_job_1_and_stop_job_2, 3)
    ended = forks(run, sweep(directory, "seed=0,1,2"), prepare)
    assert ended.code == 143, ended
    failed, stopped = ended.err.splitlines()
    assert failed.startswith("job 1 failed: NonFiniteLoss")
    assert stopped.startswith("error: SIGTERM")
    assert f"resume=auto hydra.sweep.dir={directory}" in stopped
    finished = state(directory / "0")
    ended = forks(run, sweep(directory, "seed=0,1,2"))
    assert (ended.code, ended.err) == (0, "")
    assert state(directory / "0") == finished
    records = json.loads((directory / "sweep.json").read_text())
    assert sorted((r["job"], r["status"]) for r in records) == [(n, "finished") for n in "012"]


def test_a_users_error_in_a_sweep_is_found_before_the_first_job(forks, root):
    directory = root / "wrong sweep"
    ended = forks(run, sweep(directory, "seed=0,1", "optimizer.lr=0.1,-1"))
    assert wrong_end(ended, 2, "optimizer.lr=-1") == []
    assert not directory.exists()


def test_a_sweeps_directory_is_not_shared(forks, root):
    directory = root / "shared sweep"
    second, first = forks(_second_process, sweep(directory, "seed=0,1"), signal.SIGKILL)
    assert wrong_end(second, 2, "another process") == []
    assert first.code == KILLED
    assert os.listdir(directory / "0").count("failure.json") == 0
