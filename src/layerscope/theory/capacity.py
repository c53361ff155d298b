"""How large a batch fits into a given memory."""

from dataclasses import dataclass

from layerscope.layers.spec import NetworkSpec, TensorSpec
from layerscope.theory.step import StepMemory


@dataclass(frozen=True)
class OptimizerMemory:
    """What an optimizer needs beside parameters and gradients.

    Args:
        num_states: numbers kept for every parameter.
        num_temporaries: copies of one parameter while it is updated, one parameter after the other.
    """

    num_states: int
    num_temporaries: int


OPTIMIZERS = {
    "sgd": OptimizerMemory(0, 0),
    "momentum": OptimizerMemory(1, 0),
    "adam": OptimizerMemory(2, 2),
}


@dataclass(frozen=True)
class LinearBytes:
    """fixed + per_image * N bytes."""

    fixed: int
    per_image: int

    def largest_batch(self, memory_bytes: int) -> int | None:
        """None where the batch size does not matter."""
        if self.per_image <= 0:
            return None
        return max((memory_bytes - self.fixed) // self.per_image, 0)


@dataclass(frozen=True)
class TrainingMemory:
    """All that a training step needs, as functions of the batch size N; the most of them counts.

    Parameters, buffers, optimizer state, input, and what step_memory() says of every moment.
    """

    moments: tuple[LinearBytes, ...]

    def step_bytes(self, batch_size: int) -> int:
        """At its peak."""
        return max(moment.fixed + moment.per_image * batch_size for moment in self.moments)

    @property
    def grows(self) -> bool:
        """Whether the memory depends on the batch size at all."""
        return any(moment.per_image > 0 for moment in self.moments)

    def largest_batch(self, memory_bytes: int) -> int:
        """That fits; 0 where not even one image does. Only where the memory grows."""
        batches = [moment.largest_batch(memory_bytes) for moment in self.moments]
        return min(batch for batch in batches if batch is not None)


def training_memory(
    small: tuple[NetworkSpec, StepMemory],
    large: tuple[NetworkSpec, StepMemory],
    optimizer: OptimizerMemory,
) -> TrainingMemory:
    """From two batch sizes, since all memory is a fixed part and one in proportion to the batch.

    Args:
        small, large: the same network at two batch sizes.
    """
    sizes = [network.inputs[0].shape[0] for network, _ in (small, large)]
    bases = [_base_bytes(network, optimizer) for network, _ in (small, large)]
    moments = [
        _line(sizes, (bases[0] + low.peak_bytes, bases[1] + high.peak_bytes))
        for low, high in zip(small[1].moments, large[1].moments, strict=True)
    ]
    update = optimizer_step_bytes(small[0], optimizer)
    return TrainingMemory((*moments, _line(sizes, (bases[0] + update, bases[1] + update))))


def optimizer_step_bytes(network: NetworkSpec, optimizer: OptimizerMemory) -> int:
    """What is alive during the optimizer's step beside parameters, input and its state."""
    learning = [
        tensor.num_bytes for tensor in _parameters(network).values() if tensor.requires_grad
    ]
    return sum(learning) + optimizer.num_temporaries * max(learning, default=0)


def _base_bytes(network: NetworkSpec, optimizer: OptimizerMemory) -> int:
    """Parameters, buffers, the optimizer's state and the input."""
    parameters = sum(spec.parameter_bytes for spec in network.layers)
    learning = sum(t.num_bytes for t in _parameters(network).values() if t.requires_grad)
    return (
        parameters
        + network.unused_parameter_bytes
        + sum(spec.buffer_bytes for spec in network.layers)
        + network.unused_buffer_bytes
        + optimizer.num_states * learning
        + sum(tensor.num_bytes for tensor in network.inputs)
    )


def _parameters(network: NetworkSpec) -> dict[int, TensorSpec]:
    return {
        tensor.storage: tensor for spec in network.layers for tensor in spec.parameters.values()
    }


def _line(sizes: list[int], num_bytes: tuple[int, int]) -> LinearBytes:
    per_image = -(-(num_bytes[1] - num_bytes[0]) // (sizes[1] - sizes[0]))
    return LinearBytes(num_bytes[0] - per_image * sizes[0], per_image)
