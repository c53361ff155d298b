"""What is answered before torch is imported, which takes seconds."""

import os
import subprocess
import sys

import pytest

TORCH = "raise SystemExit('torch was imported')"


@pytest.fixture
def answer(tmp_path):
    """Call a command where torch cannot be imported."""
    (tmp_path / "torch.py").write_text(TORCH)
    searched = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])

    def call(*argv):
        return subprocess.run(
            [sys.executable, "-m", "layerscope", *argv],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": searched},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return call


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        *(
            [name, "--help"]
            for name in ("train", "evaluate", "predict", "profile", "explain", "report-sweep")
        ),
        ["train", "--cfg", "job"],
    ],
    ids=" ".join,
)
def test_answers(answer, argv):
    answered = answer(*argv)
    assert (answered.returncode, answered.stderr) == (0, "")
    assert len(answered.stdout) > 300


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trian"], "did you mean train?"),
        (["train", "trainer.max_epoch=3"], "did you mean trainer.max_epochs?"),
        (["train", "trainer.max_epochs=many"], "trainer.max_epochs=many"),
        (["train", "-m", "seed=0,1", "mdoel=cifar_cnn"], "did you mean model?"),
        (["train", "-m", "seed=x,0"], "job 0, seed=x: seed=x"),
        (["train", "--hlep"], "--hlep"),
        (["evaluate", "ckpt_path=a", "trainer.max_epoch=3"], "did you mean trainer.max_epochs?"),
        (["evaluate", "ckpt_path=a", "dat=synthetic"], "did you mean data?"),
        (["predict", "ckpt_path=a"], "image is missing"),
        (["profile", "loss=mse"], "says nothing about a profile"),
        (["profile", "instruments.tme=false"], "did you mean instruments.time?"),
        (["explain", "dtype=float8"], "dtype=float8"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(answer, argv, said):
    answered = answer(*argv)
    assert (answered.returncode, answered.stdout) == (2, "")
    assert answered.stderr.startswith("error: ")
    assert answered.stderr.count("\n") == 1
    assert said in answered.stderr


def test_a_first_line_comes_before_the_wait(answer):
    assert answer("train", "hydra.run.dir=run").stdout == "layerscope train, files in run\n"
    assert answer("report-sweep", ".").stdout == "layerscope report-sweep\n"


def test_the_library_alone_imports_neither(answer, tmp_path):
    imported = subprocess.run(
        [sys.executable, "-c", "import layerscope, sys; print('torch' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert imported.stdout == "False\n"
