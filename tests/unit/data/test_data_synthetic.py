import numpy as np

from layerscope.data import synthetic


def test_the_images_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    images, labels = synthetic.read_split("train", 30)
    monkeypatch.setattr(synthetic, "IMAGES_AT_ONCE", 7)
    again, labels_again = synthetic.read_split("train", 30)
    assert np.array_equal(images, again)
    assert np.array_equal(labels, labels_again)
    fewer, _ = synthetic.read_split("train", 10)
    assert np.array_equal(images[:10], fewer)
