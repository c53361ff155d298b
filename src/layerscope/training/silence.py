"""Lightning's messages that say nothing about a run."""

import logging
import warnings


def silence_lightning() -> None:
    """Silence Lightning's notes on devices, its tips and its own deprecation warnings."""
    # torchmetrics has already reduced the scores over the ranks.
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self.log\(.*sync_dist")
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    # With allow_changes=true a run may resume without a callback whose state the checkpoint has.
    warnings.filterwarnings("ignore", message=r"Be aware that when using `ckpt_path`, callbacks")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
