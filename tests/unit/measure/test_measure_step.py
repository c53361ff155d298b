import pytest
import torch
from torch import nn

from layerscope.base.errors import UserError
from layerscope.measure import Step


class Returning(nn.Module):
    """Returns the result of a given function of its input."""

    def __init__(self, make):
        super().__init__()
        self.make, self.factor = make, nn.Parameter(torch.ones(()))

    def forward(self, x):
        return self.make(x * self.factor)


def test_the_loss_is_the_sum_of_all_outputs_that_require_a_gradient():
    network = Returning(lambda y: {"a": y, "b": [2 * y, y.detach(), y.argmax()]})
    step = Step(network, (torch.ones(2, 3),))
    assert step.loss(step.forward()).item() == 6 + 12


@pytest.mark.parametrize("make", [lambda y: y.detach(), lambda y: y.argmax()])
def test_without_a_gradient_there_is_no_loss_and_no_backward(make):
    phases = []

    class Noted:
        def __init__(self, phase):
            phases.append(phase)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    assert Step(Returning(make), (torch.ones(2),)).run(during=Noted) is None
    assert phases == ["forward", "loss"]


def test_the_parameters_get_their_gradients_and_the_image_none():
    network, image = Returning(lambda y: y), torch.full((2,), 3.0, requires_grad=True)
    Step(network, (image,)).run()
    assert network.factor.grad.item() == 6
    assert image.grad is None


def test_an_image_with_a_graph_of_its_own_is_cut_off():
    base = torch.ones(2, requires_grad=True)
    image = base * 2
    Step(Returning(lambda y: y), (image,)).run()
    assert base.grad is None
    image.sum().backward()  # Its graph still exists.


def test_preserve_state_puts_back_the_gradients_of_all_tensors_of_the_call():
    x, y = (torch.ones(2, requires_grad=True) for _ in range(2))
    x.grad = gradient = torch.ones(2)
    with Step(nn.Identity(), (x,), {"others": [{"y": y}]}).preserve_state():
        assert x.grad is None
        (x * y).sum().backward()
        y.requires_grad_(False)
    assert x.grad is gradient
    assert y.grad is None
    assert y.requires_grad


def test_autocast():
    linear = nn.Linear(3, 3)
    x = torch.ones(2, 3)
    assert Step(linear, (x,), autocast=torch.bfloat16).forward().dtype is torch.bfloat16
    assert Step(linear, (x,)).forward().dtype is torch.float32


def test_a_wrapper_is_looked_through():
    network = nn.Linear(3, 3)
    assert Step(nn.DataParallel(network), (torch.ones(2, 3),)).network is network


def fail(y):
    y.register_hook(lambda grad: grad.view(7))
    return y


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Linear(4, 3), r"^Linear cannot run on \(float32\(2, 3\)\): [^\n]*$"),
        (Returning(lambda y: {"size": 3}), "^Returning returns no tensors but dict$"),
        (Returning(lambda y: None), "^Returning returns no tensors but NoneType$"),
        (Returning(fail), r"^Returning cannot run its backward pass: shape[^\n]*$"),
    ],
)
def test_what_does_not_run_is_one_line(network, message):
    with pytest.raises(UserError, match=message):
        Step(network, (torch.ones(2, 3),)).run()
