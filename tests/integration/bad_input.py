"""Files that no script takes, and what a refusal looks like."""

import struct
import zipfile
import zlib
from pathlib import Path

import torch

from layerscope.networks.cifar_cnn import CifarCNN
from layerscope.training.checkpoint_files import save_sealed

# A few lines of YAML that stand for 9**12 values.
BOMB = "\n".join(
    ["a: &a0 [x,x,x,x,x,x,x,x,x]"]
    + [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
)


def assert_refused(result, hint):
    assert result.code == 2, result
    assert result.out == ""
    assert result.err.startswith("error: "), result.err
    assert result.err.count("\n") == 1, result.err
    assert hint in result.err
    assert "Traceback" not in result.err


def snapshot(directory):
    """All names with the bytes of the files."""
    paths = sorted(Path(directory).rglob("*"))
    return {path: path.read_bytes() if path.is_file() else None for path in paths}


def broken_checkpoints(directory, good):
    """Write files that are no checkpoint to use: name to what the line on stderr says."""
    content = good.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    files = {
        "empty": b"",
        "truncated": content[: len(content) // 2],
        "flipped": bytes(flipped),
        "script": b"export A=1\nexport B=2\n",
        "html": b"<!doctype html><title>404</title>",
        "text": b"hello",
    }
    for name, data in files.items():
        (directory / f"{name}.ckpt").write_bytes(data)
    with zipfile.ZipFile(directory / "other zip.ckpt", "w") as archive:
        archive.writestr("a.txt", "hello")
    torch.save(CifarCNN().state_dict(), directory / "plain state.ckpt")
    torch.save([1, 2], directory / "list.ckpt")
    torch.save({"state_dict": CifarCNN().state_dict()}, directory / "not ours.ckpt")
    torch.save(CifarCNN(), directory / "pickled module.ckpt")

    def changed(name, change):
        checkpoint = torch.load(good, weights_only=True)
        change(checkpoint, checkpoint["layerscope"], checkpoint["state_dict"])
        save_sealed(directory / f"{name}.ckpt", checkpoint)

    first = "network.block1.conv.weight"
    changed("newer", lambda all, facts, state: facts.update(format=99))
    changed("no view", lambda all, facts, state: facts.update(preprocessing={}))
    changed("missing weight", lambda all, facts, state: state.pop(first))
    changed("extra weight", lambda all, facts, state: state.update({"network.x": state[first]}))
    changed("another shape", lambda all, facts, state: state.update({first: state[first][:2]}))
    changed("not finite", lambda all, facts, state: state[first].fill_(float("nan")))
    changed("another type", lambda all, facts, state: state.update({first: state[first].double()}))
    changed("weight no tensor", lambda all, facts, state: state.update({first: "x"}))
    return {
        "empty": "no readable checkpoint", "truncated": "no readable checkpoint",
        "flipped": "checksum is wrong", "script": "no readable checkpoint",
        "html": "no readable checkpoint", "text": "no readable checkpoint",
        "other zip": "no readable checkpoint", "plain state": "no state_dict",
        "list": "holds a list", "not ours": "not written by layerscope",
        "pickled module": "no readable checkpoint", "newer": "format 99",
        "no view": "preprocessing.image_size is missing", "missing weight": "is missing",
        "extra weight": "is not in the network", "another shape": "another architecture",
        "not finite": "is not finite", "another type": "torch.float64",
        "weight no tensor": "something else than tensors",
    }  # fmt: skip


def png(width, height, pixels=b"\0" * 64):
    """A small file that says it is a picture of this size."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


IMAGES = {
    "text.png": (b"hello", "no picture"),
    "empty.png": (b"", "no picture"),
    "bomb.png": (png(20_000, 20_000), "too many pixels"),
    "large.png": (png(12_000, 12_000), "too many pixels"),
    "cut.png": (png(64, 64), "no picture"),
    "program.eps": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n",
        "no picture",
    ),
    "drawing.svg": (b"<svg/>", "no picture"),
    "page.jpg": (b"<!doctype html>", "no picture"),
    "folder": (None, "is no file"),
}
