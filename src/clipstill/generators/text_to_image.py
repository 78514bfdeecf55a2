"""Any text-to-image pipeline of diffusers as a sampler, to compare inversion with.

``text-to-image:/path/to/folder`` names a pipeline that diffusers saved, and nothing is fetched;
``text-to-image:OWNER/REPO`` names one of the hub. Weights are read from safetensors only, and code that lies beside
them is never run.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.errors import ConfigError, DataError, reason_of
from clipstill.core.file_names import visible
from clipstill.core.files import read_json, sha256_file, sha256_json
from clipstill.core.names import plain
from clipstill.core.paths import user_path
from clipstill.core.protocols import Provenance
from clipstill.core.seeds import generator_for
from clipstill.generators.model_files import download, import_diffusers, licence_of

INDEX_FILE = "model_index.json"
BATCH = 8
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".msgpack")


class TextToImage:
    """A frozen pipeline that draws one image for each text and seed.

    Args:
        folder: Folder that diffusers saved, with ``model_index.json`` and a folder for each component.
        device: Device of the pipeline: float32 on the CPU, bfloat16 elsewhere.
        source: Origin for the licence ledger; the folder by default.
        steps: Steps of the sampler. Pipelines usually take 50; images for a small student gain little above 20.

    Raises:
        DataError: The folder holds no pipeline, or one without weights in safetensors.
        ConfigError: The pipeline brings code of its own, or does not draw from texts.
    """

    name = "text-to-image"

    def __init__(self, folder: Path, device: torch.device, *, source: str = "", steps: int = 20) -> None:
        weights = _weight_files(folder)
        self._pipeline = _load(folder, device)
        self._steps = steps
        # Cells of the latent times this are pixels.
        self._cell = int(getattr(self._pipeline, "vae_scale_factor", 8))
        digest = sha256_json({str(path.relative_to(folder)): sha256_file(path) for path in weights})
        name, licence = type(self._pipeline).__name__, licence_of(folder)
        self.provenance: Sequence[Provenance] = (Provenance(name, licence, source or plain(folder), digest),)

    @torch.no_grad()
    def sample(self, texts: Sequence[str], seeds: Sequence[int], size: int) -> Tensor:
        """One image (N, 3, size, size) in [0, 1] for each text and seed, float32."""
        # A multiple of two cells, since some networks see patches of 2 x 2 cells.
        side = math.ceil((self._native_side() or size) / (2 * self._cell)) * 2 * self._cell
        parts = [torch.zeros(0, 3, size, size)]
        for start in range(0, len(texts), BATCH):
            drawn = self._pipeline(
                prompt=list(texts[start : start + BATCH]),
                # On the CPU and one an image, which then depends neither on its neighbours nor on the device.
                generator=[generator_for(seed, "sample") for seed in seeds[start : start + BATCH]],
                output_type="pt",
                height=side,
                width=side,
                num_inference_steps=self._steps,
            )
            x_N3HW = drawn.images.float().cpu()
            parts.append(F.interpolate(x_N3HW, (size, size), mode="bilinear", antialias=True, align_corners=False))
        return torch.cat(parts).clamp(0, 1)

    def _native_side(self) -> int | None:
        """The side that the network was trained at: much smaller ones give parts of things, or none."""
        for part in ("unet", "transformer"):
            cells = getattr(getattr(getattr(self._pipeline, part, None), "config", None), "sample_size", None)
            if isinstance(cells, int):
                return cells * self._cell
        return None


def _weight_files(folder: Path) -> list[Path]:
    """All weights of the pipeline's components, in a fixed order."""
    if not (folder / INDEX_FILE).is_file():
        raise DataError(
            f"{folder} holds no text-to-image pipeline: {INDEX_FILE} is missing. Name a folder that diffusers saved, "
            f"or a repository: text-to-image:OWNER/REPO"
        )
    index = read_json(folder / INDEX_FILE)
    code = visible(folder.rglob("*.py"))
    if code or not isinstance(index.get("_class_name"), str):
        raise ConfigError(
            f"the pipeline in {folder} brings code of its own ({code[0].name if code else INDEX_FILE}), which is never "
            f"run. Choose one whose classes are diffusers' own."
        )
    found = []
    for part in sorted(name for name in index if (folder / name).is_dir()):
        safe = visible((folder / part).glob("*.safetensors"))
        pickled = [path for path in visible((folder / part).iterdir()) if path.suffix in _PICKLED]
        if pickled and not safe:
            raise DataError(
                f"{pickled[0]} is a pickle, and code in weight files is never run. Save the pipeline as safetensors: "
                f"save_pretrained(folder, safe_serialization=True)"
            )
        found += safe
    if not found:
        raise DataError(
            f"{folder} holds no weights in safetensors. Save the whole pipeline there with save_pretrained."
        )
    return found


def _load(folder: Path, device: torch.device) -> Any:
    pipelines = import_diffusers("text-to-image")
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    known: dict[str, Any] = {"torch_dtype": dtype, "use_safetensors": True, "local_files_only": True}
    try:
        try:
            pipeline = pipelines.AutoPipelineForText2Image.from_pretrained(folder, **known)
        except ValueError:  # a pipeline that diffusers files under no task
            pipeline = pipelines.DiffusionPipeline.from_pretrained(folder, **known)
    except Exception as error:  # diffusers and transformers raise many kinds
        raise DataError(
            f"the pipeline in {folder} cannot be loaded: {reason_of(error)}. Save or fetch it again."
        ) from None
    if "prompt" not in inspect.signature(pipeline.__call__).parameters:
        raise ConfigError(
            f"{type(pipeline).__name__} in {folder} does not draw from texts. Choose a text-to-image pipeline."
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def load_text_to_image(rest: str, device: torch.device) -> TextToImage:
    """Factory of the registry, for a folder or a repository of the hub."""
    folder = user_path(rest)
    if folder.is_dir():
        return TextToImage(folder, device)
    pipeline = import_diffusers("text-to-image").DiffusionPipeline
    fetched = download(
        "text-to-image", rest, lambda: pipeline.download(rest, use_safetensors=True), local="/path/to/folder"
    )
    return TextToImage(fetched, device, source=rest)
