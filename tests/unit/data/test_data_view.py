import numpy as np
import pytest
import torch
from torch.nn import functional as F

from layerscope.base.errors import UserError
from layerscope.config.schema import SimpleCNNConfig, SyntheticConfig
from layerscope.data.cifar10 import CLASS_NAMES
from layerscope.data.view import LUMA, View, see_images, see_labels, see_pixels, view_for

ALL = tuple((name, (index,)) for index, name in enumerate(CLASS_NAMES))


def data(**keys):
    values = {
        "name": "synthetic", "num_train": 1, "num_val": 1, "num_test": 1, "batch_size": 1,
        "drop_last": True, "image_size": None, "grayscale": None, "groups": None,
        "crop_padding": None, "flip": "none", "loader": "device", "num_workers": 0,
    }  # fmt: skip
    return SyntheticConfig(**(values | keys))


def model(input_shape=(1, 8, 8), num_classes=2):
    return SimpleCNNConfig(
        family="simple_cnn", input_shape=input_shape, num_classes=num_classes, channels=(2,),
        kernel_size=3, width=1.0,
    )  # fmt: skip


def test_the_view_follows_the_network():
    assert view_for(data(), model((3, 32, 32), 10), CLASS_NAMES) == View(32, False, ALL)
    tiny = view_for(data(), model(), CLASS_NAMES)
    assert (tiny.image_size, tiny.grayscale, tiny.class_names) == (8, True, ("animals", "vehicles"))
    assert [len(members) for _, members in tiny.groups] == [6, 4]


def test_groups_by_key_leave_other_classes_out():
    view = view_for(data(groups={"pets": ("cat", "dog"), "birds": ("bird",)}), model(), CLASS_NAMES)
    labels = see_labels(np.arange(10, dtype=np.uint8), view)
    assert labels.tolist() == [-1, -1, 1, 0, -1, 0, -1, -1, -1, -1]


def test_small_images_are_block_means_of_the_luma():
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    seen = see_images(images, View(8, True, ALL))
    luma = images @ np.array([0.299, 0.587, 0.114])
    expected = luma.reshape(5, 8, 4, 8, 4).mean((2, 4))
    assert seen.shape == (5, 8, 8, 1)
    assert np.abs(seen[..., 0] - expected).max() <= 0.5 + 1e-9


def test_the_full_view_copies_nothing():
    images = np.zeros((2, 32, 32, 3), dtype=np.uint8)
    assert see_images(images, View(32, False, ALL)) is images
    assert see_images(images, View(224, False, ALL)) is images  # enlarged later, on the device


@pytest.mark.parametrize(
    ("data_keys", "model_keys", "named"),
    [
        ({}, {"input_shape": (1, 8, 6)}, "model.input_shape"),
        ({}, {"input_shape": (2, 8, 8)}, "model.input_shape"),
        ({"image_size": 16}, {}, "data.image_size=16"),
        ({"grayscale": False}, {}, "data.grayscale=False"),
        ({}, {"num_classes": 3}, "model.num_classes=3"),
        ({"groups": {"a": ("cat",)}}, {}, "data.groups"),
        ({"groups": {"a": ("cat",), "b": ("cow",)}}, {}, "data.groups.b"),
        ({"groups": {"a": ("cat",), "b": ("cat",)}}, {}, "data.groups.b"),
        ({"groups": {"a": ("cat",), "b": ()}}, {}, "data.groups.b"),
    ],
)
def test_what_cannot_be_is_refused_by_key(data_keys, model_keys, named):
    with pytest.raises(UserError, match=named.replace(".", r"\.")):
        view_for(data(**data_keys), model(**model_keys), CLASS_NAMES)


@pytest.mark.parametrize("grayscale", [False, True])
def test_smaller_images_are_torchs_adaptive_average_to_the_bit(grayscale):
    for stored in (32, 37):
        images = torch.randint(256, (3, stored, stored, 3), dtype=torch.uint8)
        planes = images.permute(0, 3, 1, 2).double()
        if grayscale:
            planes = torch.einsum("nchw,c->nhw", planes, torch.tensor(LUMA, dtype=torch.double))
            planes = planes[:, None]
        for size in range(1, stored):
            averages = F.adaptive_avg_pool2d(planes, size).round().to(torch.uint8)
            seen = see_pixels(images, View(size, grayscale, ALL))
            assert torch.equal(seen.permute(0, 3, 1, 2), averages), (stored, size)
