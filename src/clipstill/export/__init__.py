"""From a trained student to the folder that is shipped: formats, parity check, latency, bundle.

To add a format, write a subclass of ``clipstill.export.format.Format`` and a line in the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipstill.core.registry import Registry

if TYPE_CHECKING:
    from clipstill.export.format import Format

formats = Registry(
    "format",
    {
        "onnx": "clipstill.export.onnx:Onnx",
        "onnx-fp16": "clipstill.export.onnx_fp16:OnnxFp16",
        "onnx-int8": "clipstill.export.onnx_int8:OnnxInt8",
        "torch": "clipstill.export.torch_program:TorchProgram",
        "openvino": "clipstill.export.openvino:OpenVino",
        "executorch": "clipstill.export.executorch:ExecuTorch",
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
