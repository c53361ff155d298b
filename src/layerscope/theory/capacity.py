"""The largest batch that fits into a given memory, from dry runs at two batch sizes."""

from dataclasses import dataclass

from layerscope.dry_run import DryRun


@dataclass(frozen=True)
class LinearBytes:
    """A linear function of the batch size N: fixed + per_image * N bytes."""

    fixed: int
    per_image: int

    def largest_batch(self, memory_bytes: int) -> int | None:
        """Return the largest N that fits; None if the batch size does not matter."""
        if self.per_image <= 0:
            return None
        return max((memory_bytes - self.fixed) // self.per_image, 0)


@dataclass(frozen=True)
class TrainingMemory:
    """The memory of a training step as functions of the batch size N, one for each moment.

    The step needs the largest of them.

    Args:
        moments: bytes alive after each operation of forward, loss, backward and optimizer.
    """

    moments: tuple[LinearBytes, ...]

    @property
    def grows(self) -> bool:
        """Tell whether a larger batch needs more memory."""
        return any(moment.per_image > 0 for moment in self.moments)

    def largest_batch(self, memory_bytes: int) -> int | None:
        """Return the largest N with which every moment fits; None if no moment grows with N."""
        batches = [moment.largest_batch(memory_bytes) for moment in self.moments]
        fitting = [batch for batch in batches if batch is not None]
        fixed = [m.fixed for m in self.moments if m.per_image <= 0]
        if any(num_bytes > memory_bytes for num_bytes in fixed):
            return 0
        return min(fitting, default=None)


def base_bytes(run: DryRun) -> int:
    """Return the bytes that stay for the whole step: network, optimizer's state and input."""
    inputs = sum(tensor.num_bytes for tensor in run.inputs)
    return run.parameter_bytes + run.buffer_bytes + run.state_bytes + inputs


def step_bytes(run: DryRun) -> tuple[int, ...]:
    """Return the bytes alive after each operation, without those in `base_bytes`.

    `base_bytes` contains the optimizer's state, so it is left out of the optimizer's steps too.
    """
    return run.live_after[: run.optimizer_began] + tuple(
        num_bytes - run.state_bytes for num_bytes in run.live_after[run.second_optimizer_step :]
    )


def training_memory(small: DryRun, large: DryRun) -> TrainingMemory:
    """Split the memory of each moment into a fixed part and a part in proportion to the batch.

    Args:
        small, large: dry runs of one network at two batch sizes, with the same operations.
    """
    sizes = [run.inputs[0].shape[0] for run in (small, large)]
    assert sizes[0] < sizes[1]
    low, high = ((base_bytes(run), step_bytes(run)) for run in (small, large))
    lines = {
        _line(sizes, (low[0] + first, high[0] + second))
        for first, second in zip(low[1], high[1], strict=True)
    }
    return TrainingMemory(tuple(lines))


def _line(sizes: list[int], num_bytes: tuple[int, int]) -> LinearBytes:
    per_image = -(-(num_bytes[1] - num_bytes[0]) // (sizes[1] - sizes[0]))
    return LinearBytes(num_bytes[0] - per_image * sizes[0], per_image)
