"""The commands by name.

Nothing here imports torch, which takes seconds: a command's own file is imported once its command
line has been read and found right.
"""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from typing import Any

from layerscope.base.formatting import wrapped
from layerscope.base.output import safe_output
from layerscope.base.signals import one_line_on_signals
from layerscope.commands.runner import Command, run_command
from layerscope.config import schema
from layerscope.report.terminal import Screen, complain

CHECK_ZOO = "check-zoo"  # It has flags, no keys: layerscope/zoo/check.py.


def _later(module: str, name: str) -> Callable[..., Any]:
    """Return a function of a command's file that is imported when it is first called."""

    def call(*arguments: Any) -> Any:
        with one_line_on_signals():
            found = getattr(import_module(f"layerscope.commands.{module}"), name)
        return found(*arguments)

    return call


COMMANDS = {
    "train": Command(
        "train",
        schema.TrainConfig,
        "Train a network, test its best checkpoint, and write what every layer cost. -m sweeps: "
        "model.width=0.5,1,2 seed=0,1 makes six runs.",
        _later("train", "check_training"),
        finish_sweep=_later("report_sweep", "finish_sweep"),
    ),
    "evaluate": Command(
        "evaluate",
        schema.EvaluateConfig,
        "Score a checkpoint on the test set. Everything but ckpt_path comes from the checkpoint "
        "itself and can be overridden: data.batch_size=100 trainer=cpu.",
        _later("evaluate", "check_evaluation"),
        own_keys=frozenset({*schema.EvaluateConfig.model_fields, "paths.outputs"}),
    ),
    "predict": Command(
        "predict",
        schema.PredictConfig,
        "Print what a checkpoint's network takes a photo for: the softmax probability of each "
        "class.",
        _later("predict", "check_prediction"),
        writes_files=False,
        own_keys=frozenset(schema.PredictConfig.model_fields),
    ),
    "profile": Command(
        "profile",
        schema.ProfileConfig,
        "Say what every layer costs in theory, what the instruments measured, and why the two "
        "differ.",
        _later("profile", "check_profile"),
        makes="a profile",
        unused=("loss", "trainer"),
        network_of_checkpoint=True,
    ),
    "explain": Command(
        "explain",
        schema.ExplainConfig,
        "Show the arithmetic of every layer with its own numbers in it, forward and backward.",
        _later("explain", "check_explain"),
        makes="an explanation, whose steps have learning_rate",
        unused=("optimizer", "trainer"),
        network_of_checkpoint=True,
    ),
    "compare": Command(
        "compare",
        schema.CompareConfig,
        "Say what grew and what shrank between two saved profiles, each in reasons that sum to it.",
        _later("compare", "check_comparison"),
    ),
    "audit": Command(
        "audit",
        schema.AuditConfig,
        "Check a table of printed figures, a paper's or a lecture's, against the network it is "
        "about.",
        _later("audit", "check_audit"),
        makes="claims",
        unused=("optimizer", "loss", "trainer"),
        takes_file=True,
        overrides_of_file=_later("audit", "network_of_claims"),
    ),
    "report-sweep": Command(
        "report-sweep",
        schema.ReportSweepConfig,
        "Report on a sweep's directory, report-sweep DIR: means over seeds, accuracy against cost, "
        "learning curves, failed jobs. Works while the sweep still runs.",
        _later("report_sweep", "check_report"),
        writes_files=False,
        takes_file=True,
    ),
}


def run(name: str, argv: Sequence[str]) -> int:
    """Run a command and return the exit code of docs/reference.md.

    Args:
        argv: what follows the command's name.
    """
    if name == CHECK_ZOO:
        with one_line_on_signals():
            from layerscope.zoo.check import main as check_zoo
        return check_zoo(argv)
    return run_command(argv, COMMANDS[name])


def main(argv: Sequence[str]) -> int:
    """Run the command that the first word names; `--help` lists them."""
    name, rest = (argv[0], argv[1:]) if argv else ("--help", ())
    if name in COMMANDS or name == CHECK_ZOO:
        return run(name, rest)
    with safe_output():
        if name in ("-h", "--help", "help"):
            Screen().say(_help())
            return 0
        if name == "--version":
            Screen().say(f"layerscope {version('layerscope')}")
            return 0
        known = [*COMMANDS, CHECK_ZOO]
        close = get_close_matches(name.replace("_", "-"), known, n=1)
        mend = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(known)}"
        complain(f"error: {name} is no command: {mend}")
        return 2


def _help() -> str:
    width, indent = Screen().width, " " * 6
    does = {name: command.does for name, command in COMMANDS.items()}
    does[CHECK_ZOO] = "Profile other people's networks and say whether anything is unexplained."
    return "\n".join(
        [
            "layerscope COMMAND KEY=VALUE ...",
            "",
            *(f"  {name}\n{wrapped(indent + text, indent, width)}" for name, text in does.items()),
            "",
            wrapped("layerscope COMMAND --help lists a command's keys.", width=width),
        ]
    )
