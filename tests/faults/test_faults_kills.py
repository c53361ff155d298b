"""kill -9, signals and damaged files, each once or twice; full.py has hundreds of them."""

import errno
import signal
from functools import partial
from pathlib import Path

import harness
import injections as inject
import pytest
import scenarios


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Shared, since the run that others are compared with lies there."""
    return tmp_path_factory.mktemp("faults")


def held(figure):
    assert figure.tried
    assert figure.lost == []


# Also what the mutants are caught by, below.
KILLS = {
    "within an epoch": ("after training_step", 3),
    "in validation": ("before validation_step", 1),
    "between a row and its checkpoint": ("after append fsync timing.csv", 0),
    "between best.ckpt and last.ckpt": ("before link last.ckpt", 0),
}
MUTANTS = {
    inject.no_step_seed: "within an epoch",
    inject.sums_not_persistent: "within an epoch",
    inject.table_not_truncated: "between a row and its checkpoint",
    inject.saved_before_validation: "in validation",
}
DISK_MUTANTS = {
    inject.not_renamed: "last.ckpt is not synced",
    inject.rows_not_synced: "metrics.csv is not synced",
    inject.files_not_synced: "config.yaml is not synced",
    inject.folders_not_synced: "the folder of best.ckpt is not synced",
}


@pytest.mark.parametrize("when", KILLS)
def test_killed(when, forks, root):
    assert forks(scenarios.killed_and_resumed, *KILLS[when], None, (), root) == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_mutant_is_caught(mutant, forks, root):
    """By the test above, of the same name."""
    problems = forks(scenarios.killed_and_resumed, *KILLS[MUTANTS[mutant]], mutant, (), root)
    assert problems != []
    assert not problems[0].startswith("was not killed")


def test_nothing_has_its_name_before_it_is_on_the_disk(forks, root):
    assert scenarios.careless(forks(scenarios.events, root)) == []


@pytest.mark.parametrize("mutant", DISK_MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_mutant_of_the_disk_is_caught(mutant, forks, root):
    """By the test above."""
    problems = forks(scenarios.careless_writes, mutant, root)
    assert any(DISK_MUTANTS[mutant] in problem for problem in problems)


def test_killed_at_random_again_and_again(forks, root):
    held(forks(scenarios.random_kills, 1, 0, [()], root))


def test_killed_and_resumed_with_another_number_of_loader_workers(forks, root):
    keys = [("data.loader=workers", f"data.num_workers={count}") for count in (0, 1)]
    held(forks(scenarios.random_kills, 1, 3, keys, root))


def test_killed_inside_a_checkpoints_write_with_another_temporary_directory(forks, root):
    held(forks(scenarios.kills_inside_checkpoints, 1, 0, "/dev/shm", root))


def test_killed_inside_a_row_of_a_log(forks, root):
    held(forks(scenarios.kills_inside_rows, 1, 0, root))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_how_to_go_on(number, forks, root):
    held(forks(scenarios.signals, number, 1, 1, root))


def test_damaged_checkpoints_are_noticed(forks, root):
    held(forks(scenarios.damaged_checkpoints, 12, 0, root))


def test_a_failing_write_ends_in_one_line_and_can_be_gone_on_from(forks, root):
    cases = [("write", "last.ckpt", errno.ENOSPC), ("append", "metrics.csv", errno.EROFS)]
    held(forks(scenarios.failing_writes, cases, root))


def test_a_limit_of_the_files_size(forks, root):
    held(forks(scenarios.file_size_limits, [10_000], root))


def test_a_really_full_disk(forks, root):
    figure = forks(scenarios.full_disks, [70_000], root)
    if figure.note:
        pytest.skip(figure.note)
    held(figure)


def test_concurrent_fetches_are_killed(forks, root):
    held(forks(scenarios.killed_fetches, 1, 0, root))


def test_a_forked_process_lets_go_of_the_lock(forks, root):
    """A loader's worker may outlive the run by seconds, which must not hinder the next."""
    assert forks(_ends_beside_an_orphan, root) == []


def _ends_beside_an_orphan(root: Path) -> list[str]:
    directory = root / "orphan"
    ended = harness.run(
        scenarios.command(directory), partial(inject.fork_and_die_after, 3, seconds=2.0)
    )
    assert ended.code == harness.KILLED, ended
    return scenarios.ends_alike(directory, root)


def test_a_signal_behind_the_last_epoch_is_heard(forks, root):
    """While the best checkpoint is tested."""
    assert forks(_stopped_in_the_test, signal.SIGINT, root) == []


def _stopped_in_the_test(number: int, root: Path) -> list[str]:
    directory = root / f"tested {number}"
    ended = harness.run(
        scenarios.command(directory), partial(inject.signal_in, "test_step", number)
    )
    problems = [] if ended.code == 128 + number else [f"ended with {ended}"]
    problems += scenarios.one_line(ended.err, f"resume=auto hydra.run.dir={directory}")
    return problems + scenarios.ends_alike(directory, root)


def test_a_signal_to_the_loaders_workers_too(forks, root):
    """They are in the group that is told to stop, and their batches are needed until then."""
    assert forks(_stopped_with_workers, signal.SIGTERM, root) == []


def _stopped_with_workers(number: int, root: Path) -> list[str]:
    directory, loader = root / "stopped with workers", "data.loader=workers"
    argv = scenarios.command(directory, loader, "data.num_workers=1")
    ended = harness.run(argv, partial(inject.signal_all_after, 3, number))
    problems = [] if ended.code == 128 + number else [f"ended with {ended}"]
    problems += scenarios.one_line(ended.err, "ended after step 3")
    return problems + scenarios.ends_alike(directory, root, loader, "data.num_workers=0")
