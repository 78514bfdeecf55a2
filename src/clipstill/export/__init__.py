"""From a trained student to the folder that is shipped: formats, parity check, latency, bundle.

To add a format, write a subclass of ``clipstill.export.format.Format`` and a line in the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipstill.core.registry import Part, Registry

if TYPE_CHECKING:
    from clipstill.export.format import Format

formats = Registry(
    "format",
    {
        "onnx": Part("clipstill.export.onnx:Onnx", "always: every bundle has it", "model.onnx"),
        "onnx-fp16": Part("clipstill.export.onnx_fp16:OnnxFp16", "the file must be half as large", "1/2"),
        "onnx-int8": Part(
            "clipstill.export.onnx_int8:OnnxInt8",
            "the file must be a quarter as large; in every bundle unless its answers differ",
            "1/4",
        ),
        "torch": Part("clipstill.export.torch_program:TorchProgram", "you go on in torch", "1"),
        "openvino": Part("clipstill.export.openvino:OpenVino", "it runs on Intel's processors", "1"),
        "executorch": Part("clipstill.export.executorch:ExecuTorch", "it runs in an app on a phone", "1"),
        "litert": Part("clipstill.export.litert:LiteRT", "it runs on Android (TensorFlow Lite)", "1"),
        "ncnn": Part("clipstill.export.ncnn:Ncnn", "it runs on phones and boards by NCNN", "1"),
        "coreml": Part("clipstill.export.coreml:CoreML", "it runs on Apple's devices", "1"),
    },
)


def load_format(name: str) -> Format:
    """The format of that name, ready to write.

    Raises:
        UnknownNameError: There is no such format.
        ResourceError: The package that writes it is not installed.
    """
    make, _ = formats.resolve(name)
    found: Format = make()
    found.check()
    return found
