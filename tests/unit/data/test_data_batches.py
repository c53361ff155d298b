from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from layerscope.data.batches import (
    BatchSettings,
    DeviceBatches,
    ImageSet,
    Normalisation,
    channel_statistics,
)
from layerscope.data.loaders import WorkerBatches
from layerscope.data.order import epoch_plan
from layerscope.data.view import View

CPU = torch.device("cpu")
SETTINGS = BatchSettings(
    seed=3,
    batch_size=10,
    drop_last=True,
    crop_padding=2,
    flip="alternate",
    view=View(16, False, (("a", (0,)), ("b", (1,)))),
    normalisation=Normalisation((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)),
    channels_last=True,
)


def image_set(count, size=16, channels=3, seed=0):
    numbers = np.random.default_rng(seed)
    return ImageSet(
        numbers.integers(0, 256, (count, size, size, channels), dtype=np.uint8),
        numbers.integers(0, 2, count),
    )


SETS = {"train": image_set(47), "val": image_set(23, seed=1), "test": image_set(7, seed=2)}


def test_a_batch_is_what_image_by_image_work_gives():
    images, labels = next(DeviceBatches(SETS, SETTINGS, CPU).train(epoch=1, start=2, stop=3))
    plan = epoch_plan(3, 1, 47, 2, "alternate")
    mean, std = torch.tensor(SETTINGS.normalisation.mean), torch.tensor(SETTINGS.normalisation.std)
    for row, position in enumerate(range(20, 30)):
        pixels = torch.tensor(SETS["train"].images[plan.images[position]]).permute(2, 0, 1) / 255
        padded = F.pad(pixels[None], (2, 2, 2, 2), mode="reflect")[0]
        top, left = plan.crops[position]
        expected = padded[:, top : top + 16, left : left + 16]
        if plan.flipped[position]:
            expected = expected.flip(2)
        expected = (expected - mean[:, None, None]) / std[:, None, None]
        torch.testing.assert_close(images[row], expected, atol=1e-5, rtol=0)
        assert labels[row] == SETS["train"].labels[plan.images[position]]
    assert images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_data_loader_gives_the_same_batches(channels_last):
    settings = replace(SETTINGS, channels_last=channels_last)
    ours = DeviceBatches(SETS, settings, CPU)
    theirs = WorkerBatches(SETS, settings, CPU, num_workers=0)
    pairs = [
        (ours.train(4, 1, 4), theirs.train(4, 1, 4)),
        (ours.evaluate("val", 3), theirs.evaluate("val", 3)),
    ]
    for first, second in pairs:
        batches = list(zip(first, second, strict=True))
        assert len(batches) == 3
        for (images, labels), (other_images, other_labels) in batches:
            torch.testing.assert_close(images, other_images, atol=2e-6, rtol=0)
            assert torch.equal(labels, other_labels)
            assert images.stride() == other_images.stride()


def test_ranks_together_hold_the_single_process_batch():
    (whole, labels), *_ = DeviceBatches(SETS, SETTINGS, CPU).train(0, 0, 1)
    for rank in range(3):
        settings = replace(SETTINGS, rank=rank, num_ranks=3)
        (part, part_labels), *_ = DeviceBatches(SETS, settings, CPU).train(0, 0, 1)
        assert torch.equal(part, whole[rank::3])
        assert torch.equal(part_labels, labels[rank::3])


def test_a_batch_does_not_depend_on_where_one_starts():
    source = DeviceBatches(SETS, SETTINGS, CPU)
    straight = list(source.train(2, 0, 4))
    resumed = list(DeviceBatches(SETS, SETTINGS, CPU).train(2, 3, 4))
    assert torch.equal(straight[3][0], resumed[0][0])


@pytest.mark.parametrize("num_ranks", [1, 4])
def test_every_held_image_is_seen_once(num_ranks):
    seen = []
    for rank in range(num_ranks):
        settings = replace(SETTINGS, rank=rank, num_ranks=num_ranks)
        source = DeviceBatches(SETS, settings, CPU)
        seen += [image for images, _ in source.evaluate("val", 3) for image in images]
    assert len(seen) == 23
    assert len({image.numpy().tobytes() for image in seen}) == 23


def test_the_last_short_batch_is_dropped_or_kept():
    assert SETTINGS.num_train_batches(47) == 4
    kept = replace(SETTINGS, drop_last=False)
    assert kept.num_train_batches(47) == 5
    *_, (images, _) = DeviceBatches(SETS, kept, CPU).train(0, 0, 5)
    assert len(images) == 7


def test_a_larger_view_is_made_on_the_device():
    settings = replace(SETTINGS, view=replace(SETTINGS.view, image_size=40))
    for source in (DeviceBatches(SETS, settings, CPU), WorkerBatches(SETS, settings, CPU, 0)):
        images, _ = next(iter(source.train(0, 0, 1)))
        assert images.shape == (10, 3, 40, 40)


def test_a_channel_that_never_changes_is_only_shifted():
    images = image_set(3).images.copy()
    images[..., 2] = 255
    found = channel_statistics(ImageSet(images, np.zeros(3, np.int64)))
    assert (found.mean[2], found.std[2]) == (1.0, 1.0)


def test_statistics_are_those_of_the_pixels():
    images = image_set(50).images
    found = channel_statistics(ImageSet(images, np.zeros(len(images), np.int64)))
    np.testing.assert_allclose(found.mean, (images / 255).mean((0, 1, 2)), atol=1e-12)
    np.testing.assert_allclose(found.std, (images / 255).std((0, 1, 2)), atol=1e-12)
