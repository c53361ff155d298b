import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from layerscope.base.errors import UserError
from layerscope.measure import record_activations
from layerscope.networks.cifar_cnn import CifarCNN

BATCH = 32


@pytest.fixture
def cifar():
    torch.manual_seed(0)
    return CifarCNN(), torch.randn(BATCH, 3, 32, 32), torch.randint(10, (BATCH,))


def record(network, image, loss_of, autocast=False):
    with (
        record_activations(network) as recorder,
        torch.autocast("cpu", torch.bfloat16, enabled=autocast),
    ):
        loss = loss_of(network(image))
    return recorder.record, loss


def saved_by_layer(record):
    return {layer.layer: layer.saved_bytes for layer in record.layers}


def plain_saved_bytes(network, image, loss_of=torch.sum):
    """Return the bytes of the unique storages that autograd saves in the network's forward."""
    saved = []

    def pack(tensor):
        saved.append(tensor.detach())
        return saved[-1]

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss_of(network(image))
    left_out = [*network.parameters(), *network.buffers(), image]
    known = {tensor.untyped_storage().data_ptr() for tensor in left_out}
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in saved}
    return sum(s.nbytes() for pointer, s in storages.items() if pointer not in known)


class TestCifarCNN:
    def test_float32(self, cifar):
        network, image, label = cifar
        result, _ = record(network, image, lambda y: F.cross_entropy(y, label))
        assert result.output_bytes == 23_872_768
        assert result.saved_bytes == 19_941_120
        assert result.input_bytes == 393_216
        assert result.peak_bytes is None

    def test_each_layer(self, cifar):
        network, image, label = cifar
        result, _ = record(network, image, lambda y: F.cross_entropy(y, label))
        rows = {layer.layer: layer for layer in result.layers}
        outputs = BATCH * 32 * 32 * 32 * 4
        assert rows["block1.conv"].saved_bytes == outputs
        assert rows["block1.bn"].saved_bytes == 2 * 32 * 4  # mean and inverse deviation
        assert rows["block1.relu"].saved_bytes == outputs
        assert rows["block1.pool"].output_bytes == outputs // 4
        assert rows["block1.pool"].saved_bytes == outputs // 4 + outputs // 2  # int64 indices
        assert rows["flatten"].output_bytes == 0
        assert rows["fc"].output_bytes == BATCH * 10 * 4
        assert rows["fc"].saved_bytes == 0
        assert [layer.cumulative_saved_bytes for layer in result.layers] == [
            sum(layer.saved_bytes for layer in result.layers[: number + 1])
            for number in range(len(result.layers))
        ]

    def test_outputs_are_what_forward_hooks_see(self, cifar):
        network, image, _ = cifar
        seen = {}
        for name, module in network.named_modules():
            if name != "flatten" and not list(module.children()):
                module.register_forward_hook(
                    lambda _m, _a, output, name=name: seen.update({name: output.nbytes})
                )
        result, _ = record(network, image, torch.sum)
        rows = {row.layer: row.output_bytes for row in result.layers if row.layer != "flatten"}
        assert rows == seen

    @pytest.mark.parametrize("backward", ["none", "inside", "after finish"])
    def test_bfloat16_autocast_wherever_backward_runs(self, cifar, backward):
        network, image, label = cifar
        with record_activations(network) as recorder:
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(network(image), label)
            if backward == "after finish":
                assert recorder.finish().saved_bytes == 12_191_680
            if backward != "none":
                loss.backward()
        assert recorder.record.saved_bytes == 12_191_680
        rows = saved_by_layer(recorder.record)
        weights = {"block1.conv": 864, "block2.conv": 18_432, "block3.conv": 73_728, "fc": 1_280}
        assert sum(weights.values()) * 2 == 188_608
        activations = {"block1.conv": BATCH * 32 * 32 * 32, "block2.conv": BATCH * 64 * 16 * 16}
        assert rows["block1.conv"] == 2 * (864 + activations["block1.conv"]) + 196_608
        assert rows["block2.conv"] == 2 * (18_432 + activations["block2.conv"])
        assert rows["fc"] == 2 * weights["fc"]

    def test_copies_that_autocast_made_before(self, cifar):
        network, image, label = cifar
        with torch.autocast("cpu", torch.bfloat16):
            network(image)
            with record_activations(network) as recorder:
                loss = F.cross_entropy(network(image), label)
        assert recorder.record.saved_bytes == 12_191_680
        loss.backward()

    def test_eval_with_gradients(self, cifar):
        network, image, label = cifar
        result, _ = record(network.eval(), image, lambda y: F.cross_entropy(y, label))
        assert result.saved_bytes == 19_939_328

    @pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
    def test_without_gradients(self, cifar, context):
        network, image, _ = cifar
        with context():
            result, _ = record(network, image, torch.sum)
        assert result.saved_bytes == 0
        assert result.output_bytes == 23_872_768

    def test_channels_last(self, cifar):
        network, image, label = cifar
        network = network.to(memory_format=torch.channels_last)
        image = image.to(memory_format=torch.channels_last)
        result, _ = record(network, image, lambda y: F.cross_entropy(y, label))
        assert (result.output_bytes, result.saved_bytes) == (23_872_768, 19_941_120)

    def test_frozen_backbone_keeps_what_the_head_needs(self, cifar):
        network, image, label = cifar
        network.requires_grad_(False)
        network.fc.requires_grad_(True)
        result, _ = record(network, image, lambda y: F.cross_entropy(y, label))
        assert saved_by_layer(result) == {
            **dict.fromkeys(saved_by_layer(result), 0),
            "gap": BATCH * 128 * 4,
        }

    def test_what_only_the_loss_keeps(self, cifar):
        network, image, _ = cifar
        target = torch.zeros(BATCH, 10)
        result, _ = record(network, image, lambda y: F.mse_loss(y, target))
        assert saved_by_layer(result)["fc"] == BATCH * 10 * 4
        assert result.saved_bytes == 19_941_120 + BATCH * 10 * 4

    def test_a_slice_of_a_bigger_tensor_as_input(self, cifar):
        network, _, _ = cifar
        images = torch.randn(100, 3, 32, 32)
        result, _ = record(network, images[:BATCH], torch.sum)
        assert (result.input_bytes, result.saved_bytes) == (393_216, 19_941_120)

    def test_ddp(self, cifar, tmp_path):
        network, image, label = cifar
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
        )
        try:
            wrapped = nn.parallel.DistributedDataParallel(network)
            with record_activations(wrapped) as recorder:
                loss = F.cross_entropy(wrapped(image), label)
                loss.backward()
        finally:
            torch.distributed.destroy_process_group()
        assert recorder.record.saved_bytes == 19_941_120
        assert recorder.record.layers[0].layer == "block1.conv"

    def test_gradients_and_statistics_are_those_of_a_plain_step(self, cifar):
        network, image, label = cifar
        twin = CifarCNN()
        twin.load_state_dict(network.state_dict())
        F.cross_entropy(twin(image), label).backward()
        with record_activations(network):
            F.cross_entropy(network(image), label).backward()
        for mine, theirs in zip(network.parameters(), twin.parameters(), strict=True):
            assert torch.equal(mine.grad, theirs.grad)
        for name, tensor in network.state_dict().items():
            assert torch.equal(tensor, twin.state_dict()[name])


class Residual(nn.Module):
    """An in-place ReLU called twice, an in-place addition, a dropout."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        out = self.bn(self.relu(self.conv(x)))
        out += x
        return {"out": self.relu(out), "dropped": self.dropout(out)}


def sum_of_all(outputs):
    return sum(output.sum() for output in outputs.values())


class TestOtherNetworks:
    def test_a_module_called_twice_is_one_row(self):
        image = torch.randn(2, 4, 8, 8)
        network = Residual()
        result, loss = record(network, image, sum_of_all)
        rows = {layer.layer: layer for layer in result.layers}
        assert list(rows) == ["conv", "relu", "bn", "add", "dropout"]
        assert rows["relu"].num_calls == 2
        assert rows["relu"].output_bytes == rows["add"].output_bytes == 0
        assert rows["conv"].saved_bytes == image.nbytes  # ReLU saves what it wrote there.
        assert rows["bn"].saved_bytes == image.nbytes + 2 * 4 * 4
        assert result.saved_bytes == plain_saved_bytes(network, image, sum_of_all)
        loss.backward()

    def test_several_forwards_are_one_record(self):
        network = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        with record_activations(network) as recorder:
            loss = network(network(torch.randn(2, 3))).sum()
        assert [layer.num_calls for layer in recorder.record.layers] == [2, 2]
        assert recorder.record.saved_bytes == 2 * 2 * 3 * 4  # both results of ReLU
        loss.backward()

    def test_a_tensor_made_in_the_forward_counts(self):
        class Doubled(nn.Module):
            def forward(self, x):
                return x * torch.tensor([1.0, 2.0, 3.0])

        result, loss = record(Doubled(), torch.randn(3, requires_grad=True), torch.sum)
        assert saved_by_layer(result) == {"tensor": 12, "mul": 0}
        loss.backward()

    def test_a_constant_of_the_networks_own_is_left_out(self):
        class Scaled(nn.Module):
            def __init__(self):
                super().__init__()
                self.factor = torch.randn(3)

            def forward(self, x):
                return x * self.factor

        result, _ = record(Scaled(), torch.randn(3, requires_grad=True), torch.sum)
        assert result.saved_bytes == 0

    def test_a_dropped_branch_holds_nothing(self):
        class Branched(nn.Module):
            def __init__(self):
                super().__init__()
                self.used, self.dropped = nn.Linear(3, 3), nn.Linear(3, 3)

            def forward(self, x):
                return torch.tanh(self.used(x)), torch.exp(self.dropped(x))

        result, _ = record(Branched(), torch.randn(2, 3), lambda outputs: outputs[0].sum())
        assert saved_by_layer(result) == {"used": 0, "tanh": 24, "dropped": 0, "exp": 0}

    @pytest.mark.parametrize("use_reentrant", [True, False])
    def test_a_checkpointed_part_keeps_its_input(self, use_reentrant):
        class Checkpointed(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Tanh())

            def forward(self, x):
                return checkpoint(self.second, self.first(x), use_reentrant=use_reentrant)

        network = Checkpointed()
        with record_activations(network) as recorder:
            network(torch.randn(2, 3)).sum().backward()
        rows = {layer.layer: layer for layer in recorder.record.layers}
        assert rows["first"].saved_bytes == recorder.record.saved_bytes == 24
        assert rows["second.0"].num_calls == rows["second.1"].num_calls == 1

    def test_an_autograd_function_of_the_users(self):
        class Square(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x):
                squared = x * x
                ctx.save_for_backward(x, squared)
                return squared

            @staticmethod
            def backward(ctx, grad):
                x, _ = ctx.saved_tensors
                return 2 * x * grad

        class Squared(nn.Module):
            def forward(self, x):
                return Square.apply(x)

        result, loss = record(Squared(), torch.randn(3, requires_grad=True), torch.sum)
        assert saved_by_layer(result) == {"mul": 12}
        loss.backward()


def two_layers():
    return nn.Sequential(nn.Linear(3, 3), nn.Tanh())


class TestWithoutARecord:
    """A record that would be of no forward pass, or of half a one, is refused with the mend."""

    @pytest.mark.parametrize("ending", ["finish", "block"])
    def test_the_module_never_ran(self, ending):
        network = two_layers()
        with record_activations(network) as recorder:
            kept = network[0](torch.randn(2, 3))
            if ending == "finish":
                with pytest.raises(UserError, match="no forward of the recorded Sequential ran"):
                    recorder.finish()
        with pytest.raises(UserError, match="call that very module there"):
            _ = recorder.record
        del kept

    def test_a_compiled_one_ran_in_its_place(self):
        network = two_layers()
        compiled = torch.compile(network, backend="eager")
        compiled(torch.randn(2, 3))
        with record_activations(network) as recorder:
            kept = compiled(torch.randn(2, 3))
        with pytest.raises(UserError, match="no copy or compiled one"):
            _ = recorder.record
        del kept

    def test_no_module(self):
        with pytest.raises(UserError, match="model is a int, not an"):
            record_activations(3)

    def test_the_block_has_not_ended(self):
        network = two_layers()
        recorder = record_activations(network)
        loss = network(torch.randn(2, 3)).sum()
        with pytest.raises(UserError, match="inside `with record_activations"):
            _ = recorder.record
        with recorder:
            loss = network(torch.randn(2, 3)).sum()
            with pytest.raises(UserError, match="after finish"):
                _ = recorder.record
            assert recorder.finish().saved_bytes == 24
        with pytest.raises(UserError, match="serves one block"):
            recorder.__enter__()
        del loss

    def test_the_forward_raised(self):
        network = two_layers()
        with record_activations(network) as recorder:
            with pytest.raises(RuntimeError):
                network(torch.randn(2, 4))
            loss = network(torch.randn(2, 3)).sum()
        with pytest.raises(UserError, match="a forward of the recorded Sequential did not return"):
            _ = recorder.record
        del loss

    @pytest.mark.parametrize("was_finished", [False, True])
    def test_the_block_raised(self, was_finished):
        network = two_layers()
        recorder = record_activations(network)

        def step():
            with recorder:
                loss = network(torch.randn(2, 3)).sum()
                if was_finished:
                    recorder.finish()
                raise ZeroDivisionError(loss)

        with pytest.raises(ZeroDivisionError):
            step()
        if was_finished:
            assert recorder.record.saved_bytes == 24
        else:
            with pytest.raises(UserError, match="ended in ZeroDivisionError"):
                _ = recorder.record

    def test_nobody_kept_the_graph(self):
        network = two_layers()
        with record_activations(network) as recorder:
            network(torch.randn(2, 3))
        with pytest.raises(UserError, match="keep the loss until then"):
            _ = recorder.record
        with record_activations(network) as recorder, torch.no_grad():
            network(torch.randn(2, 3))
        assert recorder.record.saved_bytes == 0

    def test_two_at_a_time(self):
        network = two_layers()
        with record_activations(network) as recorder:
            with pytest.raises(UserError, match="a module that contains both"):
                record_activations(network[1]).__enter__()
            loss = network(torch.randn(2, 3)).sum()
        assert recorder.record.saved_bytes == 24
        with record_activations(network[1]) as recorder:
            loss = network(torch.randn(2, 3)).sum()
        assert recorder.record.layers[0].layer == "Tanh"
        del loss


def test_what_runs_after_the_backward_pass_began_is_another_forward():
    network = two_layers()
    with record_activations(network) as recorder:
        for _ in range(2):
            network(torch.randn(2, 3)).sum().backward()
    assert [layer.num_calls for layer in recorder.record.layers] == [1, 1]
    assert recorder.record.input_bytes == recorder.record.saved_bytes == 24


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpoint_around_the_network_saves_nothing_inside(use_reentrant):
    network = two_layers()
    with record_activations(network) as recorder:
        image = torch.randn(2, 3, requires_grad=True)
        checkpoint(network, image, use_reentrant=use_reentrant).sum().backward()
    assert [layer.num_calls for layer in recorder.record.layers] == [1, 1]
    assert recorder.record.saved_bytes == 0


def test_a_part_of_a_network_has_the_bytes_that_it_has_in_the_whole(cifar):
    network, image, label = cifar
    with record_activations(network.block2) as recorder:
        loss = F.cross_entropy(network(image), label)
    whole, _ = record(network, image, lambda y: F.cross_entropy(y, label))
    rows = {f"block2.{key}": saved for key, saved in saved_by_layer(recorder.record).items()}
    assert rows == {k: v for k, v in saved_by_layer(whole).items() if k.startswith("block2.")}
    assert recorder.record.input_bytes == BATCH * 32 * 16 * 16 * 4
    loss.backward()


def traces_of(network):
    return [
        (sorted(vars(m)), list(m._forward_hooks), list(m._forward_pre_hooks), m.training)
        for m in network.modules()
    ]


class TestLeavesNoTrace:
    @pytest.mark.parametrize("where", ["nowhere", "in the forward", "in the block"])
    def test_also_after_an_exception(self, where):
        class Failing(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc, self.bn = nn.Linear(3, 3), nn.BatchNorm1d(3)

            def forward(self, x):
                y = self.bn(self.fc(x))
                return y.view(7) if where == "in the forward" else y

        network, image = Failing(), torch.randn(2, 3)
        network.fc.eval()
        before, generator = traces_of(network), torch.get_rng_state()
        recorder = record_activations(network)
        try:
            with recorder:
                network(image)
                if where == "in the block":
                    raise RuntimeError
        except RuntimeError:
            assert where != "nowhere"
            with pytest.raises(UserError, match="ended in RuntimeError"):
                _ = recorder.record
        assert traces_of(network) == before
        assert torch.equal(torch.get_rng_state(), generator)
        assert all(parameter.grad is None for parameter in network.parameters())
        assert torch._C._len_torch_function_stack() == 0
        assert torch._C._len_torch_dispatch_stack() == 0
        with saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor):
            pass  # the stack of these hooks is in order

    def test_a_result_that_was_overwritten_is_refused_as_always(self):
        class Overwriting(nn.Module):
            def forward(self, x):
                y = torch.exp(x)
                y += 1
                return y

        network = Overwriting()
        with record_activations(network):
            loss = network(torch.randn(3, requires_grad=True)).sum()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    def test_a_compiled_network_is_refused(self):
        network = nn.Sequential(nn.Linear(2, 2))
        network._compiled_call_impl = network._call_impl
        with pytest.raises(UserError, match="compiled"):
            record_activations(network)


@pytest.mark.gpu
def test_peak_on_a_gpu():
    network = CifarCNN().cuda()
    image = torch.randn(BATCH, 3, 32, 32, device="cuda")
    with record_activations(network) as recorder:
        network(image).sum().backward()
    result = recorder.record
    assert result.output_bytes == 23_872_768
    assert result.peak_bytes > result.saved_bytes
