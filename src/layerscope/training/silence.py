import logging
import warnings


def silence_lightning() -> None:
    """Its notes on devices, its tips and its own deprecations, which say nothing about the run."""
    # The scores are reduced over the ranks already, by torchmetrics.
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self.log\(.*sync_dist")
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
