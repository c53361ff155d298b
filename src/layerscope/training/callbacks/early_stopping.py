from lightning.pytorch.callbacks import EarlyStopping

from layerscope.config.schema import EarlyStoppingConfig


def early_stopping(config: EarlyStoppingConfig) -> list[EarlyStopping]:
    """Lightning's, where patience is set."""
    if config.patience is None:
        return []
    return [
        EarlyStopping(
            config.monitor,
            patience=config.patience,
            min_delta=config.min_delta,
            mode="max" if config.monitor == "val/acc" else "min",
        )
    ]
