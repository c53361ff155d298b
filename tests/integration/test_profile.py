"""scripts/profile_model.py and layerscope.profile as a user runs them."""

import csv
import json
import re

import pytest
import torch
from helpers import TINY, read_json
from torch import nn

import layerscope
from layerscope.base.errors import UserError
from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.reconcile import EXACT_QUANTITIES

QUICK = ("batch_size=4", "instruments.time=false", "instruments.machine=false")
FILES = {"profile.json", "profile.csv", "profile.md", "profile.html", "run.json"}


def profiled(run, directory, *keys):
    result = run("profile_model", *keys, f"hydra.run.dir={directory}")
    assert result.code == 0, result.err
    assert result.err == ""
    return result, read_json(directory / "profile.json")


def adds_up(record):
    """theory + reasons = predicted, and predicted + unexplained = measured where it is counted."""
    amounts = sum(reason["amount"] for reason in record["reasons"])
    if record["predicted"] is not None and record["theory"] + amounts != record["predicted"]:
        return False
    if record["measured"] is None or record["predicted"] is None:
        return record["unexplained"] is None
    return record["counted"] and record["predicted"] + record["unexplained"] == record["measured"]


def exact_records(profile):
    """The rows that are counted, after a check that all of them add up and hold."""
    records = [*profile["rows"], *profile["totals"]]
    exact = [record for record in records if record["quantity"] in EXACT_QUANTITIES]
    assert all(adds_up(record) for record in exact)
    counted = [record for record in exact if record["counted"]]
    assert [record for record in counted if record["unexplained"] != 0] == []
    assert profile["comparisons"]["num_unexplained"] == 0
    assert profile["comparisons"]["num_compared"] > 20
    return counted


def test_cifar_cnn_with_everything(run, tmp_path):
    result, profile = profiled(run, tmp_path / "p", "model=cifar_cnn", "batch_size=32")
    assert {path.name for path in (tmp_path / "p").iterdir()} == {*FILES, "audit.json"}
    exact = exact_records(profile)
    assert {record["quantity"] for record in exact} == set(EXACT_QUANTITIES)
    totals = {(row["quantity"], row["instrument"]): row["measured"] for row in profile["totals"]}
    assert totals["saved_bytes", "saved"] == 19_941_120
    assert profile["peak"]["predicted_live_bytes"] == 21_502_768
    assert profile["peak"]["measured_live_bytes"] == 21_502_768
    assert profile["peak"]["measured_bytes"] > 21_502_768
    assert profile["peak"]["scratch_bytes_at_peak"] > 0
    assert profile["settings"]["input_shape"] == [32, 3, 32, 32]
    assert profile["machine"]["copy_bytes_per_second"]["median"] > 0
    timed = [row for row in profile["rows"] if row["quantity"] == "forward_seconds"]
    assert {row["layer"] for row in timed} >= {"block1.conv", "fc"}
    assert all(row["theory"] is None and row["unexplained"] is None for row in timed)
    assert max(map(len, result.out.splitlines())) <= 100
    assert "0 unexplained of " in result.out
    assert "17 wrong" in " ".join(result.out.split())
    assert (tmp_path / "p" / "profile.html").stat().st_size < 500_000


def test_the_audit_is_of_batch_32_whatever_the_profile_is_of(run, tmp_path):
    for name, keys in {"a": ["dtype=bf16_autocast"], "b": ["train=false"]}.items():
        profiled(run, tmp_path / name, *QUICK, *keys)
    first, second = (read_json(tmp_path / name / "audit.json") for name in "ab")
    assert first == second
    assert sum(cell["verdict"] == "wrong" for cell in first["cells"]) == 22
    assert first["findings"]


@pytest.mark.parametrize("keys", [["model=tiny_cnn"], ["model.width=0.5"], ["model.num_classes=5"]])
def test_no_profile_of_another_network_mentions_the_walkthrough(run, tmp_path, keys):
    result, _ = profiled(run, tmp_path / "p", *QUICK, *keys)
    assert {path.name for path in (tmp_path / "p").iterdir()} == FILES
    assert not any("walkthrough" in path.read_text().lower() for path in (tmp_path / "p").iterdir())
    assert "walkthrough" not in result.out.lower()


@pytest.mark.parametrize(
    "keys",
    [
        ["model=tiny_cnn"],
        ["model=simple_cnn", "dtype=bfloat16"],
        ["model=torchvision", "model.name=resnet18", "input_shape=[3,64,64]"],
        ["channels_last=true", "input_requires_grad=true"],
        ["freeze=[block1,block2]", "dtype=bf16_autocast"],
        ["freeze=block1", "optimizer=adam", "depth=1"],
        ["freeze=[block]"],
        ["model.width=0.5", "train=false", "device=cpu"],
    ],
)
def test_keys(run, tmp_path, keys):
    _, profile = profiled(run, tmp_path / "p", *QUICK, *keys)
    assert exact_records(profile)


def test_an_instrument_that_is_off_has_no_rows(run, tmp_path):
    keys = [
        f"instruments.{name}=false"
        for name in ("fvcore", "torchinfo", "flop_counter", "profiler", "memory")
    ]
    _, profile = profiled(run, tmp_path / "p", *QUICK, *keys, "instruments.saved=false")
    assert {row["instrument"] for row in profile["rows"]} == {"outputs", "dry_run"}
    assert profile["peak"]["measured_bytes"] is None
    assert profile["peak"]["predicted_live_bytes"] > 0


def test_the_printed_layers_are_folded_as_asked(run, tmp_path):
    result, _ = profiled(run, tmp_path / "p", *QUICK, "depth=1")
    assert re.search(r"block1 +4 layers ", result.out)
    assert not re.search(r"block1\.conv +Conv2d ", result.out)
    assert "depth=2" in result.out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("dtype", ["float32", "bf16_autocast"])
def test_a_gpu_that_is_not_here_is_forecast(run, tmp_path, dtype):
    keys = ("device=cuda", "model=cifar_cnn", f"dtype={dtype}")
    result, profile = profiled(run, tmp_path / "p", *keys)
    assert {row["instrument"] for row in profile["rows"]} == {"dry_run"}
    assert (profile["machine"], profile["time"]) == (None, None)
    assert profile["peak"]["measured_bytes"] is None
    assert any("no cuda is here" in note for note in profile["notes"])
    assert profile["costs"]["layers"][0]["forward_flops"] == 56_623_104
    assert "no cuda is here" in result.out


def test_a_trained_network(run, tmp_path, finished):
    checkpoint = finished / "checkpoints" / "best.ckpt"
    _, profile = profiled(run, tmp_path / "p", *QUICK, f"ckpt_path={checkpoint}")
    assert next(row for row in profile["rows"] if row["layer"] == "block1.conv")
    counted = {row["layer"]: row for row in profile["rows"] if row["quantity"] == "num_parameters"}
    assert counted["block1.conv"]["measured"] == 4 * 27 + 4  # that run has four channels there
    result = run("profile_model", f"ckpt_path={checkpoint}", "model.width=2")
    assert (result.code, "model.width=2" in result.err) == (2, True)


def test_the_csv_has_a_row_for_every_record(run, tmp_path):
    _, profile = profiled(run, tmp_path / "p", *QUICK, "model=tiny_cnn")
    with (tmp_path / "p" / "profile.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(profile["rows"]) + len(profile["totals"])


class TestBudget:
    KEYS = (*QUICK, "model=tiny_cnn")

    @pytest.fixture
    def saved(self, run, tmp_path):
        profiled(run, tmp_path / "saved", *self.KEYS)
        return tmp_path / "saved" / "profile.json"

    def test_the_same_is_within(self, run, tmp_path, saved):
        result, _ = profiled(run, tmp_path / "again", *self.KEYS, f"budget={saved}")
        assert "Within the budget" in result.out

    def test_growth_is_exit_1_and_everything_is_saved(self, run, tmp_path, saved):
        keys = (*self.KEYS, "model.channels=[2,5,2]", f"budget={saved}")
        result = run("profile_model", *keys, f"hydra.run.dir={tmp_path / 'grown'}")
        assert result.code == 1
        assert "exceed budget=" in result.err
        assert result.err.count("\n") == 1
        assert "conv2" in result.out
        assert (tmp_path / "grown" / "profile.json").exists()
        tolerant = run(
            "profile_model", *keys, "tolerance=0.5", f"hydra.run.dir={tmp_path / 'tolerant'}"
        )
        assert tolerant.code == 0

    def test_other_settings_cannot_be_compared(self, run, tmp_path, saved):
        result = run("profile_model", *self.KEYS, "dtype=bfloat16", f"budget={saved}")
        assert result.code == 2
        assert "dtype" in result.err


class Failing(nn.Module):
    def __init__(self, num_classes=10):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)

    def forward(self, x):
        raise ValueError("no such thing")


class Silent(Failing):
    def forward(self, x):
        return [int(size) for size in x.shape]


class Choosy(Failing):
    def forward(self, x):
        return self.fc(x.mean((2, 3))) if x.sum() > 0 else x


class Compiled(Failing):
    def __init__(self, num_classes=10):
        super().__init__()
        self.fc = torch.compile(nn.Linear(3, num_classes))


class NoBackward(Failing):
    def forward(self, x):
        y = self.fc(x.mean((2, 3))).exp()
        y += 1
        return y


BAD = {
    "channels": (["input_shape=[1,32,32]"], "channels"),
    "too small": (["input_shape=[3,4,4]"], "too small"),
    "one image in batch norm": (
        ["model=torchvision", "batch_size=1"],
        "more than 1 value",
    ),
    **{
        name: (["model=custom", f"model._target_=test_profile.{name}"], words)
        for name, words in {
            "Failing": "no such thing",
            "Silent": "no tensor",
            "Compiled": "compiled",
            "NoBackward": "backward",
        }.items()
    },
}


@pytest.mark.parametrize("mistake", BAD)
def test_bad_input(run, tmp_path, monkeypatch, mistake):
    monkeypatch.chdir(tmp_path)
    keys, words = BAD[mistake]
    result = run("profile_model", *keys)
    assert result.code == 2
    assert words in result.err
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_code_that_depends_on_values_is_profiled_and_the_report_says_so(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = ("model=custom", "model._target_=test_profile.Choosy", *QUICK)
    result, profile = profiled(run, tmp_path / "p", *keys)
    assert "on real tensors" in " ".join(result.out.split())
    assert any("on real tensors" in note for note in profile["notes"])


def test_a_run_writes_its_profile(run, tmp_path):
    result = run("train", *TINY, "profile=true", f"hydra.run.dir={tmp_path / 'run'}")
    assert result.code == 0, result.err
    profile = read_json(tmp_path / "run" / "profile.json")
    assert profile["settings"]["input_shape"] == [16, 3, 32, 32]
    assert profile["settings"]["channels_last"] is True
    assert "0 unexplained of " in result.out
    kept = next(r for r in profile["totals"] if r["quantity"] == "saved_bytes")
    recorded = read_json(tmp_path / "run" / "activation_memory.json")
    assert kept["measured"] == recorded["totals"]["saved_bytes"]


def test_a_short_run_writes_none_by_itself(finished):
    assert not (finished / "profile.json").exists()


class Tokens(nn.Module):
    """Two outputs in a dict, of token ids and a mask."""

    def __init__(self):
        super().__init__()
        self.embedding, self.linear = nn.Embedding(10, 8), nn.Linear(8, 3)

    def forward(self, ids, mask=None):
        embedded = self.embedding(ids)
        scores = self.linear(embedded)
        return {"scores": scores if mask is None else scores * mask[..., None],
                "embedded": embedded}  # fmt: skip


class Parts(nn.Module):
    """As a LightningModule without forward, whose training_step calls the network."""

    def __init__(self):
        super().__init__()
        self.tokens = Tokens()


IDS = torch.arange(10).reshape(2, 5)
MISTAKES = {
    "nothing": (Tokens, {}, "there is no input: give input_shape"),
    "both": (Tokens, {"input_shape": (2, 5), "args": (IDS,)}, "exclude each other"),
    "a tensor for a shape": (Tokens, {"input_shape": IDS}, r"as args=\(x,\)"),
    "a number for a shape": (Tokens, {"input_shape": 5}, "give all sizes"),
    "text": (Tokens, {"args": "ids"}, "args is a str"),
    "kwargs a list": (Tokens, {"kwargs": [1]}, "kwargs is a list"),
    "no tensor": (Tokens, {"args": ([1, 2],)}, "hold no tensor"),
    "numpy": (Tokens, {"args": (IDS.numpy(),)}, "torch.from_numpy"),
    "ids as numbers": (Tokens, {"args": (IDS.float(),)}, r"x\.long\(\)"),
    "ids by a shape": (Tokens, {"input_shape": (2, 5)}, "randint"),
    "loss": (Tokens, {"args": IDS, "loss": 3}, "loss is a int"),
    "optimizer": (Tokens, {"args": IDS, "optimizer": "lion"}, "choose one of sgd"),
    "device": (Tokens, {"args": IDS, "device": "tpu"}, "give cpu, cuda"),
    "model": (lambda: 3, {"args": IDS}, "not an nn.Module"),
    "class": (lambda: Tokens, {"args": IDS}, r"the class Tokens: give a model, Tokens\("),
    "no forward": (lambda: Parts(), {"args": IDS}, "Parts has no forward: .* it calls, tokens$"),
}


class TestLibrary:
    def test_the_models_own_format_and_mode(self):
        model = CifarCNN().to(memory_format=torch.channels_last).eval()
        report = layerscope.profile(model, input_shape=(4, 3, 32, 32))
        settings = report.profile.settings
        assert (settings.channels_last, settings.dtype, settings.train) == (True, "float32", None)
        assert report.comparisons.num_unexplained == 0 < report.comparisons.num_compared
        assert not model.training

    def test_the_model_is_as_it_was(self):
        model = CifarCNN()
        model.block1.bn.eval()
        model.block2.requires_grad_(False)
        model.fc.weight.grad = gradient = torch.ones_like(model.fc.weight)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        generator = torch.get_rng_state()
        layerscope.profile(model, (2, 3, 32, 32), train=True, freeze=["block1"], channels_last=True)
        layerscope.profile(model, (2, 3, 32, 32), train=True, freeze=["block1"])
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        assert torch.equal(generator, torch.get_rng_state())
        assert not model.block1.bn.training
        assert model.block3.bn.training
        assert model.block1.conv.weight.requires_grad
        assert not model.block2.conv.weight.requires_grad
        assert model.fc.weight.grad is gradient
        assert model.block1.conv.weight.is_contiguous()

    def test_a_mistake_is_one_line(self):
        with pytest.raises(UserError, match="instruments: clock is none of"):
            layerscope.profile(CifarCNN(), (2, 3, 32, 32), instruments=["clock"])
        with pytest.raises(UserError, match="must be at least 1"):
            layerscope.profile(CifarCNN(), (0, 3, 32, 32))

    @pytest.mark.parametrize("function", [layerscope.profile, layerscope.dry_run])
    @pytest.mark.parametrize("mistake", MISTAKES)
    def test_a_wrong_call_is_one_line_with_its_mend(self, function, mistake):
        model, keys, words = MISTAKES[mistake]
        with pytest.raises(UserError, match=words) as caught:
            function(model(), **keys)
        assert "\n" not in str(caught.value)

    def test_a_complex_network_takes_no_shape(self):
        with pytest.raises(UserError, match=r"give args=\(x,\)"):
            layerscope.profile(nn.Linear(3, 4, dtype=torch.complex64), (2, 3))

    def test_any_call(self):
        keys = {"args": (IDS,), "kwargs": {"mask": torch.rand(2, 5)}}
        report = layerscope.profile(Tokens(), **keys)
        assert report.comparisons.num_unexplained == 0 < report.comparisons.num_compared
        assert report.profile.settings.input_shape == {
            "args": [[2, 5, "int64"]],
            "kwargs": {"mask": [2, 5, "float32"]},
        }
        assert {"embedding", "linear", "mul"} <= {cost.layer for cost in report.costs.layers}

    def test_a_tensor_stands_for_itself_and_one_image_for_its_shape(self):
        image = torch.rand(2, 3, 8, 8)
        by_shape = layerscope.profile(nn.Conv2d(3, 4, 3), (2, 3, 8, 8))
        by_image = layerscope.profile(nn.Conv2d(3, 4, 3), args=image)
        assert by_shape.rows == by_image.rows
        assert by_image.profile.settings == by_shape.profile.settings

    def test_a_loss_of_ones_own(self):
        whole = layerscope.dry_run(Tokens(), args=IDS)
        part = layerscope.dry_run(Tokens(), args=IDS, loss=lambda out: out["embedded"].sum())
        assert len(part.parameter_gradients) == 1 < len(whole.parameter_gradients)

    def test_an_optimizer_of_ones_own(self):
        model = nn.Conv2d(3, 4, 3)
        own = layerscope.dry_run(model, (2, 3, 8, 8), optimizer=torch.optim.Adam)
        named = layerscope.dry_run(model, (2, 3, 8, 8), optimizer="adam")
        assert own.state_bytes == named.state_bytes > 2 * own.parameter_bytes
        assert layerscope.dry_run(model, (2, 3, 8, 8)).state_bytes == 0
        report = layerscope.profile(model, (2, 3, 8, 8), optimizer=torch.optim.Adam)
        assert report.peak.state_bytes == own.state_bytes
        assert "Adam keeps" in str(report)

    def test_a_dry_run_needs_no_memory(self):
        run = layerscope.dry_run(CifarCNN(), (1_000_000, 3, 32, 32))
        assert run.live_peak_bytes > 2**38

    def test_a_dry_run_needs_no_weights(self):
        with torch.device("meta"):
            model = CifarCNN()
        assert layerscope.dry_run(model, (32, 3, 32, 32)).live_peak_bytes == 21_502_768
        with pytest.raises(UserError, match="meta device"):
            layerscope.profile(model, (32, 3, 32, 32))

    def test_saving(self, tmp_path):
        report = layerscope.profile(nn.Linear(3, 4), (2, 3))
        names = {path.name for path in report.save(tmp_path / "new")}
        assert names == FILES - {"run.json"}
        assert json.loads((tmp_path / "new" / "profile.json").read_text())["rows"]


def test_a_second_network_in_the_loss_is_left_as_it_was():
    """A teacher in train mode: its batch norm counts batches and updates its statistics."""
    torch.manual_seed(0)
    student, teacher = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(2)
    )
    image = torch.randn(2, 3, 8, 8)
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    profile = layerscope.profile(
        student, args=(image,), loss=lambda y: (y - teacher(image)).square().mean()
    )
    assert profile.comparisons.num_unexplained == 0
    assert teacher.state_dict().keys() == before.keys()
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_hooks_on_gradients_are_named_as_left_out():
    network = nn.Linear(3, 2)
    network.weight.register_post_accumulate_grad_hook(lambda _: pytest.fail("it ran"))
    profile = layerscope.profile(network, (1, 3))
    assert any("hooks on the gradients of 1 parameters" in n for n in profile.profile.notes)
    assert profile.comparisons.num_unexplained == 0
