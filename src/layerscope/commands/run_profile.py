"""The profile that a run writes at its end: its network, at its batch size and precision."""

from pathlib import Path

from layerscope.config.schema import TrainConfig
from layerscope.networks import build_network
from layerscope.reconcile import INSTRUMENTS, Settings, profile_network
from layerscope.report.profile.report import ProfileReport
from layerscope.training.hardware import uses_gpu
from layerscope.training.optimizers import optimizer_maker

AUTO_STEPS = 2_000  # a profile costs seconds: of runs that are longer than that
_DTYPES = {"32-true": "float32", "bf16-mixed": "bf16_autocast"}


def wants_profile(config: TrainConfig, num_steps: int) -> bool:
    """Tell whether a run is profiled: `profile=true`, or `auto` and a run that took some time."""
    return num_steps >= AUTO_STEPS if config.profile == "auto" else config.profile


def profile_run(
    config: TrainConfig, target: str | None, batch_size: int, directory: Path
) -> ProfileReport:
    """Write profile.json, .csv, .md and .html into the run's directory.

    Args:
        batch_size: of one process. The loss is the sum of the outputs, as in every profile.
    """
    settings = Settings(
        network=config.model.family,
        input_shape=(batch_size, *config.model.input_shape),
        dtype=_DTYPES[config.trainer.precision],
        device="cuda" if uses_gpu(config.trainer) else "cpu",
        channels_last=config.trainer.channels_last,
        train=True,
        optimizer=optimizer_maker(config.optimizer),
    )
    network = build_network(config.model, target)
    report = ProfileReport(profile_network(network, settings, frozenset(INSTRUMENTS)))
    report.save(directory)
    return report
