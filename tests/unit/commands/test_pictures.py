import numpy as np
import pytest
from PIL import Image

from layerscope.commands.pictures import read_photo


def saved(path, mode, colour):
    Image.new(mode, (32, 32), colour).save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("LA", (0, 0), (255, 255, 255)),
    ],
)
def test_what_is_transparent_lies_on_white(mode, colour, seen, tmp_path):
    pixels = read_photo(saved(tmp_path / "a.png", mode, colour), 32)
    assert np.array_equal(np.unique(pixels.reshape(-1, 3), axis=0), [seen])


def test_a_palette_can_be_transparent_too(tmp_path):
    picture = Image.new("P", (32, 32), 3)
    picture.putpalette([10, 20, 30] * 256)
    picture.save(tmp_path / "a.png", transparency=3)
    assert read_photo(tmp_path / "a.png", 32).min() == 255
