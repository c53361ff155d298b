"""python benchmarks/startup.py [--rounds 5]

How long one waits before something happens, as ratios to `import torch`, measured in turn: answers
that need no torch, the first line of a command, and the library's imports.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from statistics import median

COMMAND = (sys.executable, "-m", "layerscope")
CASES = {
    "layerscope --help": (*COMMAND, "--help"),
    "layerscope train --help": (*COMMAND, "train", "--help"),
    "layerscope train mdoel=cifar_cnn": (*COMMAND, "train", "mdoel=cifar_cnn"),
    "layerscope train --cfg job": (*COMMAND, "train", "--cfg", "job"),
    "first line of layerscope train": (*COMMAND, "train", "data=synthetic"),
    "import layerscope": (sys.executable, "-c", "import layerscope"),
    "import layerscope; layerscope.profile": (
        *(sys.executable, "-c", "import layerscope; layerscope.profile"),
    ),
    "import lightning": (sys.executable, "-c", "import lightning"),
}
TORCH = (sys.executable, "-c", "import torch")


def seconds(command: Sequence[str]) -> float:
    """Seconds to the end of the command, or to its first line where it trains."""
    begin = time.perf_counter()
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process,
    ):
        assert process.stdout is not None
        if command == CASES["first line of layerscope train"]:
            process.stdout.readline()
            passed = time.perf_counter() - begin
            process.kill()
        else:
            process.stdout.read()
            process.wait()
            passed = time.perf_counter() - begin
    return passed


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args(argv).rounds
    for command in (TORCH, *CASES.values()):
        seconds(command)  # compiles what has never been imported
    found: dict[str, list[float]] = {name: [] for name in CASES}
    imports = []
    for _ in range(rounds):
        imports.append(seconds(TORCH))
        for name, command in CASES.items():
            found[name].append(seconds(command))
    print(f"import torch: {median(imports):.2f} s")
    for name, times in found.items():
        ratios = sorted(a / b for a, b in zip(times, imports, strict=True))
        shown = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{name:<40} {shown} times import torch, {median(times):.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
