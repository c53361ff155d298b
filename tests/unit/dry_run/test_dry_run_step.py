"""A step on tensors without memory is the step on real ones, operation by operation."""

from itertools import pairwise

import pytest
import torch
import torchvision
from small_networks import CALLS, NETWORKS, Small
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from layerscope.base.errors import UserError
from layerscope.dry_run import DryRun, dry_run, saved_storages
from layerscope.measure import Step, memory_timeline
from layerscope.measure.optimizer_state import optimizer_state
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.operations import is_view
from layerscope.reconcile import CallArguments, ProfileSettings, profile_network


def both(small: Small) -> tuple[DryRun, DryRun]:
    call = CallArguments((torch.randn(small.shape),)) if small.call is None else small.call()
    network = small.build()
    options = {"loss": call.loss}
    fake = dry_run(network, call.args, call.kwargs, **options)
    return fake, dry_run(network, call.args, call.kwargs, real=True, **options)


def operations(run: DryRun) -> list[tuple]:
    """Return each operation with its owner and the memory that it made, without views."""
    return [
        (
            *(operation.name, operation.phase, operation.layer, operation.call),
            *(operation.is_recorded, operation.is_saving),
            *(operation.is_recomputed, operation.is_accumulation),
            *(
                (tensor.shape, tensor.strides, tensor.dtype, run.storages[tensor.storage].num_bytes)
                for tensor in operation.outputs
                # A kernel for only a bias's gradient also makes the weight's for a moment.
                if operation.name != "aten::convolution_backward"
            ),
        )
        for operation in run.operations
        if not is_view(operation.operation)
    ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*NETWORKS, *CALLS])
def test_fake_and_real_are_the_same(name):
    """Autograd also saves what its specification says."""
    fake, real = both(NETWORKS.get(name) or CALLS[name])
    assert operations(fake) == operations(real)
    assert fake.live_peak_bytes == real.live_peak_bytes
    assert [len(call.operations) > 0 for call in fake.layers] == [
        len(call.operations) > 0 for call in real.layers
    ]
    assert (fake.saved_bytes, fake.num_parameters) == (real.saved_bytes, real.num_parameters)
    for run in (fake, real):
        specified = saved_storages(run)
        assert specified is not None
        assert specified.storages == {record.storage for record in run.saved}


@pytest.mark.parametrize(("name", "size"), [("mobilenet_v3_small", 64), ("shufflenet_v2_x0_5", 32)])
def test_fake_and_real_are_the_same_for_deep_networks(name, size):
    fake, real = both(Small(torchvision.models.get_model(name).train, (2, 3, size, size)))
    assert not fake.is_real
    assert operations(fake) == operations(real)


class TestMemory:
    def test_after_the_backward_pass_the_gradients_are_left(self):
        network = CifarCNN()
        run = dry_run(network, (torch.empty(4, 3, 32, 32),))
        sizes = [run.storages[storage].num_bytes for storage in run.parameter_gradients]
        assert sorted(sizes) == sorted(parameter.nbytes for parameter in network.parameters())
        assert all(run.storages[storage].freed is None for storage in run.parameter_gradients)
        assert run.live_after[-1] - sum(sizes) <= 8  # the loss and its gradient

    @pytest.mark.parametrize("shape", [(8, 3, 32, 32), (1, 3, 40, 24)])
    def test_the_peak_is_the_allocators(self, shape):
        network, image = CifarCNN(), torch.randn(shape)
        record = memory_timeline(Step(network, (image,)))
        blocks = [block for block in record.blocks if not block.is_scratch]
        changes = [(block.allocated_at, block.num_bytes) for block in blocks]
        changes += [(b.freed_at, -b.num_bytes) for b in blocks if b.freed_at is not None]
        alive = most = 0
        for _, change in sorted(changes):
            alive += change
            most = max(most, alive)
        assert dry_run(network, (image,)).live_peak_bytes == most

    def test_moments_are_joined_by_layer(self):
        run = dry_run(CifarCNN(), (torch.empty(4, 3, 32, 32),))
        pairs = [(moment.layer, moment.phase) for moment in run.timeline]
        assert all(first != second for first, second in pairwise(pairs))
        assert max(moment.live_bytes for moment in run.timeline) == max(run.live_after)
        assert run.timeline[-1].bytes_after == run.live_after[-1]


OPTIMIZERS = {
    "sgd": lambda p, **options: torch.optim.SGD(p, 0.1, **options),
    "momentum": lambda p, **options: torch.optim.SGD(p, 0.1, momentum=0.9, **options),
    "nesterov": lambda p, **options: torch.optim.SGD(p, 0.1, 0.9, nesterov=True, **options),
    "decay": lambda p, **options: torch.optim.SGD(p, 0.1, weight_decay=0.1, **options),
    "adam": lambda p, **options: torch.optim.Adam(p, **options),
    "adamw": lambda p, **options: torch.optim.AdamW(p, **options),
    "amsgrad": lambda p, **options: torch.optim.Adam(p, amsgrad=True, **options),
    "rmsprop": lambda p, **options: torch.optim.RMSprop(p, **options),
    "adagrad": lambda p, **options: torch.optim.Adagrad(p, **options),
}


@pytest.mark.parametrize("foreach", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizers_state_and_temporaries_are_the_allocators(name, foreach):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 5))
    image = torch.randn(2, 3, 8, 8)

    def make(parameters):
        return OPTIMIZERS[name](parameters, foreach=foreach)

    run = dry_run(network, (image,), optimizer=make)
    network(image).sum().backward()
    measured = optimizer_state(make(list(network.parameters())))
    assert run.state_bytes == measured.state_bytes + measured.counter_bytes
    before = run.live_after[run.second_optimizer_step - 1]
    temporary = max(run.live_after[run.second_optimizer_step :]) - before
    # Kernels take numbers as tensors of a few bytes.
    assert temporary == pytest.approx(measured.temporary_bytes, abs=64)


class TestCheckpoints:
    def run(self, use_reentrant: bool | None) -> DryRun:
        class Checkpointed(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Conv2d(3, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())

            def forward(self, x: Tensor) -> Tensor:
                y = self.a(x)
                if use_reentrant is None:
                    return self.b(y)
                return checkpoint(self.b, y, use_reentrant=use_reentrant)

        return dry_run(Checkpointed(), (torch.empty(2, 3, 8, 8),))

    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_what_is_computed_again_is_marked(self, use_reentrant):
        run = self.run(use_reentrant)
        again = [op.base_name for op in run.operations if op.is_recomputed]
        assert again.count("aten::convolution") == 1
        assert {op.phase for op in run.operations if op.is_recomputed} == {"backward"}

    def test_only_its_input_is_saved(self):
        plain, checkpointed = self.run(None), self.run(False)
        size = 2 * 4 * 8 * 8 * 4
        assert plain.saved_bytes == 2 * size  # b's input and what its ReLU returned
        assert checkpointed.saved_bytes == size
        assert "checkpoint" in {record.saver for record in checkpointed.saved}


class DependsOnValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.bn = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.fc(x))
        return y * 2 if y.sum() > 1e9 else y[y > 0].exp()


class TestNetworksThatDependOnValues:
    def test_it_runs_on_real_tensors_and_says_so(self):
        run = dry_run(DependsOnValues(), (torch.randn(3, 4),))
        assert run.is_real
        assert run.why_real
        assert "exp" in [call.type for call in run.layers]

    def test_a_profile_says_so_and_leaves_the_network_alone(self):
        network = DependsOnValues()
        before = {name: value.clone() for name, value in network.state_dict().items()}
        versions = [parameter._version for parameter in network.parameters()]
        profile = profile_network(network, ProfileSettings("x", (3, 4), optimizer="adam"))
        assert profile.comparisons.num_unexplained == 0
        assert profile.run.why_real is not None
        assert any(profile.run.why_real in note for note in profile.notes)
        assert all(torch.equal(before[name], v) for name, v in network.state_dict().items())
        assert versions == [parameter._version for parameter in network.parameters()]
        assert all(parameter.grad is None for parameter in network.parameters())

    def test_it_can_be_refused(self):
        with pytest.raises(UserError, match="DependsOnValues"):
            dry_run(DependsOnValues(), (torch.randn(3, 4),), allow_real=False)


def test_a_step_without_a_loss_has_no_backward_pass():
    network = nn.Linear(3, 3).requires_grad_(False)
    run = dry_run(network, (torch.empty(2, 3),))
    assert not run.has_loss
    assert (run.saved, run.parameter_gradients) == ((), frozenset())
    assert {operation.phase for operation in run.operations} == {"forward"}


def test_a_batch_that_no_memory_holds_costs_nothing():
    image = torch.empty(1 << 20, 3, 224, 224, device="meta")
    run = dry_run(torchvision.models.resnet18(), (image,), device=torch.device("cpu"))
    assert run.live_peak_bytes > 1 << 40
