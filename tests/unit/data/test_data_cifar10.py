import hashlib
import struct
from dataclasses import replace

import fake_cifar10 as fake
import numpy as np
import pytest

from layerscope.data import cifar10
from layerscope.data.cifar10 import (
    ARRAY_NAMES,
    BINARY_FORM,
    CHANNEL_MEAN,
    CHANNEL_STD,
    SourceError,
    decode_binary,
    decode_npm,
    verify,
)
from layerscope.data.store import load_cifar10


@pytest.mark.parametrize("form", [fake.PYTHON, fake.BINARY, fake.NPM], ids=lambda f: f.form.folder)
def test_every_form_decodes_to_the_same_arrays(form):
    fake.assert_same(form.form.decode(form.members))


def test_a_record_is_a_label_and_three_planes():
    record = bytes([7]) + bytes([1]) * 1024 + bytes([2]) * 1024 + bytes(range(256)) * 4
    arrays = decode_binary(dict.fromkeys(BINARY_FORM.members, record))
    assert arrays.train_labels.tolist() == [7] * 5
    assert arrays.test_images[0, 0, 3].tolist() == [1, 2, 3]  # red, green, blue
    assert arrays.test_images[0, 1, 0].tolist() == [1, 2, 32]  # row-major


def test_a_png_of_unexpected_size_is_not_decoded():
    for size in [(1024, 10_001), (1023, 10), (2**31 - 1, 2**31 - 1)]:
        huge = bytearray(fake.NPM.members["data_batch_1.png"])
        huge[16:24] = struct.pack(">II", *size)
        with pytest.raises(ValueError, match=f"a PNG of {size[0]} x {size[1]} pixels"):
            decode_npm({**fake.NPM.members, "data_batch_1.png": bytes(huge)})


def test_a_grey_png_or_no_png_is_refused():
    grey = fake.png(np.zeros((3, 1024), dtype=np.uint8))
    for content, message in [(grey, "mode L"), (b"GIF89a", "not a PNG")]:
        with pytest.raises(ValueError, match=message):
            decode_npm({**fake.NPM.members, "test_batch.png": content})


def test_verify_accepts_the_true_arrays_and_no_others(monkeypatch):
    monkeypatch.setattr(cifar10, "DECODED_SHA256", fake.SUMS)
    verify(fake.ARRAYS)
    for name in ARRAY_NAMES:
        array = getattr(fake.ARRAYS, name)
        changed = array.copy()
        changed.flat[-1] ^= 1
        with pytest.raises(SourceError, match=f"{name} are not CIFAR-10's"):
            verify(replace(fake.ARRAYS, **{name: changed}))
        for wrong in (array.astype(np.int64), array.view(np.int8), array.reshape(1, -1)):
            with pytest.raises(SourceError, match=f"{name} has the wrong type or shape"):
                verify(replace(fake.ARRAYS, **{name: wrong}))


@pytest.mark.real_data
def test_the_real_arrays_are_the_official_ones():
    """Encoded again as the official binary batches, they have the md5s that are published."""
    arrays = load_cifar10()
    verify(arrays)
    assert arrays.train_images.shape == (50_000, 32, 32, 3)
    assert arrays.test_images.shape == (10_000, 32, 32, 3)
    assert arrays.train_labels[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    assert arrays.test_labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    members = fake.binary_members(arrays)
    sums = {name: hashlib.md5(content).hexdigest() for name, content in members.items()}
    assert sums == BINARY_FORM.members
    verify(decode_binary(members))


@pytest.mark.real_data
def test_the_channel_statistics_are_those_of_the_real_images():
    images = load_cifar10().train_images.reshape(-1, 3)
    levels = np.arange(256) / 255
    for channel in range(3):
        counts = np.bincount(images[:, channel], minlength=256)
        mean = (counts * levels).sum() / counts.sum()
        std = np.sqrt((counts * (levels - mean) ** 2).sum() / counts.sum())
        assert mean == pytest.approx(CHANNEL_MEAN[channel], abs=1e-8)
        assert std == pytest.approx(CHANNEL_STD[channel], abs=1e-8)
