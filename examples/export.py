"""Export a trained network with its preprocessing inside, and check that it answers the same.

    python examples/export.py RUN/checkpoints/best.ckpt FOLDER

Writes FOLDER/network.pt2 (torch.export) and FOLDER/network.onnx. Both take raw pixels, uint8 RGB of
shape (N, 3, 32, 32) with any N, and return the network's outputs (N, num_classes). ONNX needs three
packages more: pip install onnx onnxscript onnxruntime
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch

import layerscope

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export_with_torch(module: torch.nn.Module, pixels: torch.Tensor, path: Path) -> None:
    """Write a program of torch.export; its outputs must be the module's to the bit."""
    shapes = ({0: torch.export.Dim("N")},)
    torch.export.save(torch.export.export(module, (pixels,), dynamic_shapes=shapes), path)
    program = torch.export.load(path).module()
    assert torch.equal(program(pixels), module(pixels))
    assert torch.equal(program(pixels[:1]), module(pixels[:1]))
    print(f"{path}: equal to the bit")


def export_to_onnx(module: torch.nn.Module, pixels: torch.Tensor, path: Path) -> None:
    """Write an ONNX model; onnxruntime must give the module's outputs up to rounding."""
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        print(f"no ONNX: pip install {' '.join(missing)}")
        return
    import onnxruntime

    shapes = ({0: torch.export.Dim("N")},)
    torch.onnx.export(module, (pixels,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = onnxruntime.InferenceSession(path)
    (name,) = (given.name for given in session.get_inputs())
    for batch in (pixels, pixels[:1]):
        (outputs,) = session.run(None, {name: batch.numpy()})
        torch.testing.assert_close(torch.from_numpy(outputs), module(batch), rtol=1e-4, atol=1e-4)
    print(f"{path}: equal up to rounding")


def main(checkpoint: str, folder: str) -> int:
    """Export both ways."""
    network = layerscope.load(checkpoint)
    module = layerscope.with_preprocessing(network)
    size = network.preprocessing.stored_size
    pixels = torch.randint(256, (4, 3, size, size), dtype=torch.uint8)
    Path(folder).mkdir(parents=True, exist_ok=True)
    with torch.no_grad():
        export_with_torch(module, pixels, Path(folder, "network.pt2"))
        export_to_onnx(module, pixels, Path(folder, "network.onnx"))
    print(f"classes: {', '.join(network.preprocessing.view.class_names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) == 3 else __doc__)
