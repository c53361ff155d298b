"""A pytest plugin: budgets of layers, beside the tests that hold a network to them.

PYTEST_DONT_REWRITE: pytest loads this file in everybody's tests; nothing of it asserts. It imports
torch when a test asks for a budget, and not before.
"""

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from layerscope.report.profile.report import ProfileReport

FOLDER = "budgets"  # beside the test's file
_OPTION = "--update-budgets"
_UPDATE = f"run pytest {_OPTION} and commit the file"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that writes budgets."""
    group = parser.getgroup("layerscope", "budgets of a network's layers")
    group.addoption(
        _OPTION,
        action="store_true",
        help="write the present profiles as the budgets of layer_budget, instead of comparing",
    )


@pytest.fixture
def layer_budget(request: pytest.FixtureRequest) -> "LayerBudget":
    """Hold a network to its budget: `layer_budget(model, input_shape=(32, 3, 32, 32))`.

    The budget is a profile.json in the folder `budgets` beside the test's file. The test fails
    where a layer has grown beyond it. `pytest --update-budgets` writes it.
    """
    return LayerBudget(request)


class LayerBudget:
    """Compares networks with the budgets of one test."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        _, *names = request.node.nodeid.split("::")  # of a class too, and with the parameters
        self._test = ".".join([request.path.stem, *names])
        self._folder = request.path.parent / FOLDER
        self._updates = bool(request.config.getoption(_OPTION))
        self._used: set[Path] = set()

    def __call__(
        self,
        model: "nn.Module",
        input_shape: Sequence[int] | None = None,
        *,
        name: str | None = None,
        tolerance: float = 0.0,
        **options: Any,
    ) -> "ProfileReport":
        """Profile the model and compare it with its budget; return the profile.

        Warnings of the model and of torch are left out here: they belong to other tests.

        Args:
            name: of the budget's file; default: that of the test. A test with several budgets
                names them.
            tolerance: share of the budget that a figure may grow by, 0.05 for 5 %.
            options: further arguments of `layerscope.profile`.

        Raises:
            layerscope.UserError: the model does not run, or an option is wrong.
        """
        path = self._path(name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from layerscope.library.profile import profile
            from layerscope.report.profile.records import save_profile_json

            report = profile(model, input_shape, **options)
        if self._updates:
            save_profile_json(path, report.profile)
        elif not path.exists():
            pytest.fail(f"there is no budget {path} yet: {_UPDATE}", pytrace=False)
        else:
            self._compare(report, path, tolerance)
        return report

    def _path(self, name: str | None) -> Path:
        """Return the file of a budget; one file serves one call of the test."""
        bare = re.sub(r"[^\w.=-]", "_", name or self._test)
        path = self._folder / f"{bare}.json"
        if path in self._used:
            pytest.fail(f"{path} is the budget of an earlier call: give name=", pytrace=False)
        self._used.add(path)
        return path

    def _compare(self, report: "ProfileReport", path: Path, tolerance: float) -> None:
        from layerscope.base.errors import UserError
        from layerscope.compare import read_profile
        from layerscope.report.profile.budget import compare_with_budget, show_budget
        from layerscope.report.terminal import Screen, TextScreen

        mistake = None
        try:
            budget = read_profile(path, "budget", f"with pytest {_OPTION}")
            changes = compare_with_budget(report.profile, budget, tolerance)
        except UserError as error:
            mistake, changes = str(error), ()
        if mistake is not None:
            pytest.fail(f"{mistake}; if this is meant, {_UPDATE}", pytrace=False)
        if any(change.exceeds for change in changes):
            screen = TextScreen()
            show_budget(screen, changes, tolerance)
            grown = dict.fromkeys(change.layer for change in changes if change.exceeds)
            grown.pop("total", None)
            names = f"grew: {', '.join(grown)}\n" if grown else ""
            pytest.fail(f"{names}{screen.text}\nIf this is meant, {_UPDATE}: {path}", pytrace=False)
        show_budget(Screen(), changes, tolerance)
