"""The student as a Core ML program (iOS 16, macOS 13 and later) in float32: a zipped ``.mlpackage``.

It takes one picture at a time. Any machine can write it; only macOS can run it: elsewhere its answers stay unchecked.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from clipstill.core.errors import ExportError
from clipstill.core.protocols import height_and_width
from clipstill.export.format import Format, Model, Source, one_at_a_time, silent
from clipstill.export.onnx import INPUT, OUTPUT
from clipstill.export.torch_program import exported_program

_PACKAGE = "model.mlpackage"


class CoreML(Format):
    """For Apple's CPUs, GPUs and neural engines."""

    name = "coreml"
    packages = ("coremltools",)
    files = (f"{_PACKAGE}.zip",)

    def not_run_here(self) -> str | None:
        """Core ML is a part of macOS."""
        return None if sys.platform == "darwin" else "Core ML runs on macOS only"

    def _write(self, source: Source, folder: Path) -> None:
        with silent():
            import coremltools

            shape = (1, 3, *height_and_width(source.size))
            program = exported_program(source.student, source.size, any_number=False).run_decompositions({})
            model = coremltools.convert(
                program,
                convert_to="mlprogram",
                inputs=[coremltools.TensorType(name=INPUT, shape=shape)],
                outputs=[coremltools.TensorType(name=OUTPUT)],
                minimum_deployment_target=coremltools.target.iOS16,
                compute_precision=coremltools.precision.FLOAT32,
                skip_model_load=True,
            )
        _check_ends(model.get_spec().description, shape)
        with tempfile.TemporaryDirectory() as work:
            model.save(str(Path(work, _PACKAGE)))
            shutil.make_archive(str(folder / _PACKAGE), "zip", work)

    def _open(self, path: Path, threads: int) -> Model:
        import coremltools

        # Core ML chooses the number of threads. On the GPU it would compute in float16.
        work = tempfile.TemporaryDirectory()
        shutil.unpack_archive(path, work.name)
        program = coremltools.models.MLModel(
            str(Path(work.name, _PACKAGE)), compute_units=coremltools.ComputeUnit.CPU_ONLY
        )
        weakref.finalize(program, work.cleanup)
        return one_at_a_time(lambda x_13HW: np.asarray(program.predict({INPUT: x_13HW})[OUTPUT]))


def _check_ends(description: Any, shape: tuple[int, ...]) -> None:
    """Check what the program says of its input and output: float32 of the right names and sizes."""
    from coremltools.proto.FeatureTypes_pb2 import ArrayFeatureType

    (image,), (logits,) = description.input, description.output
    arrays = [each.type.multiArrayType for each in (image, logits)]
    if (
        (image.name, logits.name) != (INPUT, OUTPUT)
        or tuple(arrays[0].shape) != shape
        or any(each.dataType != ArrayFeatureType.FLOAT32 for each in arrays)
    ):
        raise ExportError(f"the Core ML program has other ends than {INPUT} {shape} -> {OUTPUT} in float32")
