"""The student for NCNN, for CPUs and GPUs (Vulkan) of phones and boards: layers (.param) and float32 weights (.bin).

It takes one picture at a time.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

import numpy as np

from clipstill.core.cores import usable_cores
from clipstill.core.protocols import height_and_width
from clipstill.export.format import Format, Model, Source, one_at_a_time


class Ncnn(Format):
    """Made from ``model.onnx`` by pnnx."""

    name = "ncnn"
    packages = ("ncnn", "pnnx")
    files = ("model.ncnn.param", "model.ncnn.bin")

    def _write(self, source: Source, folder: Path) -> None:
        from pnnx import EXEC_PATH

        shape = ",".join(map(str, (1, 3, *height_and_width(source.size))))
        graph, layers, weights = source.onnx.resolve(), *((folder / name).resolve() for name in self.files)
        # pnnx writes files of its own beside its input and into the working folder.
        with tempfile.TemporaryDirectory() as work:
            copy = Path(work, graph.name)
            copy.write_bytes(graph.read_bytes())
            settings = [f"inputshape=[{shape}]f32", "fp16=0", f"ncnnparam={layers}", f"ncnnbin={weights}"]
            done = subprocess.run([EXEC_PATH, str(copy), *settings], cwd=work, capture_output=True, text=True)
        if not (layers.is_file() and weights.is_file()):
            last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
            raise RuntimeError(f"pnnx made no file ({last})")

    def _open(self, path: Path, threads: int) -> Model:
        import ncnn

        network = ncnn.Net()
        network.opt.num_threads = threads or usable_cores()
        # It rounds weights and layers to 16 bits where the processor can, if not told otherwise.
        network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
        if network.load_param(str(path)) or network.load_model(str(path.with_suffix(".bin"))):
            raise RuntimeError("ncnn cannot read it")

        def model(x_13HW: np.ndarray) -> np.ndarray:
            run = network.create_extractor()
            # Copied: `ncnn.Mat` does not keep the array alive.
            if run.input(network.input_names()[0], ncnn.Mat(x_13HW[0]).clone()):
                raise RuntimeError("ncnn does not take the picture")
            failed, logits_C = run.extract(network.output_names()[0])
            if failed:
                raise RuntimeError("a layer failed")
            return np.array(logits_C)[None]

        return one_at_a_time(model)
