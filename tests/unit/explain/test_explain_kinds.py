import re
from pathlib import Path

from layerscope.explain.kinds import EXPLAINERS

REFERENCE = Path(__file__).parents[3] / "docs" / "reference.md"


def test_the_reference_lists_the_kinds_that_are_explained():
    (line,) = re.findall(r"^Kinds that are explained: (.*)\.$", REFERENCE.read_text("utf-8"), re.M)
    assert line == ", ".join(f"`{kind}`" for kind in sorted(EXPLAINERS))
