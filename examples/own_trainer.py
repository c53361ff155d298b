"""Train a LightningModule of one's own, and account for its memory with layerscope.

python examples/own_trainer.py FOLDER
"""

import json
import sys
from pathlib import Path

import lightning as L
import torch
from torch import nn
from torch.nn import functional as F

import layerscope
from layerscope.callbacks import ActivationMemory

BATCH = 32


class Digits(L.LightningModule):
    """A small network for gray images of 28 by 28 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, padding=1)
        self.bn = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16 * 14 * 14, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (N, 1, 28, 28) to outputs (N, 10)."""
        return self.fc(F.max_pool2d(F.relu(self.bn(self.conv(images))), 2).flatten(1))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters())


def main(folder: str) -> int:
    """Train on random images, record, profile, and compare the two."""
    data = torch.utils.data.TensorDataset(torch.randn(256, 1, 28, 28), torch.randint(10, (256,)))
    module, memory = Digits(), ActivationMemory(every_n_steps=5, directory=folder)
    trainer = L.Trainer(
        max_epochs=1, accelerator="cpu", callbacks=[memory], default_root_dir=folder, logger=False
    )
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=BATCH))

    report = layerscope.profile(module, input_shape=(BATCH, 1, 28, 28), train=True)
    report.show(depth=1)
    report.save(folder)
    record = json.loads(Path(folder, "activation_memory.json").read_text())
    totals = {(row.quantity, row.instrument): row for row in report.totals}
    print(f"saved for backward in training: {record['totals']['saved_bytes']:,} B")
    print(f"by the profile's theory and reasons: {totals['saved_bytes', 'saved'].predicted:,} B")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) == 2 else __doc__)
