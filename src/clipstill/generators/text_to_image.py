"""Any text-to-image pipeline of diffusers as a sampler: what inversion is compared with.

``text-to-image:/path/to/folder`` names a pipeline that diffusers saved, and nothing is fetched;
``text-to-image:OWNER/REPO`` names one of the hub. Weights are read from safetensors only, and code that lies beside
them is never run.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.errors import ArtifactError, ConfigError, DataError, ResourceError
from clipstill.core.files import read_json, sha256_file, sha256_json
from clipstill.core.protocols import Provenance
from clipstill.core.seeds import generator_for
from clipstill.generators.model_licence import licence_of

INDEX_FILE = "model_index.json"
# Pipelines take 50 steps unless told otherwise; images for a small student gain little from more than these.
STEPS = 20
BATCH = 8
_REPOSITORY = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".msgpack")


class TextToImage:
    """A frozen pipeline that draws one image for each text and seed.

    Args:
        folder: what diffusers saved, with ``model_index.json`` and a folder a component.
        device: where it runs: in float32 on the CPU, in bfloat16 elsewhere.
        source: what a licence ledger says of it; the folder by default.
        steps: of the sampler.
        guidance: how strongly images follow their text; None for the pipeline's own default.
        side: in pixels, of what is drawn before it is resized; None for the side that the pipeline was trained at.

    Raises:
        DataError: the folder holds no pipeline, or one without weights in safetensors.
        ConfigError: the pipeline brings code of its own, or does not draw from texts.
        ResourceError: diffusers is not installed.
    """

    name = "text-to-image"

    def __init__(
        self,
        folder: Path,
        device: torch.device,
        *,
        source: str = "",
        steps: int = STEPS,
        guidance: float | None = None,
        side: int | None = None,
    ) -> None:
        weights = _weight_files(folder)
        self._pipeline = _load(folder, device)
        self._steps, self._guidance, self._side = steps, guidance, side
        digest = sha256_json({str(path.relative_to(folder)): sha256_file(path) for path in weights})
        licence = licence_of(folder)
        self.provenance: Sequence[Provenance] = (
            Provenance(type(self._pipeline).__name__, licence, source or str(folder), digest),
        )

    @torch.no_grad()
    def sample(self, texts: Sequence[str], seeds: Sequence[int], size: int) -> Tensor:
        """One image (N, 3, size, size) in [0, 1] for each text and seed, float32.

        Each has a random generator of its own, on the CPU, so that an image does not depend on its neighbours, nor its
        noise on the device.
        """
        parts = [torch.zeros(0, 3, size, size)]
        for start in range(0, len(texts), BATCH):
            drawn = self._draw(texts[start : start + BATCH], seeds[start : start + BATCH], size)
            parts.append(F.interpolate(drawn, (size, size), mode="bilinear", antialias=True, align_corners=False))
        return torch.cat(parts).clamp(0, 1)

    def _draw(self, texts: Sequence[str], seeds: Sequence[int], size: int) -> Tensor:
        side = self._drawn_side(size)
        settings: dict[str, Any] = {"height": side, "width": side, "num_inference_steps": self._steps}
        if self._guidance is not None:
            settings["guidance_scale"] = self._guidance
        made = self._pipeline(
            prompt=list(texts),
            generator=[generator_for(seed, "sample") for seed in seeds],
            output_type="pt",
            **settings,
        )
        images: Tensor = made.images
        return images.float().cpu()

    def _drawn_side(self, size: int) -> int:
        """A multiple of what the pipeline's latents and their patches stand for."""
        stride = 2 * int(getattr(self._pipeline, "vae_scale_factor", 8))
        return math.ceil((self._side or self._native_side() or size) / stride) * stride

    def _native_side(self) -> int | None:
        """The side that the network was trained at: much smaller ones give parts of things, or none."""
        for part in ("unet", "transformer"):
            cells = getattr(getattr(getattr(self._pipeline, part, None), "config", None), "sample_size", None)
            if isinstance(cells, int):
                return cells * int(getattr(self._pipeline, "vae_scale_factor", 8))
        return None


def _weight_files(folder: Path) -> list[Path]:
    """All weights of the pipeline's components, in a fixed order."""
    if not (folder / INDEX_FILE).is_file():
        raise DataError(
            f"{folder} holds no text-to-image pipeline: {INDEX_FILE} is missing. Name a folder that diffusers saved, "
            f"or a repository: text-to-image:OWNER/REPO"
        )
    try:
        index = read_json(folder / INDEX_FILE)
    except ArtifactError as error:
        raise DataError(str(error)) from None
    code = sorted(folder.rglob("*.py"))
    if code or not isinstance(index.get("_class_name"), str):
        raise ConfigError(
            f"the pipeline in {folder} brings code of its own ({code[0].name if code else INDEX_FILE}), which is never "
            f"run. Choose one whose classes are diffusers' own."
        )
    found = []
    for part in sorted(name for name in index if (folder / name).is_dir()):
        safe = sorted((folder / part).glob("*.safetensors"))
        pickled = [path for path in sorted((folder / part).iterdir()) if path.suffix in _PICKLED]
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
    pipelines = _diffusers()
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    known: dict[str, Any] = {"torch_dtype": dtype, "use_safetensors": True, "local_files_only": True}
    try:
        try:
            pipeline = pipelines.AutoPipelineForText2Image.from_pretrained(folder, **known)
        except ValueError:  # a pipeline that diffusers files under no task
            pipeline = pipelines.DiffusionPipeline.from_pretrained(folder, **known)
    except Exception as error:  # diffusers and transformers raise many kinds
        raise DataError(
            f"the pipeline in {folder} cannot be loaded: {_first_line(error)}. Save or fetch it again."
        ) from None
    if "prompt" not in inspect.signature(pipeline.__call__).parameters:
        raise ConfigError(
            f"{type(pipeline).__name__} in {folder} does not draw from texts. Choose a text-to-image pipeline."
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _download(repository: str) -> Path:
    try:
        return Path(_diffusers().DiffusionPipeline.download(repository, use_safetensors=True))
    except Exception as error:  # of the network, the hub's client or the disk
        raise ResourceError(
            f"cannot get text-to-image {repository} from the model hub ({_first_line(error)}). Check the name and the "
            f"connection, or name a folder that diffusers saved: text-to-image:/path/to/folder"
        ) from None


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _diffusers() -> Any:
    try:
        import diffusers
    except ImportError:
        raise ResourceError(
            "the generator text-to-image needs diffusers. Install it: pip install 'clipstill[diffusers]'"
        ) from None
    return diffusers


def load_text_to_image(rest: str, device: torch.device) -> TextToImage:
    """The factory of the registry.

    Args:
        rest: a folder, or a repository of the hub.

    Raises:
        DataError: there is no such folder, or no pipeline in it.
        ResourceError: the hub cannot be reached, or diffusers is not installed.
    """
    folder = Path(rest).expanduser()
    if folder.is_dir():
        return TextToImage(folder, device)
    if not _REPOSITORY.fullmatch(rest):
        raise DataError(
            f"there is no folder {rest} for the generator text-to-image. Check the path, or name a repository: "
            f"text-to-image:OWNER/REPO"
        )
    return TextToImage(_download(rest), device, source=rest)
