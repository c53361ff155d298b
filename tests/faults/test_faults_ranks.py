"""Several processes that train together, stopped and killed; full.py has real ones, and more."""

import copy
import signal
from functools import partial

import harness
import injections as inject
import pytest
import scenarios
import torch
from faulty_network import Small

from layerscope.base.errors import UserError
from layerscope.training.checkpoint_validation import validate_checkpoint
from layerscope.training.checkpoints import FACTS_KEY, RunFacts, read_checkpoint

A_SUM = "train_scores.loss.total"
A_COUNT = "train_scores.loss.count"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Shared, since the run that others are compared with lies there."""
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def killed(forks, root):
    """A run of three processes, and how it ended when one of them was killed in its third step."""
    directory = root / "killed"
    ended = forks(scenarios.stopped_among_three, directory, 1, inject.die, inject.forked_processes)
    return directory, ended


@pytest.fixture(scope="module")
def checkpoint(killed):
    """The last checkpoint of that run, within an epoch."""
    return read_checkpoint(killed[0] / "checkpoints/last.ckpt")


def restore(checkpoint):
    config = RunFacts.of(checkpoint).parsed_config()
    validate_checkpoint(checkpoint, Small(), config)


def test_each_process_has_its_sums_in_the_checkpoint(checkpoint):
    restore(checkpoint)
    sums = checkpoint[FACTS_KEY]["sums"]
    assert sums[A_COUNT].tolist() == [10, 10, 10]
    assert len(set(sums[A_SUM].tolist())) == 3
    assert checkpoint["state_dict"][A_SUM] == sums[A_SUM][0]


@pytest.mark.parametrize(
    ("place", "junk"),
    [
        (("sums", A_SUM), torch.tensor([1.0, float("nan"), 1.0]).double()),
        (("sums", A_SUM), torch.full((3,), 1e308, dtype=torch.float64)),  # which add up to infinity
        (("sums", A_SUM), torch.ones(3)),
        (("sums", A_SUM), torch.ones(2).double()),
        (("sums", A_SUM), torch.ones(3, 3).double()),
        (("sums", A_SUM), torch.tensor(1.0).double()),
        (("sums", A_SUM), torch.ones(3, dtype=torch.complex64)),
        (("sums", A_SUM), torch.ones(3).to(torch.float8_e4m3fn)),
        (("sums", A_COUNT), torch.tensor([1, -1, 1])),
        (("sums", A_COUNT), torch.tensor([1, 2**53 + 1, 1])),
        (("sums", A_COUNT), torch.full((3,), 2**53)),
        (("sums", A_COUNT), None),
        (("sums", "more"), torch.ones(3)),
        (("sums", 7), torch.ones(3)),
        (("sums",), "x"),
        (("surroundings", "processes"), 2),
        (("surroundings", "processes"), 10**30),
        (("surroundings", "processes"), "3"),
        (("surroundings", "processes"), 3.0),
    ],
)
def test_junk_in_the_sums_is_refused(place, junk, checkpoint):
    changed = {**checkpoint, FACTS_KEY: copy.deepcopy(checkpoint[FACTS_KEY])}
    *parents, last = place
    section = changed[FACTS_KEY]
    for key in parents:
        section = section[key]
    section[last] = junk
    with pytest.raises(UserError, match=r"the checkpoint's (sums|surroundings|facts)"):
        restore(changed)


def test_one_of_three_is_killed_within_an_epoch(killed, forks, root):
    directory, ended = killed
    problems = forks(scenarios.three_resume, ended, directory, 1, 2, inject.forked_processes, root)
    assert problems == []
    hint = f"to resume, run the same command with resume=auto hydra.run.dir={directory}"
    assert ended.err == f"error: process 1 was killed by SIGKILL; {hint}\n"


def test_a_signal_reaches_all_and_each_goes_on_with_its_sums(forks, root):
    directory, program = root / "stopped", inject.forked_processes
    act = partial(inject.signal_parent, signal.SIGINT)
    ended = forks(scenarios.stopped_among_three, directory, 2, act, program)
    assert forks(scenarios.three_resume, ended, directory, 130, 4, program, root) == []
    # It comes at the end of step 3; they tell each other in the next step's message.
    assert ended.err.startswith("error: SIGINT: ended after step 4, saved "), ended
    assert ended.err.count("\n") == 1


def test_none_outlives_the_one_that_waits_for_them(forks, root):
    """Nor writes a checkpoint: a run that goes on may be at work by then."""
    directory, program = root / "left", inject.forked_processes
    act = partial(inject.signal_parent, signal.SIGKILL)
    ended = forks(scenarios.stopped_among_three, directory, 0, act, program)
    assert forks(scenarios.three_resume, ended, directory, harness.KILLED, 2, program, root) == []
    assert ended.err == ""


def test_sums_of_the_first_process_alone_are_caught(forks, root):
    """The tests above catch this mutant; full.py has more."""
    directory, mutant = root / "mutant", inject.sums_of_the_first_process
    ended = forks(scenarios.stopped_among_three, directory, 1, inject.die, mutant)
    case = (ended, directory, 1, 2, mutant, root, inject.forked_processes)
    assert forks(scenarios.three_resume, *case) == [".metrics"]
