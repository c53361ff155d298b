"""What is done with a layer's output, as far as it decides the layer's gradients."""

from layerscope.networks.layer_calls import DescribedCall, NetworkCalls


def removing_norm(network: NetworkCalls, spec: DescribedCall) -> str | None:
    """The batch norm in train mode that alone reads the layer's output: it undoes a bias.

    It subtracts the mean of each channel over the batch, so L does not depend on what was added to
    the whole channel. None where there is no bias or something else reads the output too.
    """
    adds_per_channel = spec.kind.startswith("conv") or (
        spec.kind == "linear" and len(spec.output_shape) == 2
    )
    if not adds_per_channel or "bias" not in spec.parameters:
        return None
    made = {tensor.storage for tensor in spec.outputs}
    if any(tensor.storage in made for tensor in network.outputs):
        return None
    readers = [
        layer for layer in network.layers if any(read.storage in made for read in layer.arguments)
    ]
    if all(layer.kind == "batch_norm" and layer.geometry.get("training") for layer in readers):
        return readers[0].key if readers else None
    return None
