import os
import pickle
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parents[2] / "integration"))
from bad_input import IMAGES

from layerscope.base.errors import UserError
from layerscope.config.schema import ImageFolderConfig
from layerscope.data.image_folder import ImageFolder
from layerscope.data.sets import SPLITS

SIZE = 8
BASE = {
    "name": "imagefolder", "val_size": 0.1, "test_size": 0.2, "batch_size": 2, "drop_last": True,
    "image_size": None, "grayscale": None, "groups": None, "crop_padding": None, "flip": "none",
    "loader": "device", "num_workers": 0,
}  # fmt: skip


def opened(root, **keys):
    values = {"dir": str(root), "cache": str(root.parent / "cache"), **keys}
    return ImageFolder(ImageFolderConfig(**BASE | values), SIZE)


def prepared(root, splits=SPLITS, **keys):
    lines = []
    data = opened(root, **keys)
    return data, data.prepare(splits, lines.append), lines


def save(path, colour, size=(20, 12), **keys):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(keys.pop("mode", "RGB"), size, colour).save(path, **keys)


@pytest.fixture
def photos(tmp_path):
    for label, name in enumerate(("b cat", "a dog")):
        for number in range(10):
            save(tmp_path / f"photos/{name}/{number:02}.png", (label, number, 7))
    return tmp_path / "photos"


def test_classes_and_pictures_are_in_the_order_of_their_names(photos):
    data, facts, lines = prepared(photos)
    assert data.class_names == ("a dog", "b cat")
    assert [len(data.labels(split)) for split in SPLITS] == [14, 2, 4]
    found = [tuple(image[0, 0, :2]) for split in SPLITS for image in data.images(split)]
    assert sorted(found) == [(label, number) for label in (0, 1) for number in range(10)]
    for split in SPLITS:
        assert data.images(split).shape[1:] == (SIZE, SIZE, 3)
        assert (1 - data.images(split)[:, 0, 0, 0] == data.labels(split)).all()
    assert sum("decoding" in line for line in lines) == 3
    again, same_facts, silent = prepared(photos)
    assert (same_facts, silent) == (facts, [])
    assert (again.images("train") == data.images("train")).all()
    content = pickle.dumps(data)  # for a process that is started for training
    assert data.images("train").tobytes() not in content
    assert (pickle.loads(content).images("train") == data.images("train")).all()


@pytest.mark.parametrize("said", [18, 0.95])
def test_a_split_that_leaves_nothing_is_told_as_the_user_gave_it(said, photos):
    with pytest.raises(UserError, match=f"val_size={said} leaves none of 16 images"):
        prepared(photos, val_size=said)


def test_splits_with_folders_of_their_own_are_taken_as_they_are(photos, tmp_path):
    root = tmp_path / "split"
    shutil.copytree(photos, root / "train")
    shutil.copytree(photos / "b cat", root / "test/b cat")  # a class may have nothing to test with
    data, _, _ = prepared(root)
    assert [len(data.labels(split)) for split in SPLITS] == [18, 2, 10]
    assert set(data.labels("test")) == {1}
    tested, _, _ = prepared(photos, ["test"], test_size=1.0)
    assert len(tested.labels("test")) == 20


def test_a_changed_picture_is_decoded_anew(photos):
    _, facts, _ = prepared(photos)
    for path in photos.rglob("*.png"):
        save(path, (9, 9, 9))
    data, changed, lines = prepared(photos)
    assert lines != []
    assert changed != facts
    assert (data.images("val") == 9).all()


def test_a_damaged_cache_is_made_anew(photos, tmp_path):
    data, facts, _ = prepared(photos)
    expected = {split: data.images(split).copy() for split in SPLITS}
    for number, path in enumerate(sorted((tmp_path / "cache").rglob("*.bin"))):
        content = bytearray(path.read_bytes())
        content[5] ^= 1
        path.write_bytes(content if number else content[:100])
        (path.parent / f".{path.name}.abc.tmp").write_bytes(b"of a process that was killed")
    data, again, lines = prepared(photos)
    assert again == facts
    assert len(lines) == 3
    assert list((tmp_path / "cache").rglob(".*")) == []
    assert all((data.images(split) == expected[split]).all() for split in SPLITS)


PICTURES = {
    "gray.png": ({"mode": "L", "colour": 70}, (70, 70, 70)),
    "transparent.png": ({"mode": "RGBA", "colour": (0, 0, 0, 0)}, (255, 255, 255)),
    "print.jpg": ({"mode": "CMYK", "colour": (0, 0, 0, 0), "quality": 100}, (255, 255, 255)),
    "palette.gif": ({"mode": "P", "colour": 0}, (0, 0, 0)),
    os.fsdecode(b"caf\xe9.png"): ({"mode": "RGB", "colour": (1, 2, 3)}, (1, 2, 3)),
}


@pytest.mark.parametrize("name", PICTURES, ids=ascii)
def test_pictures_of_every_kind_are_read(name, photos):
    keys, expected = PICTURES[name]
    save(photos / "a dog" / name, **keys)
    data, _, _ = prepared(photos, ["test"], test_size=1.0)
    assert expected in {tuple(map(int, image[0, 0])) for image in data.images("test")}


def test_a_picture_is_turned_as_its_exif_data_says(photos):
    picture = Image.new("RGB", (20, 20), "white")
    picture.paste("black", (0, 0, 20, 10))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    for path in photos.rglob("*.png"):
        picture.save(path, exif=exif)
    data, _, _ = prepared(photos, ["test"], test_size=1.0)
    assert data.images("test")[:, :, 0].max() == 255
    assert data.images("test")[:, :, -1].max() == 0


def test_links_and_hidden_files_and_other_files(photos, tmp_path):
    save(tmp_path / "elsewhere.png", (77, 77, 77))
    (photos / "a dog/link.png").symlink_to(tmp_path / "elsewhere.png")
    (photos / "a dog/.hidden.png").write_bytes(b"hello")
    (photos / "a dog/notes.txt").write_bytes(b"hello")
    data, _, lines = prepared(photos, ["test"], test_size=1.0)
    assert len(data.labels("test")) == 21
    assert "no pictures by their names: 1 (" in lines[0]


def dangling(folder):
    (folder / "x.png").symlink_to("nowhere")


def deep(folder):
    save(folder / "kittens/x.png", 0)


def pipe(folder):
    os.mkfifo(folder / "x.png")


def empty(folder):
    (folder.parent / "x").mkdir()


def deep_gray(folder):
    save(folder / "x.png", 7, mode="I;16")


def not_utf8(folder):
    shutil.copytree(folder, folder.parent / os.fsdecode(b"x\xff"))


def beside_train(folder):
    shutil.copytree(folder, folder.parent / "train/cat")


def unknown_class(folder):
    root = folder.parent
    names = ("a dog", "b cat")
    for name in names:
        shutil.copytree(root / name, root / "train" / name)
    shutil.copytree(folder, root / "val/x")
    for name in names:
        shutil.rmtree(root / name)


def one_class(folder):
    shutil.rmtree(folder)


REFUSED = {
    dangling: "x.png is a link that leads nowhere",
    deep: "kittens is a folder inside a class",
    pipe: "x.png is no file",
    empty: "/x holds no picture",
    deep_gray: "x.png has more than 8 bits",
    not_utf8: r"x\xff names a class: rename",
    beside_train: "lies beside train",
    unknown_class: "val/x is a class that the training pictures do not have (a dog, b cat)",
    one_class: "holds 1 folder(s) of pictures",
}


@pytest.mark.parametrize("spoil", REFUSED, ids=lambda spoil: spoil.__name__)
def test_what_cannot_be_used_is_named(spoil, photos):
    spoil(photos / "b cat")
    with pytest.raises(UserError) as refused:
        prepared(photos)
    assert REFUSED[spoil] in str(refused.value)
    assert "\n" not in str(refused.value)
    str(refused.value).encode()


@pytest.mark.parametrize("name", [name for name in IMAGES if name.endswith(("png", "jpg"))])
def test_a_broken_picture_is_named_and_leaves_nothing(name, photos, tmp_path):
    content, hint = IMAGES[name]
    (photos / "b cat" / name).write_bytes(content)
    with pytest.raises(UserError, match=hint) as refused:
        prepared(photos, test_size=1.0)
    assert f"b cat/{name}" in str(refused.value)
    assert not (tmp_path / "cache").exists()


def test_one_of_several_that_start_at_once_decodes(photos):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: prepared(photos, ["train"]), range(4)))
    assert len({facts["sha256"]["train_images"] for _, facts, _ in results}) == 1
    assert sum("decoding" in line for _, _, lines in results for line in lines) == 1


def test_pictures_are_as_large_as_the_network_sees_them(photos):
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    for path in photos.rglob("*.png"):
        Image.fromarray(pixels).save(path)
    values = {"dir": str(photos), "cache": str(photos.parent / "cache"), "test_size": 1.0}
    data = ImageFolder(ImageFolderConfig(**BASE | values), 40)
    data.prepare(["test"], print)
    assert (data.images("test") == pixels[4:44]).all()  # the central square, pixel by pixel
