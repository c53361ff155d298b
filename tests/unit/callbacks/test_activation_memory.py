"""ActivationMemory in Trainers and LightningModules that know nothing of layerscope."""

import csv
import json

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

import layerscope
from layerscope import record_activations
from layerscope.base.errors import UserError
from layerscope.callbacks import ActivationMemory

BATCH, NUM_IMAGES, CLASSES = 4, 10, 3  # two full batches and a short one


def images_and_labels():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(NUM_IMAGES, 2, 8, 8, generator=generator)
    return images, torch.arange(NUM_IMAGES) % CLASSES


def loader(as_batch=lambda images, labels: (images, labels)):
    images, labels = images_and_labels()
    samples = [as_batch(image, label) for image, label in zip(images, labels, strict=True)]
    return torch.utils.data.DataLoader(samples, batch_size=BATCH)


def first_batch():
    images, labels = images_and_labels()
    return images[:BATCH], labels[:BATCH]


def network():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, CLASSES)
    )


def plain(package):
    """A LightningModule of `lightning` or `pytorch_lightning`."""

    class Plain(package.LightningModule):
        """Layers and functions of its own, a loss and a metric that are modules too."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 4, 3)
            self.fc = nn.Linear(36, CLASSES)
            self.criterion = nn.CrossEntropyLoss()
            self.accuracy = MulticlassAccuracy(CLASSES)

        def forward(self, images):
            return self.fc(F.max_pool2d(F.relu(self.conv(images)), 2).flatten(1))

        def training_step(self, batch, batch_idx):
            images, labels = batch
            logits = self(images)
            self.log("accuracy", self.accuracy(logits, labels))
            return self.criterion(logits, labels)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Plain


Plain = plain(L)


class Inner(Plain):
    """Calls the network directly, returns a dict."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def training_step(self, batch, batch_idx):
        loss = self.criterion(self.net(batch["image"]), batch["label"])
        return {"loss": loss, "extra": "text"}


class Manual(Inner):
    """Backward and step by hand, without Lightning's `manual_backward`."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = self.criterion(self.net(batch["image"]), batch["label"])
        loss.backward()
        self.optimizers().step()
        self.optimizers().zero_grad()


class Skipping(Inner):
    """Gives the first batch up."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx == 0 else loss


class Adversarial(L.LightningModule):
    """Two networks, two optimizers, three backward passes."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(5, 128), nn.Tanh(), nn.Unflatten(1, (2, 8, 8)))
        self.discriminator = nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 1)
        )

    def training_step(self, batch, batch_idx):
        images, _ = batch
        penalty = sum(p.square().sum() for p in self.generator.parameters())
        self.manual_backward(penalty)  # no module has run yet
        for_discriminator, for_generator = self.optimizers()
        noise = torch.randn(len(images), 5)
        made = self.generator(noise)
        loss = self.discriminator(made.detach()).mean() - self.discriminator(images).mean()
        for optimizer, loss_of in (
            (for_discriminator, lambda: loss),
            (for_generator, lambda: -self.discriminator(made).mean()),
        ):
            optimizer.zero_grad()
            self.manual_backward(loss_of())
            optimizer.step()

    def configure_optimizers(self):
        parts = (self.discriminator, self.generator)
        return [torch.optim.SGD(part.parameters(), lr=0.1) for part in parts]


def fit(module, callback, batches=None, *, ckpt_path=None, package=L, **settings):
    torch.manual_seed(0)
    settings = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False} | settings
    trainer = package.Trainer(
        enable_checkpointing="callbacks" in settings,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback, *settings.pop("callbacks", ())],
        **settings,
    )
    trainer.fit(module, batches or loader(), ckpt_path=ckpt_path)
    return trainer


def as_dict(image, label):
    return {"image": image, "label": label}


def memory(folder):
    return json.loads((folder / "activation_memory.json").read_text())


def rows(folder):
    with (folder / "activation_memory.csv").open() as file:
        return list(csv.DictReader(file))


def totals_of(record):
    return {
        "output_bytes": record.output_bytes,
        "saved_bytes": record.saved_bytes,
        "input_bytes": record.input_bytes,
        "peak_bytes": None,
    }


def hooks_of(module):
    return [hook for m in module.modules() for hook in (*m._forward_hooks, *m._forward_pre_hooks)]


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Plain()


def test_the_package_has_it():
    assert layerscope.callbacks.ActivationMemory is ActivationMemory
    assert "callbacks" not in layerscope.__all__  # an import of all names imports no Lightning


def test_the_files_say_what_a_step_saves_and_the_run_stays_as_it_was(module, tmp_path):
    images, labels = first_batch()
    with record_activations(module) as recorder:
        loss = F.cross_entropy(module(images), labels)
    truth = recorder.record
    del loss
    trained = [p.detach().clone() for p in module.parameters()]
    trainer = fit(
        module, ActivationMemory(2, tmp_path), max_epochs=2, logger=CSVLogger(tmp_path),
        log_every_n_steps=1,
    )  # fmt: skip
    written = memory(tmp_path)
    assert written["totals"] == totals_of(truth)
    assert (written["step"], written["batch_size"], written["precision"]) == (0, BATCH, "32-true")
    assert [row["layer"] for row in written["layers"]] == [
        "conv", "relu", "max_pool2d", "flatten", "fc"
    ]  # fmt: skip
    assert {row["layer"]: row["saved_bytes"] for row in written["layers"]} == {
        row.layer: row.saved_bytes for row in truth.layers
    }
    # Steps 2 and 5 are the short batches.
    assert [row["step"] for row in rows(tmp_path)] == [*["0"] * 5, *["4"] * 5]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "activation_memory.csv", "activation_memory.json", "lightning_logs"
    ]  # fmt: skip
    with open(f"{trainer.logger.log_dir}/metrics.csv") as file:
        logged = [row["activation_memory/saved_bytes"] for row in csv.DictReader(file)]
    assert [float(value) for value in logged if value] == [truth.saved_bytes] * 2

    with_callback = [p.detach().clone() for p in module.parameters()]
    assert not hooks_of(module)
    with torch.no_grad():
        for parameter, before in zip(module.parameters(), trained, strict=True):
            parameter.copy_(before)
    fit(module, L.Callback(), max_epochs=2)
    assert all(map(torch.equal, with_callback, module.parameters()))


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
@pytest.mark.parametrize(
    ("kind", "accumulate"), [(Inner, 1), (Inner, 2), (Manual, 1), (Skipping, 1), (Skipping, 2)]
)
def test_any_step_and_batch(kind, accumulate, tmp_path):
    module = kind()
    images, labels = first_batch()
    with record_activations(module.net) as recorder:
        loss = F.cross_entropy(module.net(images), labels)
    fit(module, ActivationMemory(directory=tmp_path), loader(as_dict),
        accumulate_grad_batches=accumulate)  # fmt: skip
    written = memory(tmp_path)
    assert written["step"] == (1 if kind is Skipping else 0)
    assert written["batch_size"] == BATCH
    assert written["totals"] == totals_of(recorder.record)
    names = {row.layer: row.saved_bytes for row in recorder.record.layers}
    assert {row["layer"]: row["saved_bytes"] for row in written["layers"]} == {
        f"net.{name}": saved for name, saved in names.items()
    }
    named = tmp_path / "named"
    fit(module, ActivationMemory(directory=named, module="net"), loader(as_dict))
    assert {row["layer"]: row["saved_bytes"] for row in memory(named)["layers"]} == names
    del loss


def test_two_networks_up_to_the_first_backward_pass(tmp_path):
    module = Adversarial()
    fit(module, ActivationMemory(directory=tmp_path))
    written = {row["layer"]: row for row in memory(tmp_path)["layers"]}
    calls = {name: row["num_calls"] for name, row in written.items()}
    assert set(calls) == {f"generator.{n}" for n in range(3)} | {
        f"discriminator.{n}" for n in range(4)
    }
    assert all(calls[name] == (2 if name.startswith("d") else 1) for name in calls)
    made = BATCH * 2 * 8 * 8 * 4
    assert written["generator.1"]["saved_bytes"] == made  # held by the graph that comes second
    assert written["discriminator.1"]["saved_bytes"] == 2 * BATCH * 3 * 6 * 6 * 4
    images, noise = made, BATCH * 5 * 4
    assert memory(tmp_path)["totals"]["input_bytes"] == images + noise


def test_several_processes_count_the_same(module, tmp_path, monkeypatch):
    """DDP calls `training_step` as the LightningModule's forward."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE", "NODE_RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")  # so that what Lightning sets is gone after the test
        monkeypatch.delenv(name)
    fit(module, ActivationMemory(directory=tmp_path / "one"))
    try:
        fit(module, ActivationMemory(directory=tmp_path / "ddp"), strategy="ddp")
    finally:
        torch.distributed.destroy_process_group()
    assert memory(tmp_path / "ddp") == memory(tmp_path / "one")


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_resumed_fit_keeps_the_records_and_a_new_one_begins_anew(module, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    fit(module, ActivationMemory(1, whole), max_epochs=2)
    saving = ModelCheckpoint(parts, "{step}", every_n_train_steps=1, save_top_k=-1)
    fit(module, ActivationMemory(1, parts), callbacks=[saving])
    resumed = {"max_epochs": 2, "ckpt_path": parts / "step=3.ckpt", "callbacks": [saving]}
    fit(module, ActivationMemory(1, parts), **resumed)
    for name in ("activation_memory.csv", "activation_memory.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes()
    assert {row["step"] for row in rows(parts)} == {"0", "1", "3", "4"}
    fit(module, ActivationMemory(1, parts))
    assert {row["step"] for row in rows(parts)} == {"0", "1"}


def test_the_other_package_of_lightning(module, tmp_path):
    pl = pytest.importorskip("pytorch_lightning")

    torch.manual_seed(0)
    fit(plain(pl)(), ActivationMemory(directory=tmp_path / "pl"), package=pl)
    fit(module, ActivationMemory(directory=tmp_path / "L"))
    assert memory(tmp_path / "pl") == memory(tmp_path / "L")


@pytest.mark.parametrize("every", [0, -1, 1.5])
def test_a_wrong_number_of_steps_is_refused(every):
    with pytest.raises(UserError, match=f"every_n_steps={every}: give a number"):
        ActivationMemory(every)


def test_what_cannot_be_recorded_is_refused_before_the_first_step(tmp_path):
    with pytest.raises(UserError, match="has no such module: choose one of conv, fc, criterion"):
        fit(Plain(), ActivationMemory(directory=tmp_path, module="net"))
    compiled = Inner()
    compiled.net = torch.compile(compiled.net, backend="eager")
    with pytest.raises(UserError, match="not compiled or scripted"):
        fit(compiled, ActivationMemory(directory=tmp_path), loader(as_dict))
    with pytest.raises(UserError, match="give the Trainer the LightningModule"):
        fit(torch.compile(Plain(), backend="eager"), ActivationMemory(directory=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_hooks_go_with_an_exception(tmp_path):
    class Failing(Plain):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)
            raise ZeroDivisionError

    module = Failing()
    with pytest.raises(ZeroDivisionError):
        fit(module, ActivationMemory(directory=tmp_path))
    assert not hooks_of(module)
    assert list(tmp_path.iterdir()) == []
    with record_activations(module) as recorder:
        loss = module(first_batch()[0]).sum()
    assert recorder.record.saved_bytes > 0
    del loss


def test_a_run_without_a_backward_pass_warns(tmp_path):
    class Idle(Plain):
        def training_step(self, batch, batch_idx):
            super().training_step(batch, batch_idx)

    with pytest.warns(UserWarning, match="ActivationMemory has recorded no step"):
        fit(Idle(), ActivationMemory(directory=tmp_path))
    assert list(tmp_path.iterdir()) == []
