from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captures import assert_agrees

from layerscope.explain.losses import CapturedLoss, explain_loss


def captured_loss(kind, smoothing=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    y = scale * torch.randn(4, 5, generator=generator, dtype=torch.float64)
    y.requires_grad_()
    target = (0, 3, 4, 3)
    labels = torch.tensor(target)
    if kind == "mse":
        loss = F.mse_loss(y, F.one_hot(labels, 5).double())
    else:
        loss = F.cross_entropy(y, labels, label_smoothing=smoothing)
    (gradient,) = torch.autograd.grad(loss, y)
    outputs = y.detach().numpy()
    return CapturedLoss(
        kind, torch.float64, outputs, target, smoothing, loss.item(), gradient.numpy()
    )


LOSSES = [("mse", 0.0, 1.0), ("cross_entropy", 0.0, 1.0), ("cross_entropy", 0.1, 1.0)]


@pytest.mark.parametrize(("kind", "smoothing", "scale"), [*LOSSES, ("cross_entropy", 0.0, 900.0)])
def test_loss_and_gradient(kind, smoothing, scale):
    values = explain_loss(captured_loss(kind, smoothing, scale))
    compared = [value for value in values if value.actual is not None]
    assert [value.name for value in compared] == [
        "L",
        *(f"dL/dy[{n},{c}]" for n in range(4) for c in range(5)),
    ]
    assert {value.layer for value in values} == {"loss"}
    for value in compared:
        assert_agrees(value)


def test_one_image():
    values = {value.name: value for value in explain_loss(captured_loss("cross_entropy"), 2)}
    assert [*values] == [
        *("max[2]", "Z[2]", *(f"p[2,{c}]" for c in range(5)), "L"),
        *(f"dL/dy[2,{c}]" for c in range(5)),
    ]
    expected = torch.softmax(torch.from_numpy(captured_loss("cross_entropy").outputs), 1)[2]
    found = [values[f"p[2,{c}]"].computed for c in range(5)]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-14)


def test_the_loss_has_a_term_for_each_image():
    losses = {value.name: value for value in explain_loss(captured_loss("cross_entropy"))}
    assert losses["L"].num_terms == 4


def test_the_frameworks_own_probabilities_stand_beside_them():
    loss = captured_loss("cross_entropy")
    probabilities = torch.softmax(torch.from_numpy(loss.outputs), 1).numpy()
    values = explain_loss(replace(loss, probabilities=probabilities), 1)
    shares = [value for value in values if value.name.startswith("p[")]
    assert [value.actual for value in shares] == probabilities[1].tolist()
    for value in shares:
        assert_agrees(value)


def test_what_is_taken_from_a_probability_is_told():
    *_, own = [v for v in explain_loss(captured_loss("cross_entropy"), 1) if v.name == "dL/dy[1,3]"]
    (_, wanted) = own.groups
    assert wanted.factors[0].symbol == r"-\left[ c = t \right]"
    assert wanted.factors[0].origin.text == "(−[3 = 3])"
    *_, own = [
        v for v in explain_loss(captured_loss("cross_entropy", 0.1), 1) if v.name == "dL/dy[1,3]"
    ]
    (_, wanted) = own.groups
    assert wanted.factors[0].origin.text == "(−((1 − 0.1)·[3 = 3] + 0.1/5))"
