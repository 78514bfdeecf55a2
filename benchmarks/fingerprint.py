"""What a run came to, as sha256 sums: two runs that print the same lines are equal bit for bit.

    python benchmarks/fingerprint.py runs/before runs/after

A refactoring shows with it that one seed still gives the same synthetic images, class vectors, student and answers:
make each run once with the old code and once with the new one, on one thread (``--set threads=1``). Archives differ in
their headers and safetensors in their metadata, so pixels and tensors are summed, not files. It reads the files alone,
with no code of clipstill, so that it also reads runs of other versions.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from safetensors.numpy import load_file


def of_images(folder: Path) -> tuple[int, str]:
    """Number of images in the shards of a folder, and the sum over their pixels in the order of shards and names."""
    digest, count = hashlib.sha256(), 0
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            members = {member.name: member for member in tar if member.name.endswith((".png", ".jpg", ".webp"))}
            for name in sorted(members):
                file = tar.extractfile(members[name])
                assert file is not None
                digest.update(np.asarray(Image.open(io.BytesIO(file.read())).convert("RGB")).tobytes())
                count += 1
    return count, digest.hexdigest()


def of_tensors(path: Path) -> str:
    """Sum over the names, types and values of the tensors of a safetensors file."""
    digest = hashlib.sha256()
    for name, value in sorted(load_file(path).items()):
        digest.update(f"{name} {value.dtype} {value.shape}".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


def of_answers(path: Path) -> str:
    """Sum over the logits of an ONNX model for two random images."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (model_input,) = session.get_inputs()
    shape = [size if isinstance(size, int) else 2 for size in model_input.shape]
    images = np.random.default_rng(0).random(shape, dtype=np.float32)
    return hashlib.sha256(session.run(None, {model_input.name: images})[0].tobytes()).hexdigest()


def main() -> None:
    for run in map(Path, sys.argv[1:]):
        print(run)
        for folder in sorted((run / "stages").iterdir()):
            count, images = of_images(folder) if folder.is_dir() else (0, "")
            if count:
                print(f"  {images}  {folder.name}: {count} images")
            for path in sorted(folder.glob("*.safetensors")):
                print(f"  {of_tensors(path)}  {folder.name}/{path.name}")
        model = run / "bundle" / "model.onnx"
        if model.is_file():
            print(f"  {of_answers(model)}  bundle/model.onnx: answers")


if __name__ == "__main__":
    main()
