"""python tests/frozen/freeze_files.py

Write the folder files: checkpoints, a run folder and a profile as the scripts of one commit write
them, with what that commit makes of them. files/README.md says what is there and how it was made.
Run it at the commit that added it, with one thread.
"""

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from freeze import packed, source_commit

import layerscope

FOLDER = Path(__file__).parent / "files"
ROOT = Path(__file__).parents[2]
TRAIN = (
    *("data=synthetic", "data.num_train=640", "data.num_val=100", "data.num_test=100"),
    *("data.batch_size=32", "model=tiny_cnn", "trainer=cpu", "trainer.threads=1"),
    *("trainer.precision=32-true", "trainer.max_epochs=3", "profile=false"),
)
# The folder, further keys, and the training step at which the process is killed, from 0.
STOPPED = (
    ("stopped_after_epoch", (), 20),
    ("stopped_within_epoch", ("checkpoint_every_n_steps=7",), 31),
)
# A run like any other, which kills itself as if from outside.
KILLED = """
import sys
from injections import die_at
from helpers import load_script
die_at("before Classifier.training_step", int(sys.argv[1]))
sys.argv = ["train.py", *sys.argv[2:]]
load_script("train").main(sys.argv[1:])
"""
PACKAGES = ("torch", "torchvision", "lightning", "numpy")
PICTURES = (".svg", ".png", ".html", ".md")


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        _script(work, "train", *TRAIN, "hydra.run.dir=whole")
        for folder, keys, step in STOPPED:
            _killed(work, step, *TRAIN, *keys, f"hydra.run.dir={folder}")
        _script(work, "profile_model", "model=tiny_cnn", "hydra.run.dir=profile")
        shutil.rmtree(FOLDER / "expected", ignore_errors=True)
        (FOLDER / "expected").mkdir(parents=True)
        for folder, *_ in STOPPED:
            shutil.rmtree(FOLDER / folder, ignore_errors=True)
            _copy(work / folder, FOLDER / folder)
        shutil.copy(work / "profile/profile.json", FOLDER / "profile.json")
        checkpoint = f"ckpt_path={STOPPED[0][0]}/checkpoints/best.ckpt"
        _script(work, "evaluate", checkpoint, "hydra.run.dir=evaluated")
        _script(work, "explain", checkpoint, "analysis=false", "hydra.run.dir=explained")
        _expect(work)
        for folder, keys, _ in STOPPED:
            _script(work, "train", *TRAIN, *keys, f"hydra.run.dir={folder}", "resume=auto")
            for file in ("metrics.csv", "checkpoints/last.ckpt"):
                assert _content(work / folder / file) == _content(work / "whole" / file), folder
    return 0


def _expect(work: Path) -> None:
    expected = FOLDER / "expected"
    shutil.copy(work / "whole/metrics.csv", expected)
    shutil.copy(work / "evaluated/predictions.csv", expected)
    explanation = json.loads((work / "explained/explain.json").read_text())
    (expected / "explain.json.gz").write_bytes(packed(explanation))
    best = work / STOPPED[0][0] / "checkpoints/best.ckpt"
    evaluation = json.loads((work / "evaluated/evaluation.json").read_text())
    results = json.loads((work / "whole/results.json").read_text())
    values = {
        "made_with": {
            "commit": source_commit(),
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        },
        "train": [*TRAIN],
        "results": {k: v for k, v in results.items() if "second" not in k},
        "weights": _tensors(work / "whole/checkpoints/last.ckpt"),
        "evaluation": {k: v for k, v in evaluation.items() if k != "ckpt_path"},
        "logits": layerscope.load(best)(image()).tolist(),
    }
    (expected / "expected.json").write_text(json.dumps(values, indent=1) + "\n")


def image() -> torch.Tensor:
    """Return the two images that `logits` in expected.json are of."""
    return (torch.arange(2 * 64).reshape(2, 1, 8, 8) % 17 - 8) / 8


def _tensors(checkpoint: Path) -> dict[str, dict[str, Any]]:
    """Bytes as a digest, and values, which for float32 are exact, of each weight."""
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    return {
        name: {"sha256": _digest(tensor), "values": tensor.flatten().tolist()}
        for name, tensor in state.items()
    }


def _digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def _content(path: Path) -> str | dict[str, dict[str, Any]]:
    return _tensors(path) if path.suffix == ".ckpt" else path.read_text()


def _copy(source: Path, target: Path) -> None:
    """Everything but pictures and locks; what names this machine is left out of run.json."""
    ignored = shutil.ignore_patterns(*(f"*{ending}" for ending in PICTURES), ".*")
    shutil.copytree(source, target, ignore=ignored)
    run = json.loads((target / "run.json").read_text())
    run["commit"] = source_commit()
    run["hardware"]["system"] = "Linux"
    (target / "run.json").write_text(json.dumps(run, indent=2) + "\n")


def _script(work: Path, name: str, *keys: str) -> None:
    command = [sys.executable, str(ROOT / f"scripts/{name}.py"), *keys]
    subprocess.run(command, cwd=work, check=True, stdout=subprocess.DEVNULL)


def _killed(work: Path, step: int, *keys: str) -> None:
    paths = [str(ROOT / "src"), *(str(ROOT / "tests" / name) for name in ("faults", "integration"))]
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(step), *keys],
        cwd=work,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        stdout=subprocess.DEVNULL,
    )
    assert ended.returncode == -signal.SIGKILL, ended


if __name__ == "__main__":
    sys.exit(main())
