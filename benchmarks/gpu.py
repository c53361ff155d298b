"""python benchmarks/gpu.py [--half 1|2] [--only PART …] [--out DIR]

Check and measure everything that needs a GPU, in two halves of at most 200 and 390 seconds:

    half 1   versions, tests, probes, accounts
    half 2   training, throughput, resume, profile

Each part is a process of its own with a time limit. Its results are appended to DIR/results.jsonl
as they come, so that what a part had found when it was stopped is kept. One table comes last; exit
code 1 where something that was judged did not hold. Without a GPU the same parts run small on the
CPU, which tests this script and judges what a CPU can.

    python benchmarks/gpu.py --pack DIR                 prepare a machine without a network
    python benchmarks/gpu.py --table FILE [FILE …]      print the table of earlier results

What travels to such a machine: wheels of what it lacks, one of layerscope, and CIFAR-10 in two
pieces of lossless pictures. `--pack` prints the two command lines for it.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import gpu_pack
from gpu_parts import PARTS, Finding, Part, environment


def run_part(part: Part, out: Path) -> list[Finding]:
    """Run one part in its own process group and end it at its limit; return what it found."""
    results = out / "results.jsonl"
    before = len(read(results))
    command = [sys.executable, str(Path(__file__).resolve()), "--run", part.name, "--out", str(out)]
    began = time.monotonic()
    log = out / f"{part.name}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment(),
        )
        try:
            code = process.wait(part.limit_seconds)
            end = "" if code == 0 else f"exit code {code}: {last_line(log)}"
        except subprocess.TimeoutExpired:
            end = f"stopped at its limit of {part.limit_seconds} s"
        finally:
            stop_group(process)
    seconds = time.monotonic() - began
    append(results, [Finding(part.name, "whole part", round(seconds, 1), "s", end, end == "")])
    return read(results)[before:]


def stop_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and what it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "no output"


def append(results: Path, findings: Iterable[Finding]) -> None:
    with results.open("a") as file:
        for finding in findings:
            file.write(json.dumps(finding.record()) + "\n")
            file.flush()


def read(results: Path) -> list[Finding]:
    if not results.exists():
        return []
    return [Finding(**json.loads(line)) for line in results.read_text().splitlines()]


def table(findings: Sequence[Finding]) -> str:
    """Return all findings as a Markdown table, and what did not hold below it."""
    lines = ["| part | what | value | | holds |", "|---|---|---:|---|---|"]
    verdicts = {True: "yes", False: "**no**", None: "–"}
    for finding in findings:
        value = "–" if finding.value is None else _text(finding.value)
        cells = (finding.part, finding.what, f"{value} {finding.unit}".strip(), finding.note)
        lines.append(f"| {' | '.join(cells)} | {verdicts[finding.holds]} |")
    judged = [finding for finding in findings if finding.holds is not None]
    failed = [finding for finding in judged if not finding.holds]
    lines.append(f"\n{len(judged) - len(failed)} of {len(judged)} that were judged hold.")
    lines += [f"- {f.part}, {f.what}: {f.value} {f.unit} {f.note}".rstrip() for f in failed]
    return "\n".join(lines)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [part.name for part in PARTS]
    parser.add_argument("--half", type=int, choices=(1, 2))
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="PART")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--data", type=Path, help="a piece of CIFAR-10 from --pack, taken in first")
    parser.add_argument("--pack", type=Path, metavar="DIR")
    parser.add_argument("--table", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--run", choices=names, help=argparse.SUPPRESS)  # in the part's process
    options = parser.parse_args(argv)
    if options.pack:
        print(gpu_pack.pack(options.pack))
        return 0
    if options.table:
        print(table([finding for path in options.table for finding in read(path)]))
        return 0
    out = options.out or Path(tempfile.mkdtemp(prefix="layerscope-gpu-"))
    out.mkdir(parents=True, exist_ok=True)
    if options.run:
        part = next(part for part in PARTS if part.name == options.run)
        for finding in part.run(out):
            append(out / "results.jsonl", [finding])
        return 0
    if options.data:
        print(gpu_pack.take_in(options.data), flush=True)
    found: list[Finding] = []
    for part in PARTS:
        if part.name in options.only and options.half in (None, part.half):
            print(f"{part.name}, at most {part.limit_seconds} s …", flush=True)
            found += run_part(part, out)
    print(table(found))
    print(f"\nresults and logs: {out}")
    return 1 if any(finding.holds is False for finding in found) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
