import pytest
import torch

from layerscope.training.checkpoints import FACTS_KEY, RunFacts
from layerscope.training.module import Scores, sums_in, sums_of_process

SUMS = {"count": torch.tensor([[3], [4]]), "total": torch.tensor([0.1, 0.2]).double()}


@pytest.mark.parametrize("process", [0, 1])
def test_each_of_as_many_processes_has_its_own_again(process):
    assert sums_of_process(SUMS, process, 2) == {
        "count": torch.tensor([3 + process]),
        "total": SUMS["total"][process],
    }


@pytest.mark.parametrize("processes", [1, 3, 4])
def test_of_another_number_the_first_has_them_all(processes):
    first, *others = (sums_of_process(SUMS, process, processes) for process in range(processes))
    assert first == {"count": torch.tensor([7]), "total": SUMS["total"][0] + SUMS["total"][1]}
    assert all(others == {"count": torch.tensor([0]), "total": 0.0} for others in others)


def test_they_can_be_added_up_among_processes():
    """torchmetrics and a resume with other processes add up sums; means could not be added."""
    scores = Scores(3)
    for metric in (scores.accuracy, scores.loss):
        assert {f.__name__ for f in metric._reductions.values()} == {"dim_zero_sum"}
    assert sums_in({"network.conv.weight": torch.ones(1), **scores.state_dict()}).keys() == set(
        scores.state_dict()
    )


def test_the_checkpoint_of_one_process_says_nothing_of_them():
    checkpoint = {}
    RunFacts({}, {}, 0, {}).put_into(checkpoint)
    assert checkpoint[FACTS_KEY].keys() == {
        *("format", "config", "preprocessing", "batches_seen", "surroundings")
    }


def test_processes_that_begin_with_the_same_memory_do_not_add_into_it():
    scores = Scores(3)
    shared = {name: value for name, value in vars(scores.loss).items() if torch.is_tensor(value)}
    shared |= {name: getattr(scores.accuracy, name) for name in scores.accuracy._defaults}
    scores.update(torch.eye(3), torch.arange(3), torch.tensor(0.5))
    assert shared.keys() >= {"total", "count", "tp"}
    assert all(not value.any() for value in shared.values())
