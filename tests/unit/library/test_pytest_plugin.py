"""The fixture layer_budget in somebody else's tests, which make warnings errors."""

import json
from importlib.metadata import entry_points

import pytest

pytest_plugins = ["pytester"]

# An installation without the entry point, such as an older editable one, names the plugin.
INSTALLED = bool(entry_points(group="pytest11", name="layerscope"))
PLUGIN = () if INSTALLED else ("-p", "layerscope.library.pytest_plugin")

TESTS = """
    import pytest
    import warnings
    from torch import nn

    def network(channels=4):
        return nn.Sequential(nn.Conv2d(3, channels, 3), nn.ReLU(), nn.Flatten(),
                             nn.Linear(36 * channels, 10))

    def test_the_same(layer_budget):
        report = layer_budget(network(), input_shape=(2, 3, 8, 8), instruments=("outputs",))
        assert report.costs.total().num_parameters == 36 * 4 * 10 + 10 + 28 * 4

    def test_growth(layer_budget):
        layer_budget(network(GROWN), (2, 3, 8, 8), instruments=("outputs",))

    def test_tolerance(layer_budget):
        layer_budget(network(GROWN), (2, 3, 8, 8), tolerance=0.25, instruments=())

    def test_saving(layer_budget):
        layer_budget(network(SAVING), (2, 3, 8, 8), instruments=())

    class TestBoth:
        @pytest.mark.parametrize("train", [True, False])
        def test_settings(self, layer_budget, train):
            layer_budget(nn.ReLU(), (2, 3), train=train, instruments=())

    class Warning(nn.Identity):
        def forward(self, x):
            warnings.warn("of the model")
            return x.sin()

    def test_a_model_that_warns(layer_budget):
        layer_budget(Warning(), (2, 3), name="warns", instruments=("saved", "fvcore"))

    def test_an_old_file(layer_budget):
        layer_budget(nn.ReLU(), (2, 3), instruments=())
"""
LATER = """
    def test_no_budget(layer_budget):
        layer_budget(nn.ReLU(), (2, 3), instruments=())

    def test_twice(layer_budget):
        for _ in range(2):
            layer_budget(Warning(), (2, 3), name="warns", instruments=("saved", "fvcore"))
"""
FILES = {
    *(f"test_net.test_{name}.json" for name in ("the_same", "growth", "tolerance", "saving")),
    *(f"test_net.TestBoth.test_settings_{name}_.json" for name in ("True", "False")),
    *("warns.json", "test_net.test_an_old_file.json"),
}


@pytest.fixture
def run(pytester):
    pytester.makeini("[pytest]\nfilterwarnings = error\naddopts = -p no:cacheprovider\n")

    def call(text, *argv):
        pytester.makepyfile(test_net=text)
        return pytester.runpytest_subprocess(*PLUGIN, *argv)

    return call


def test_budgets_are_written_kept_and_exceeded(run, pytester):
    folder = pytester.path / "budgets"
    same = TESTS.replace("GROWN", "4").replace("SAVING", "4")
    run(same, "--update-budgets").assert_outcomes(passed=8)
    assert {path.name for path in folder.iterdir()} == FILES
    for name, change in {
        "test_net.test_an_old_file": lambda record: record | {"format": 1},
        "test_net.TestBoth.test_settings_True_": lambda record: (
            record | {"settings": record["settings"] | {"dtype": "bfloat16"}}
        ),
    }.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
    before = {path: path.read_bytes() for path in folder.iterdir()}

    changed = TESTS.replace("GROWN", "5").replace("SAVING", "3") + LATER
    result = run(changed, "-rPf")
    result.assert_outcomes(passed=5, failed=5)
    text = result.stdout.str()
    for line in (
        "grew: 0, 1, 2, 3\n",
        "BUDGET EXCEEDED (tolerance 0.0 %)",
        f"run pytest --update-budgets and commit the file: {folder}/test_net.test_growth.json",
        "test_net.test_no_budget.json yet: run pytest --update-budgets",
        "save a new one with pytest --update-budgets",
        'dtype="float32" here, "bfloat16" there',
        "warns.json is the budget of an earlier call: give name=",
        "savings, largest share first",
    ):
        assert line in text
    told = [line for line in text.splitlines() if line.startswith("FAILED")]
    failed = {line.split("::")[-1].split(" ")[0] for line in told}
    assert failed == {
        *("test_growth", "test_no_budget", "test_twice", "test_an_old_file"),
        "test_settings[True]",
    }
    assert "During handling" not in text
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_pytest_starts_without_torch(run):
    text = """
        import sys

        def test_nothing_was_imported():
            assert not {"torch", "lightning", "layerscope.report"} & sys.modules.keys()

        def test_the_fixture_is_there(layer_budget):
            assert "torch" not in sys.modules
    """
    run(text).assert_outcomes(passed=2)
