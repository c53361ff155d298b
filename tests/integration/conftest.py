import warnings

import pytest
from helpers import TINY, Result, load_script


@pytest.fixture
def run(capfd):
    """Call a script's main(argv): exit code, and what it printed."""

    def call(name, *argv):
        capfd.readouterr()
        code = load_script(name).main([str(argument) for argument in argv])
        printed = capfd.readouterr()
        return Result(code, printed.out, printed.err)

    return call


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """The directory of one small finished run, for reading only."""
    directory = tmp_path_factory.mktemp("finished") / "run"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
        warnings.filterwarnings("ignore", message=r".*torch.jit.* is deprecated")
        code = load_script("train").main([*TINY, f"hydra.run.dir={directory}"])
    assert code == 0
    return directory
