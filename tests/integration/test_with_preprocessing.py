"""A loaded network on raw pixels: what `predict` computes, to the bit, and what torch exports."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import layerscope
from layerscope.base.errors import UserError
from layerscope.commands.checkpoint import Opened
from layerscope.commands.predict import predict
from layerscope.data.batches import Normalisation
from layerscope.data.preprocessing import Preprocessing
from layerscope.data.synthetic import read_split
from layerscope.data.view import View
from layerscope.training.checkpoints import RunFacts, read_checkpoint

GRAY_AND_SMALL = (
    Path(__file__).parents[1] / "frozen/files/stopped_after_epoch/checkpoints/best.ckpt"
)


@pytest.fixture(params=["color", "gray and small"])
def checkpoint(request):
    if request.param == "color":
        return request.getfixturevalue("finished") / "checkpoints/best.ckpt"
    return GRAY_AND_SMALL


def as_tensor(images):
    return torch.from_numpy(images.copy()).permute(0, 3, 1, 2)


def test_it_is_what_predict_computes_to_the_bit(checkpoint):
    content = read_checkpoint(checkpoint)
    opened = Opened(checkpoint, content, RunFacts.of(content).parsed_config(), ())
    network = layerscope.load(checkpoint)
    on_pixels = layerscope.with_preprocessing(network)
    images, _ = read_split("test", 4)
    for batch in (images, images[:1]):
        with torch.no_grad():
            logits = on_pixels(as_tensor(batch))
        assert np.array_equal(logits.double().softmax(1).numpy(), predict(opened, batch))
    assert len(logits[0]) == len(network.preprocessing.view.class_names)
    assert on_pixels.network is network
    assert not on_pixels.training
    assert network.state_dict().keys() == layerscope.load(checkpoint).state_dict().keys()


def test_torch_exports_it_with_a_batch_of_any_size(checkpoint):
    on_pixels = layerscope.with_preprocessing(layerscope.load(checkpoint))
    pixels = as_tensor(read_split("test", 3)[0])
    program = torch.export.export(
        on_pixels, (pixels[:2],), dynamic_shapes=({0: torch.export.Dim("N")},)
    )
    with torch.no_grad():
        assert torch.equal(program.module()(pixels), on_pixels(pixels))


def test_a_larger_view_is_made_of_the_same_pixels():
    network = nn.Sequential(nn.Flatten())
    view = View(48, False, (("a", (0,)),))
    network.preprocessing = Preprocessing(view, Normalisation((0.5, 0.0, 0.0), (0.25, 1.0, 1.0)))
    pixels = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    pixels[:, 1] = 51
    planes = layerscope.with_preprocessing(network)(pixels).reshape(3, 48, 48)
    means = planes.mean((1, 2)).tolist()
    assert means == pytest.approx([-2.0, 0.2, 0.0])


@pytest.mark.parametrize(
    ("pixels", "what"),
    [
        (torch.zeros(1, 3, 32, 32), r"float32 \(1, 3, 32, 32\)"),
        (torch.zeros(1, 32, 32, 3, dtype=torch.uint8), r"uint8 \(1, 32, 32, 3\)"),
        (torch.zeros(1, 3, 224, 224, dtype=torch.uint8), r"uint8 \(1, 3, 224, 224\)"),
        (torch.zeros(3, 32, 32, dtype=torch.uint8), r"uint8 \(3, 32, 32\)"),
    ],
)
def test_other_pixels_are_refused(pixels, what):
    on_pixels = layerscope.with_preprocessing(layerscope.load(GRAY_AND_SMALL))
    with pytest.raises(UserError, match=what + r": give uint8 of shape \(N, 3, 32, 32\)"):
        on_pixels(pixels)


def test_only_a_loaded_network_knows_its_preprocessing():
    network = nn.Sequential()
    with pytest.raises(UserError, match=r"take the network that layerscope.load"):
        layerscope.with_preprocessing(network)
    network.preprocessing = nn.Identity()
    with pytest.raises(UserError, match="rename that one"):
        layerscope.with_preprocessing(network)
