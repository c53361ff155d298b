import pytest
import torch
from torch.nn import functional as F

from layerscope.training.module import ImageMean, Scores, as_number


def test_the_mean_is_over_images_not_over_batches():
    mean = ImageMean()
    mean.update(torch.tensor(1.0), 7)
    mean.update(torch.tensor(2.0), 1)
    assert mean.compute().item() == 1.125


@pytest.mark.parametrize("batch_size", [1, 7, 16, 50])
def test_scores_do_not_depend_on_the_batch_size(batch_size):
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(50, 4, generator=generator)
    labels = torch.randint(0, 4, (50,), generator=generator)
    scores = Scores(4)
    for part, truth in zip(outputs.split(batch_size), labels.split(batch_size), strict=True):
        scores.update(part, truth, F.cross_entropy(part, truth))
    loss, accuracy = scores.take()
    torch.testing.assert_close(loss, F.cross_entropy(outputs, labels))
    assert accuracy == (outputs.argmax(1) == labels).float().mean()


def test_a_nan_shows():
    mean = ImageMean()
    mean.update(torch.tensor(float("nan")), 3)
    assert mean.compute().isnan()


def test_the_sums_are_in_the_checkpoint():
    scores = Scores(3)
    scores.update(torch.eye(3), torch.arange(3), torch.tensor(0.5))
    resumed = Scores(3)
    resumed.load_state_dict(scores.state_dict())
    resumed.update(torch.eye(3)[:1], torch.tensor([1]), torch.tensor(2.5))
    assert resumed.take() == (torch.tensor(1.0), torch.tensor(0.75))


def test_numbers_are_written_as_short_as_they_are():
    assert as_number(torch.tensor(0.994)) == 0.994
