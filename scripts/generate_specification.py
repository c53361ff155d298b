"""python scripts/generate_specification.py [--torchgen FOLDER --version VERSION] [--check]

Write which tensors torch's autograd saves, per ATen operation, into the package's
dry_run/specification.json. The wheel of torch contains torchgen: the specification that autograd is
generated from, and the generator. This script runs that generator and reads the saves from the C++
code that it emits, so the rules for guards, copies and names are the generator's own.

One call reads one version of torch. The other versions in the file stay as they are.
"""

import argparse
import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FILE = Path(__file__).parents[1] / "src/layerscope/dry_run/specification.json"

Row = dict[str, Any]
Operations = dict[str, Row]

EDGES = re.compile(r"set_next_edges\(collect_next_edges\( (?P<arguments>[^)]*) \)\)")
GUARD = r"grad_fn->should_compute_output\(\d+\)"
SAVE = re.compile(
    rf"(?:if \((?P<guard>{GUARD}(?: \|\| {GUARD})*)\) {{\s*)?"
    r"(?P<clone>if \(!original_selfs?(?:\[i\])?\.has_value\(\)\) [^;]*;\s*)?"
    r"grad_fn->\w+_ = (?:SavedVariable|make_saved_variable_list)"
    r"\((?P<name>\w+)(?:\[i\])?(?:\.value\(\))?, (?P<is_output>true|false)[^;]*\);"
)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--torchgen", type=Path, help="default: the installed one")
    parser.add_argument("--version", help="the torch version that the folder belongs to")
    parser.add_argument("--check", action="store_true", help="only compare with the file")
    options = parser.parse_args(argv)
    if (options.torchgen is None) != (options.version is None):
        parser.error("give --torchgen and --version together")
    version = minor(options.version or importlib.metadata.version("torch"))
    generated = generate(options.torchgen)
    tables = read_tables(FILE) if FILE.exists() else {}
    if not options.check:
        FILE.write_text(to_json({**tables, version: generated}))
        sys.stdout.write(f"{version}: {len(generated)} operations\n")
        return
    shipped = tables.get(version, {})
    if different := [
        name
        for name in sorted(generated.keys() | shipped.keys())
        if generated.get(name) != shipped.get(name)
    ]:
        sys.exit(f"{version}: run this script, these operations differ: {', '.join(different)}")


def minor(version: str) -> str:
    """Return "2.15" for "2.15.0+cpu"."""
    return ".".join(version.split(".")[:2])


def generate(folder: Path | None) -> Operations:
    """Read every operation that has an entry in torchgen's derivatives.yaml."""
    if folder is not None:
        sys.path.insert(0, str(folder.resolve().parent))
    import torchgen
    from torchgen.api.autograd import match_differentiability_info
    from torchgen.gen import parse_native_yaml
    from torchgen.model import SchemaKind
    from torchgen.packaged.autograd.gen_inplace_or_view_type import use_derived
    from torchgen.packaged.autograd.gen_variable_type import emit_body
    from torchgen.packaged.autograd.load_derivatives import load_derivatives

    found = Path(torchgen.__file__ or "").resolve().parent
    if folder is not None and found != folder.resolve():
        raise SystemExit(f"{folder} holds no torchgen: {found} was imported")
    packaged = found / "packaged"
    native, tags = (
        str(packaged / "ATen/native" / name) for name in ("native_functions.yaml", "tags.yaml")
    )
    infos, _ = load_derivatives(str(packaged / "autograd/derivatives.yaml"), native, tags)
    operations: Operations = {}
    for matched in match_differentiability_info(
        parse_native_yaml(native, tags).native_functions, infos
    ):
        function = matched.func
        # An out= operation refuses tensors that require a gradient. "Default" is the autograd of
        # dense tensors, as opposed to that of nested ones.
        if (
            "Default" not in (matched.info or {})
            or function.func.kind() is SchemaKind.out
            or not use_derived(matched)
        ):
            continue
        body = "\n".join(emit_body(matched, "Default"))
        operations[f"aten::{function.func.name}"] = to_row(function, body)
    return operations


def to_row(function: Any, body: str) -> Row:
    """Read an operation's row from the C++ code of its autograd kernel."""
    edges = EDGES.search(body)
    if edges is None or "make_intrusive<NotImplemented>" in body:
        return {"differentiable": [], "saves": []}
    differentiable = [name.strip().removesuffix("[i]") for name in edges["arguments"].split(",")]
    return {
        "differentiable": differentiable,
        "saves": list(to_saves(function, body, differentiable)),
    }


def to_saves(function: Any, body: str, differentiable: Sequence[str]) -> Iterator[Row]:
    from torchgen.api import cpp

    matches = list(SAVE.finditer(body))
    if len(matches) != len(re.findall(r"\bSavedVariable\(|\bmake_saved_variable_list\(", body)):
        raise SystemExit(f"{function.func.name}: a save was not understood in\n{body}")
    if sum(m["guard"] is not None for m in matches) != body.count("if (grad_fn->should_compute"):
        raise SystemExit(f"{function.func.name}: a guard was not understood in\n{body}")
    arguments = [argument.name for argument in function.func.arguments.flat_all]
    results = list(cpp.return_names(function))
    for match in matches:
        name = match["name"]
        is_copy = match["clone"] is not None
        if is_copy:
            name = "self"
        row: Row = {}
        # An in-place _foreach operation returns nothing: what it saves as its result is `self`.
        if match["is_output"] == "true" and name in results:
            row["result"] = results.index(name)
        elif name in arguments:
            row["argument"] = name
        elif name in results:  # make_saved_variable_list calls no list an output
            row["result"] = results.index(name)
        else:
            raise SystemExit(f"{function.func.name}: {name} is neither an argument nor a result")
        if "result" in row and not function.func.returns[row["result"]].type.is_tensor_like():
            continue
        if match["guard"] is not None:
            numbers = re.findall(r"should_compute_output\((\d+)\)", match["guard"])
            row["guard"] = [differentiable[int(number)] for number in numbers]
        if is_copy:
            row["is_copy"] = True
        yield row


def read_tables(file: Path) -> dict[str, Operations]:
    """Return the operations of every version in the file."""
    document = json.loads(file.read_text())
    tables = {document["base"]: document["operations"]}
    for version, differences in document["differences"].items():
        merged = {**document["operations"], **differences}
        tables[version] = {name: row for name, row in merged.items() if row is not None}
    return tables


def to_json(tables: Mapping[str, Operations]) -> str:
    """Format the newest version's operations, and in what each other version differs from them.

    Each operation has one line, so that a diff shows the operations that changed.
    """
    base = max(tables, key=lambda version: [int(number) for number in version.split(".")])
    operations = tables[base]
    differences = {
        version: {
            name: table.get(name)
            for name in table.keys() | operations.keys()
            if table.get(name) != operations.get(name)
        }
        for version, table in tables.items()
        if version != base
    }
    blocks = ",\n".join(
        f'"{version}":{_lines(differences[version])}' for version in sorted(differences)
    )
    return (
        f'{{"base":"{base}",\n"differences":{{\n{blocks}\n}},\n'
        f'"operations":{_lines(operations)}}}\n'
    )


def _lines(operations: Mapping[str, Row | None]) -> str:
    lines = ",\n".join(
        f'"{name}":{json.dumps(operations[name], sort_keys=True, separators=(",", ":"))}'
        for name in sorted(operations)
    )
    return f"{{\n{lines}\n}}"


if __name__ == "__main__":
    main(sys.argv[1:])
