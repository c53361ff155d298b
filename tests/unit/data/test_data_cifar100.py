import hashlib
import struct
from dataclasses import replace

import fake_cifar10 as fake
import numpy as np
import pytest

from layerscope.base.errors import UserError
from layerscope.config.schema import Cifar100Config
from layerscope.data.cifar100 import ARCHIVE, COARSE, FINE, Cifar100

random = np.random.default_rng(0)
TRAIN = (random.integers(0, 256, (200, 32, 32, 3), dtype=np.uint8), np.arange(200) % 100)
TEST = (random.integers(0, 256, (100, 32, 32, 3), dtype=np.uint8), np.arange(100))


def python2_pickle(images, labels, global_name=b"numpy.core.multiarray\n_reconstruct"):
    """Pickle as Python 2 and its NumPy wrote the official archive, operation by operation."""
    data = fake.planes(images).tobytes()
    return b"".join(
        [
            b"\x80\x02}(U\x0bfine_labels](",
            b"".join(b"K" + bytes([label]) for label in labels),
            b"eU\rcoarse_labels](",
            b"".join(b"K" + bytes([label // 5]) for label in labels),
            b"eU\x04datac" + global_name + b"\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
            b"(K\x01M" + struct.pack("<H", len(images)) + b"M\x00\x0c\x86",
            b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNN",
            b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
            b"T" + struct.pack("<i", len(data)) + data + b"tbu.",
        ]
    )


MEMBERS = {"train": python2_pickle(*TRAIN), "test": python2_pickle(*TEST), "meta": b"unread"}


def form_of(members):
    """The published form with the sums of these members, and their archive."""
    archive = fake.archive_bytes(ARCHIVE.folder, members)
    sums = {name: hashlib.md5(members[name]).hexdigest() for name in ARCHIVE.members}
    archive_sum = f"md5:{hashlib.md5(archive).hexdigest()}"
    return replace(ARCHIVE, archive_sum=archive_sum, members=sums), archive


FORM, CONTENT = form_of(MEMBERS)


def opened(directory, form=FORM, labels="fine"):
    config = Cifar100Config(
        name="cifar100", dir=str(directory), labels=labels, val_size=100, batch_size=1,
        drop_last=True, image_size=None, grayscale=None, groups=None, crop_padding=None,
        flip="none", loader="device", num_workers=0,
    )  # fmt: skip
    return Cifar100(config, form)


@pytest.mark.parametrize("is_unpacked", [False, True])
def test_the_archive_is_decoded_once_and_kept(is_unpacked, tmp_path):
    source = tmp_path / (FORM.folder if is_unpacked else FORM.archive)
    if is_unpacked:
        source.mkdir()
        for name, content in MEMBERS.items():
            (source / name).write_bytes(content)
    else:
        source.write_bytes(CONTENT)
    assert not opened(tmp_path).is_decoded
    facts = opened(tmp_path).prepare(["train"], print)
    assert opened(tmp_path).is_decoded
    source.rename(tmp_path / "gone")
    data, coarse = opened(tmp_path), opened(tmp_path, labels="coarse")
    assert data.prepare(["train"], print) == facts
    assert (data.images("test") == TEST[0]).all()
    assert (data.labels("test") == TEST[1]).all()
    for split in ("train", "val"):
        assert sorted(data.labels(split)) == list(range(100))
    seen = np.concatenate([data.images("train"), data.images("val")])
    assert {image.tobytes() for image in seen} == {image.tobytes() for image in TRAIN[0]}
    assert (len(data.class_names), len(coarse.class_names)) == (100, 20)
    assert (
        coarse.prepare(["train"], print)["sha256"]["train_labels"]
        != (facts["sha256"]["train_labels"])
    )
    assert (coarse.images("val") == data.images("val")).all()
    assert (coarse.labels("val") == data.labels("val") // 5).all()
    assert facts["source"] == "official archive cifar-100-python.tar.gz"


def test_the_names_are_sorted_and_all_there():
    assert sorted(set(FINE)) == list(FINE)
    assert sorted(set(COARSE)) == list(COARSE)


def test_without_the_archive_the_error_says_where_to_put_it(tmp_path):
    with pytest.raises(UserError, match=r"put cifar-100-python\.tar\.gz there"):
        opened(tmp_path / "none").prepare(["train"], print)
    assert not (tmp_path / "none").exists()


def test_another_archive_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / FORM.archive).write_bytes(CONTENT)
    with pytest.raises(UserError, match="wrong md5"):
        opened(tmp_path, ARCHIVE).prepare(["train"], print)


def test_no_pickle_runs_anything(tmp_path):
    form, content = form_of({**MEMBERS, "train": python2_pickle(*TRAIN, b"os\nsystem")})
    (tmp_path / form.archive).write_bytes(content)
    with pytest.raises(UserError, match=r"a batch does not need os\.system"):
        opened(tmp_path, form).prepare(["train"], print)
