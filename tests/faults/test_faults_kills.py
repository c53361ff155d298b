"""kill -9, signals, failing disks and damaged files, once or twice; full.py has hundreds."""

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


# Also what the mutants are caught by, below.
KILLS = {
    "within an epoch": ("after training_step", 3),
    "in validation": ("before validation_step", 1),
    "between a row and its checkpoint": ("before write best.ckpt", 0),
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


WORKERS = [("data.loader=workers", f"data.num_workers={count}") for count in (0, 1)]
FAILING = [("write", "last.ckpt", errno.ENOSPC), ("append", "metrics.csv", errno.EROFS)]
SCENARIOS = {
    "killed at random, again and again": (scenarios.random_kills, 1, 0, [()]),
    "resumed with another number of loader workers": (scenarios.random_kills, 1, 3, WORKERS),
    "killed inside a checkpoint's write": (scenarios.kills_inside_checkpoints, 1, 0, "/dev/shm"),
    "killed inside a row of a log": (scenarios.kills_inside_rows, 1, 0),
    "SIGTERM": (scenarios.signals, signal.SIGTERM, 1, 1),
    "SIGINT": (scenarios.signals, signal.SIGINT, 1, 1),
    "damaged checkpoints": (scenarios.damaged_checkpoints, 12, 0),
    "failing writes": (scenarios.failing_writes, FAILING),
    "a limit of the file's size": (scenarios.file_size_limits, [10_000]),
    "a really full disk": (scenarios.full_disks, [70_000]),
    "killed fetches": (scenarios.killed_fetches, 1, 0),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_is_lost(name, forks, root):
    scenario, *arguments = SCENARIOS[name]
    figure = forks(scenario, *arguments, root)
    if figure.note.startswith("not possible here"):
        pytest.skip(figure.note)
    assert figure.tried
    assert figure.lost == []


@pytest.mark.parametrize("when", KILLS)
def test_killed(when, forks, root):
    assert forks(scenarios.killed_and_resumed, *KILLS[when], None, root) == []


def test_nothing_has_its_name_before_it_is_on_the_disk(forks, root):
    assert scenarios.careless(forks(scenarios.events, root)) == []


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_mutant_is_caught_where_it_is_killed(mutant, forks, root):
    problems = forks(scenarios.killed_and_resumed, *KILLS[MUTANTS[mutant]], mutant, root)
    assert problems != []
    assert not problems[0].startswith("was not killed")


@pytest.mark.parametrize("mutant", DISK_MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_mutant_is_caught_where_it_asks_too_little_of_the_disk(mutant, forks, root):
    problems = forks(scenarios.careless_writes, mutant, root)
    assert any(DISK_MUTANTS[mutant] in problem for problem in problems)


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
    """The best checkpoint is being tested then."""
    assert forks(_stopped_in_the_test, signal.SIGINT, root) == []


def _stopped_in_the_test(number: int, root: Path) -> list[str]:
    directory = root / f"tested {number}"
    ended = harness.run(
        scenarios.command(directory), partial(inject.signal_in, "test_step", number)
    )
    told = f"resume=auto hydra.run.dir={directory}"
    return scenarios.wrong_end(ended, 128 + number, told) + scenarios.ends_alike(directory, root)


def test_a_signal_to_the_loaders_workers_too(forks, root):
    """They are in the group that is told to stop, and their batches are needed until then."""
    assert forks(_stopped_with_workers, signal.SIGTERM, root) == []


def _stopped_with_workers(number: int, root: Path) -> list[str]:
    directory, loader = root / "stopped with workers", "data.loader=workers"
    argv = scenarios.command(directory, loader, "data.num_workers=1")
    ended = harness.run(argv, partial(inject.signal_all_after, 3, number))
    problems = scenarios.wrong_end(ended, 128 + number, "ended after step 3")
    return problems + scenarios.ends_alike(directory, root, loader, "data.num_workers=0")
