"""Real networks: saved bytes against a simple count, fvcore's total against fvcore alone."""

import pytest
import torch
import torchvision
from torch.autograd.graph import saved_tensors_hooks

from layerscope.layers.tensors import tensors_in
from layerscope.measure import Step, fvcore_counts, record_activations
from layerscope.measure.fvcore import FlopCountAnalysis


def build(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    return torchvision.models.get_model(name, weights=None, **options)


def sum_of_all(outputs):
    return sum(tensor.sum() for tensor in tensors_in(outputs))


def plain_step(network, image):
    """Return the gradients, and the bytes of the unique storages that autograd saves."""
    saved = []

    def pack(tensor):
        saved.append(tensor.detach())
        return saved[-1]

    torch.manual_seed(0)
    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = sum_of_all(network(image))
    loss.backward()
    left_out = [*network.parameters(), *network.buffers(), image]
    known = {tensor.untyped_storage().data_ptr() for tensor in left_out}
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage() for tensor in saved}
    kept = sum(s.nbytes() for pointer, s in storages.items() if pointer not in known)
    return take_gradients(network), kept


def take_gradients(network):
    gradients = [parameter.grad for parameter in network.parameters()]
    network.zero_grad()
    return gradients


@pytest.mark.parametrize(
    "name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "googlenet"]
)
def test_saved_bytes_are_those_of_the_simple_count_and_gradients_are_the_same(name):
    network, image = build(name), torch.randn(2, 3, 64, 64)
    gradients, kept = plain_step(network, image)
    torch.manual_seed(0)
    with record_activations(network) as recorder:
        sum_of_all(network(image)).backward()
    assert recorder.record.saved_bytes == kept
    for mine, plain in zip(take_gradients(network), gradients, strict=True):
        assert torch.equal(mine, plain)


def test_resnet18_counts_each_layer():
    network = build("resnet18")
    with record_activations(network) as recorder:
        loss = network(torch.randn(2, 3, 64, 64)).sum()
    rows = {layer.layer: layer for layer in recorder.record.layers}
    assert rows["layer1.0.relu"].num_calls == 2
    assert rows["layer1.0.add"].output_bytes == 0
    assert rows["conv1"].output_bytes == 2 * 64 * 32 * 32 * 4
    loss.backward()


def test_fvcores_layers_add_up_to_fvcores_own_total():
    network = build("resnet18")
    counts = fvcore_counts(Step(network, (torch.rand(2, 3, 64, 64),)), train=False)
    plain = FlopCountAnalysis(network.eval(), torch.rand(2, 3, 64, 64))
    plain.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert counts.total == plain.total() == sum(counts.layers.values())
    assert {name: count for name, count in counts.layers.items() if count} == {
        name: count
        for name, count in plain.by_module().items()
        if count and not list(network.get_submodule(name).children())
    }
