import pickle
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from layerscope.base.errors import UserError
from layerscope.config.schema import CustomDataConfig
from layerscope.data.batches import BatchSettings, Normalisation, StreamedSet
from layerscope.data.custom import KEY, CustomData
from layerscope.data.loaders import WorkerBatches
from layerscope.data.order import epoch_plan
from layerscope.data.view import View

SIZE = 6
CPU = torch.device("cpu")
VIEW = View(SIZE, False, (("a", (0,)), ("b", (1,))))


class Good:
    """Ten items, whose pixels say which item it is; the odd ones are random too."""

    class_names = ("a", "b")

    def __init__(self, split, count=10):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        pixels = np.full((SIZE, SIZE, 3), index, dtype=np.uint8)
        if index % 2:
            drawn = (np.random.randint(256), random.randrange(256), int(torch.randint(256, ())))
            pixels[0, 0] = drawn
        return self.image(pixels), index % 2

    def image(self, pixels):
        return pixels


class Chw(Good):
    def image(self, pixels):
        return torch.from_numpy(pixels).permute(2, 0, 1)


class Pil(Good):
    def image(self, pixels):
        return Image.fromarray(pixels)


class Floats(Good):
    def image(self, pixels):
        return torch.from_numpy(pixels).permute(2, 0, 1) / 255


class Oblong(Good):
    def image(self, pixels):
        return pixels[:3]


class Grows(Good):
    def image(self, pixels):
        return np.tile(pixels, (2, 2, 1)) if pixels[1, 0, 0] > 5 else pixels


class WrongLabel(Good):
    def __getitem__(self, index):
        return super().__getitem__(index)[0], 2


class Fails(Good):
    def __getitem__(self, index):
        raise FileNotFoundError("photo 7.png")


class Unseeded(Good):
    own = np.random.default_rng(0)

    def image(self, pixels):
        return pixels + self.own.integers(100, dtype=np.uint8)


class NoNames(Good):
    class_names = "ab"


class NoLength:
    class_names = ("a", "b")

    def __init__(self, split):
        pass

    def __getitem__(self, index):
        return None


class Empty(Good):
    def __len__(self):
        return 0


def config(loader="workers", **arguments):
    return CustomDataConfig(
        name="custom", _target_="a.file", batch_size=1, drop_last=True, image_size=None,
        grayscale=None, groups=None, crop_padding=None, flip="none", loader=loader, num_workers=0,
        **arguments,
    )  # fmt: skip


def opened(name, seed=0, **keys):
    return CustomData(config(**keys), {KEY: f"{__name__}.{name}"}, 8, seed)


def epoch_of(data, epoch=0, num_workers=0, ranks=1, start=0):
    """All images and labels of an epoch, in its order."""
    settings = BatchSettings(
        seed=0, batch_size=4, drop_last=False, crop_padding=0, flip="none", view=VIEW,
        normalisation=Normalisation((0.0,) * 3, (1.0,) * 3), channels_last=False,
    )  # fmt: skip
    rows = np.arange(len(data.labels("train")))
    images = StreamedSet(data.reader("train"), rows, data.labels("train"), VIEW)
    batches = []
    for rank in range(ranks):
        of_rank = replace(settings, rank=rank, num_ranks=ranks)
        source = WorkerBatches({"train": images}, of_rank, CPU, num_workers)
        batches.append(list(source.train(epoch, start, 3)))
    # Row r, r + W, ... of each batch: interleave the ranks again.
    joined = []
    for parts in zip(*batches, strict=True):
        size = sum(len(labels) for _, labels in parts)
        whole = torch.empty(size, 3, SIZE, SIZE), torch.empty(size, dtype=torch.int64)
        for rank, part in enumerate(parts):
            for target, values in zip(whole, part, strict=True):
                target[rank::ranks] = values
        joined.append(whole)
    return tuple(torch.cat(parts) for parts in zip(*joined, strict=True))


def test_batches_depend_on_seed_epoch_and_index_alone():
    data = opened("Good")
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    facts = data.prepare(["train", "val"], print)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()
    images, labels = epoch_of(data)
    again = opened("Good")
    again.prepare(["train"], print)
    sent = pickle.loads(pickle.dumps(data))  # to a process that is started for training
    for other in (
        epoch_of(sent),
        epoch_of(data, num_workers=2),
        epoch_of(data, ranks=2),
        epoch_of(again),
    ):
        assert torch.equal(other[0], images)
        assert torch.equal(other[1], labels)
    assert torch.equal(epoch_of(data, start=1)[0], images[4:])
    assert facts["sha256"]["train_images"] != facts["sha256"]["val_images"]  # another seed


@pytest.mark.parametrize("epoch", [0, 1])
def test_an_epoch_has_its_own_items_in_its_own_order(epoch):
    data = opened("Good")
    data.prepare(["train"], print)
    images, _ = epoch_of(data, epoch)
    order = epoch_plan(0, epoch, 10, 0, "none").images
    expected = np.stack([data.reader("train")(int(item), epoch) for item in order])
    assert (images.permute(0, 2, 3, 1).mul(255).round().numpy() == expected).all()


def test_random_items_are_drawn_anew_in_each_epoch_and_by_each_seed():
    def corners(data, epoch):
        return {int(item): data.reader("train")(item, epoch)[0, 0].tolist() for item in range(10)}

    data, other = opened("Good"), opened("Good", seed=1)
    assert len({tuple(corners(data, 0)[item]) for item in range(1, 10, 2)}) == 5
    first, second, seeded = corners(data, 0), corners(data, 1), corners(other, 0)
    for item in range(10):
        is_random = item % 2 == 1
        assert (first[item] != second[item]) == is_random
        assert (first[item] != seeded[item]) == is_random


@pytest.mark.parametrize("name", ["Chw", "Pil"])
def test_images_of_every_kind_are_the_same(name):
    assert (
        opened(name).prepare(["val"], print)["sha256"]
        == (opened("Good").prepare(["val"], print)["sha256"])
    )


def test_keys_are_passed_and_random_items_in_memory_are_told():
    data = opened("Good", loader="device", count=4)
    data.prepare(["train"], print)
    assert data.images("train").shape == (4, SIZE, SIZE, 3)
    assert data.stored_size == SIZE
    assert "data.loader=workers draws them anew" in data.warnings[0]


REFUSED = {
    "Floats": "item 0 of the train split is float32: give uint8",
    "Oblong": "item 0 of the train split has the shape (3, 6, 3)",
    "Grows": "item 6 of the train split is 12 x 12 and the first one 6 x 6",
    "WrongLabel": "has the label 2: give a whole number from 0 to 1",
    "Fails": "cannot be read (FileNotFoundError: photo 7.png)",
    "Unseeded": "is another image when it is read again with the same seed",
    "NoNames": "class_names must be a list of texts",
    "NoLength": "has no __len__",
    "Empty": "the train split has no item",
    "Missing": "cannot be imported",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_broken_contract_is_named(name):
    with pytest.raises(UserError) as refused:
        opened(name).prepare(["train"], print)
    assert REFUSED[name] in str(refused.value)
    assert f"data._target_={__name__}.{name}" in str(refused.value)


def test_a_class_is_never_taken_from_a_file():
    with pytest.raises(UserError, match=r"type it yourself, data\._target_=a\.file"):
        CustomData(config(), {}, 8, 0)
