"""Sweeps on Hydra's other launchers, each a package of its own."""

import subprocess
import sys

import pytest
from bad_input import assert_refused
from helpers import SCRIPTS, TINY, Result, read_json, start

WITHOUT_PLUGINS = """
import sys
sys.modules["hydra_plugins"] = None
from layerscope.commands.main import run
sys.exit(run("train", sys.argv[1:]))
"""
# Of two jobs the first one fails, in its own process.
KEYS = [key for key in TINY if not key.startswith(("trainer.max_epochs", "optimizer."))]
KEYS += ["trainer.max_epochs=1", "optimizer.sgd_lr=1e30,0.1", "hydra.sweep.dir=sweep"]
KEYS += ["data.loader=workers", "data.num_workers=1"]  # joblib has a start method of its own


@pytest.mark.parametrize(
    "engine", ["joblib", pytest.param("submitit_local", marks=pytest.mark.slow)]
)
def test_a_sweep_in_processes_of_an_engine(engine, tmp_path):
    package = pytest.importorskip(f"hydra_plugins.hydra_{engine.partition('_')[0]}_launcher")
    assert package is not None
    ended = start(SCRIPTS / "train.py", "-m", f"hydra/launcher={engine}", *KEYS, cwd=tmp_path)
    assert ended.returncode == 1, ended.stderr
    finished, failed = read_json(tmp_path / "sweep/sweep.json")
    assert (finished["status"], failed["status"]) == ("finished", "failed")
    assert "NonFiniteLoss" in failed["reason"]
    assert "Traceback" not in ended.stderr
    assert (tmp_path / "sweep/1/checkpoints/best.ckpt").exists()


@pytest.mark.parametrize("engine", ["joblib", "submitit_local"])
def test_an_engine_that_is_not_installed(engine, tmp_path):
    argv = ["-m", "seed=0,1", f"hydra/launcher={engine}"]
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_PLUGINS, *argv], cwd=tmp_path, capture_output=True, text=True
    )
    package = f"hydra-{engine.partition('_')[0]}-launcher"
    assert_refused(
        Result(ended.returncode, ended.stdout, ended.stderr),
        f"hydra/launcher={engine} needs a package: pip install {package}",
    )
    assert list(tmp_path.iterdir()) == []


def test_slurm_where_there_is_none(run, tmp_path, monkeypatch):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    monkeypatch.setenv("PATH", "")
    keys = ["seed=0,1", f"hydra.sweep.dir={tmp_path}/sweep"]
    refused = run("train", "-m", "hydra/launcher=submitit_slurm", *keys)
    assert_refused(refused, "there is no srun here")
    assert not (tmp_path / "sweep").exists()
