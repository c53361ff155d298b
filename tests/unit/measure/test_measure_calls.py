"""Every instrument runs any call: several inputs, keyword arguments, token ids, any output."""

import dataclasses
from collections import OrderedDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from layerscope.base.errors import UserError
from layerscope.measure import (
    Step,
    activations_and_flops,
    fvcore_counts,
    layer_times,
    memory_record,
    profile_step,
)

BATCH, TOKENS, WIDTH, WORDS = 2, 5, 8, 11
LINEAR = BATCH * TOKENS * WIDTH * WIDTH  # multiply-accumulates of one linear layer
Pair = namedtuple("Pair", "left right")


@dataclass
class Inputs:
    ids: torch.Tensor
    scale: float


@dataclass(frozen=True)
class Outputs:
    hidden: torch.Tensor
    loss: torch.Tensor | None = None


class ModelOutput(OrderedDict):
    """A dict that is also a dataclass, like the outputs of transformers."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            self[field.name] = getattr(self, field.name)


@dataclass
class Encoded(ModelOutput):
    hidden: torch.Tensor
    ids: torch.Tensor


class Encoder(nn.Module):
    """A linear layer on token ids, which may be wrapped in any container."""

    def __init__(self, take, give):
        super().__init__()
        self.table, self.fc = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.take, self.give = take, give

    def forward(self, *args, **kwargs):
        ids = self.take(*args, **kwargs)
        return self.give(self.fc(self.table(ids)), ids)


IDS = torch.full((BATCH, TOKENS), WORDS - 1)
CALLS = {
    "token ids": ((IDS,), {}, lambda ids: ids),
    "keywords": ((), {"ids": IDS, "mask": None}, lambda ids, mask: ids),
    "a flag": ((IDS, True), {"times": 3, "name": "x"}, lambda ids, flag, times, name: ids),
    "a dict": (({"ids": IDS, "other": [IDS]},), {}, lambda batch: batch["ids"]),
    "nested": (([(IDS, IDS), [IDS]],), {}, lambda nested: nested[0][1]),
    "a named tuple": ((Pair(IDS, None),), {}, lambda pair: pair.left),
    "a dataclass": ((Inputs(IDS, 0.5),), {}, lambda inputs: inputs.ids),
}
OUTPUTS = {
    "a tensor": lambda hidden, ids: hidden,
    "a dict": lambda hidden, ids: {"hidden": hidden, "ids": ids, "size": 3},
    "a tuple": lambda hidden, ids: (ids, [hidden], None),
    "a dataclass": lambda hidden, ids: Outputs(hidden),
    "a model output": lambda hidden, ids: Encoded(hidden, ids),
}


def linear_layers(counts):
    return {key: count for key, count in counts.items() if count}


@pytest.mark.parametrize(
    ("call", "output"),
    [*((call, "a tensor") for call in CALLS), *(("token ids", output) for output in OUTPUTS)],
)
def test_all_instruments(call, output, capfd):
    args, kwargs, take = CALLS[call]
    step = Step(Encoder(take, OUTPUTS[output]), args, kwargs)
    record, flops = activations_and_flops(step)
    hidden_bytes = BATCH * TOKENS * WIDTH * 4
    rows = {row.layer: row for row in record.layers}
    assert (rows["table"].output_bytes, rows["fc"].output_bytes) == (hidden_bytes, hidden_bytes)
    assert record.saved_bytes == hidden_bytes
    assert linear_layers(flops.forward) == {"fc": 2 * LINEAR}
    assert linear_layers(flops.backward) == {"fc": 4 * LINEAR}
    profiled = profile_step(step)
    assert profiled.flops["fc", "forward"] == 2 * LINEAR
    assert memory_record(profiled).peak_bytes >= 2 * hidden_bytes
    assert linear_layers(fvcore_counts(step).layers) == {"fc": LINEAR}
    assert list(layer_times(step, repeats=1, warmup=0).layers) == list(rows)
    assert all(parameter.grad is None for parameter in step.network.parameters())
    assert capfd.readouterr() == ("", "")


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(WIDTH, 3, bias=False), nn.Linear(4, 3, bias=False)

    def forward(self, x, *, y, add=True):
        return self.left(x) + self.right(y) if add else self.left(x)


class TestTwoInputs:
    def step(self, add=True):
        kwargs = {"y": torch.randn(BATCH, 4, requires_grad=True), "add": add}
        return Step(TwoInputs(), (torch.randn(BATCH, WIDTH),), kwargs)

    def test_only_the_one_that_requires_it_gets_a_gradient(self):
        record, flops = activations_and_flops(self.step())
        assert record.input_bytes == BATCH * (WIDTH + 4) * 4
        left, right = 2 * BATCH * WIDTH * 3, 2 * BATCH * 4 * 3
        assert linear_layers(flops.backward) == {"left": left, "right": 2 * right}

    def test_the_values_of_other_arguments_are_passed(self):
        assert list(activations_and_flops(self.step(add=False))[1].forward) == ["left"]
        assert list(fvcore_counts(self.step(add=False)).layers) == ["left"]

    def test_gradients_of_the_inputs_are_put_back(self):
        step = self.step()
        gradient = step.kwargs["y"].grad = torch.ones(BATCH, 4)
        for instrument in (activations_and_flops, profile_step, fvcore_counts):
            instrument(step)
            assert step.kwargs["y"].grad is gradient

    def test_one_tensor_in_two_places_stays_one(self):
        class Same(nn.Module):
            def forward(self, x, y, others):
                assert x is y is others["z"]
                return x * 1

        x = torch.randn(3, requires_grad=True)
        Step(Same(), (x, x), {"others": {"z": x}}).run()
        assert x.grad is None

    def test_the_forward_cannot_change_the_callers_containers(self):
        class Taking(nn.Module):
            def forward(self, batch):
                return batch.pop("x") * 1

        batch = {"x": torch.randn(3)}
        Step(Taking(), (batch,)).run()
        assert list(batch) == ["x"]


def test_a_model_output_as_an_argument():
    class Takes(nn.Module):
        def forward(self, encoded):
            assert type(encoded) is Encoded
            assert encoded.hidden is encoded["hidden"]
            assert encoded.hidden.is_leaf
            return encoded.hidden * 2

    hidden = torch.randn(3, requires_grad=True) * 1
    step = Step(Takes(), (Encoded(hidden, IDS),))
    assert step.run() is not None
    hidden.sum().backward()  # The step has left the graph of its argument as it was.


class TestLoss:
    def step(self, loss_function):
        give = OUTPUTS["a dataclass"]
        return Step(Encoder(lambda ids: ids, give), (IDS,), loss_function=loss_function)

    def test_it_gets_what_the_network_returned(self):
        step = self.step(
            lambda outputs: F.mse_loss(outputs.hidden, torch.zeros_like(outputs.hidden))
        )
        record, flops = activations_and_flops(step)
        assert linear_layers(flops.backward) == {"fc": 4 * LINEAR}
        # The loss saves the hidden state; the sum does not.
        assert record.saved_bytes == 2 * BATCH * TOKENS * WIDTH * 4

    def test_a_loss_that_needs_only_a_part(self):
        step = self.step(lambda outputs: outputs.hidden[0, 0, 0])
        assert step.run().dim() == 0

    def test_a_loss_without_a_gradient_has_no_backward(self):
        step = self.step(lambda outputs: outputs.hidden.detach().mean())
        assert step.run() is None
        assert activations_and_flops(step)[1].backward["fc"] == 0

    @pytest.mark.parametrize(
        ("loss_function", "message"),
        [
            (
                lambda outputs: outputs.hidden,
                r"no scalar but float32\(2, 5, 8\): return one tensor",
            ),
            (lambda outputs: outputs, r"no scalar but {hidden: float32\(2, 5, 8\), loss: None}"),
            (lambda outputs: 3.0, "no scalar but 3.0"),
            (lambda outputs: None, "no scalar but None"),
            (
                lambda outputs: outputs.logits,
                r"^Encoder returned \({hidden: .*the loss function cannot .*'logits'$",
            ),
        ],
    )
    def test_what_is_no_loss_is_refused(self, loss_function, message):
        with pytest.raises(UserError, match=message):
            activations_and_flops(self.step(loss_function))


class TestMessages:
    @pytest.mark.parametrize(
        ("args", "kwargs", "shown"),
        [
            ((torch.ones(2, 3),), {}, "(float32(2, 3))"),
            ((), {}, "()"),
            (
                ([IDS, (torch.ones(()), None)],),
                {"mask": torch.ones(4, dtype=torch.bool), "cache": None, "n": 2},
                "([int64(2, 5), (float32(), None)], mask=bool(4), n=2)",
            ),
            (({"ids": IDS, "name": "x"},), {}, "({ids: int64(2, 5), name: str})"),
        ],
    )
    def test_the_call_is_described(self, args, kwargs, shown):
        step = Step(nn.Linear(7, 7), args, kwargs)
        assert step.description == shown
        with pytest.raises(UserError) as raised:
            step.forward()
        assert str(raised.value).startswith(f"Linear cannot run on {shown}: ")
        assert str(raised.value).endswith(
            ": pass arguments with which network(*args, **kwargs) runs"
        )
        assert "\n" not in str(raised.value)

    def test_a_long_call_is_cut(self):
        assert len(Step(nn.Identity(), (torch.ones(2),) * 1000).description) <= 160

    def test_args_are_a_tuple(self):
        with pytest.raises(TypeError, match=r"args must be a tuple, not Tensor: .* pass \(x,\)"):
            Step(nn.Identity(), torch.ones(2))


def test_the_device():
    x = torch.ones(2)
    assert Step(nn.Linear(2, 2), (x.to("meta"),)).device == torch.device("cpu")
    assert Step(nn.Identity(), (), {"input": {"x": [x.to("meta")]}}).device == torch.device("meta")
    assert Step(nn.Identity(), (3,)).device == torch.device("cpu")
