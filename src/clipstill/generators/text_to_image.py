"""Any text-to-image pipeline of diffusers as a sampler, to compare inversion with.

``text-to-image:/path/to/folder`` names a pipeline that diffusers saved, and nothing is fetched;
``text-to-image:OWNER/REPO`` names one of the hub. Weights are read from safetensors only, and code that lies beside
them is never run. What ``GeneratorSettings`` leaves open follows from the pipeline: its class, the config of its
network, its scheduler, or its name.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.errors import ConfigError, DataError, did_you_mean, reason_of
from clipstill.core.file_names import visible
from clipstill.core.files import read_json, sha256_file, sha256_json
from clipstill.core.hub import check_reachable
from clipstill.core.names import plain
from clipstill.core.paths import user_path
from clipstill.core.progress import say
from clipstill.core.protocols import Provenance
from clipstill.core.seeds import generator_for
from clipstill.generators.model_files import download, import_diffusers, licence_of
from clipstill.generators.settings import GeneratorSettings

INDEX_FILE = "model_index.json"
BATCH = 8
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".msgpack")
# Pipelines usually take 50 steps; images for a small student gain little above 20.
_STEPS, _DISTILLED_STEPS = 20, 4
# They take the configuration of others, which do not list them.
_DISTILLED_SCHEDULERS = ("LCMScheduler", "TCDScheduler")
# Families of models that were distilled to a few steps, as their publishers name them.
_DISTILLED_NAME = re.compile(r"(?<![a-z])(turbo|lightning|lcm|schnell|hyper)(?![a-z])", re.IGNORECASE)


class TextToImage:
    """A frozen pipeline that draws one image for each text and seed.

    Args:
        folder: Folder that diffusers saved, with ``model_index.json`` and a folder for each component.
        device: Device of the pipeline: float32 on the CPU, bfloat16 elsewhere.
        source: Origin for the licence ledger; the folder by default.
        settings: How it draws; the name is not used.

    Raises:
        DataError: The folder holds no pipeline, or one without weights in safetensors.
        ConfigError: The pipeline brings code of its own, does not draw from texts, or does not take a setting.
    """

    name = "text-to-image"

    def __init__(
        self, folder: Path, device: torch.device, *, source: str = "", settings: GeneratorSettings | None = None
    ) -> None:
        settings = settings or GeneratorSettings()
        weights = _weight_files(folder)
        self._pipeline = _load(folder, device, settings)
        self._call = call_arguments(self._pipeline, settings, source or folder.name)
        # Cells of the latent times this are pixels.
        self._cell = int(getattr(self._pipeline, "vae_scale_factor", 8))
        self._side = settings.side or native_side(self._pipeline, self._cell)
        say(
            f"text-to-image: {type(self._pipeline).__name__}, {self._call['num_inference_steps']} steps, guidance "
            f"{self._call.get('guidance_scale', 'as the pipeline has it')}, {self._side or 'as many'} pixels a side"
        )
        digest = sha256_json({str(path.relative_to(folder)): sha256_file(path) for path in weights})
        name, licence = type(self._pipeline).__name__, licence_of(folder)
        self.provenance: Sequence[Provenance] = (Provenance(name, licence, source or plain(folder), digest),)

    @torch.no_grad()
    def sample(self, texts: Sequence[str], seeds: Sequence[int], size: int) -> Tensor:
        """One image (N, 3, size, size) in [0, 1] for each text and seed, float32."""
        # A multiple of two cells, since some networks see patches of 2 x 2 cells.
        side = math.ceil((self._side or size) / (2 * self._cell)) * 2 * self._cell
        parts = [torch.zeros(0, 3, size, size)]
        for start in range(0, len(texts), BATCH):
            prompts = list(texts[start : start + BATCH])
            call = {name: [one] * len(prompts) if isinstance(one, str) else one for name, one in self._call.items()}
            drawn = self._pipeline(
                prompt=prompts,
                # On the CPU and one an image, which then depends neither on its neighbours nor on the device.
                generator=[generator_for(seed, "sample") for seed in seeds[start : start + BATCH]],
                output_type="pt",
                height=side,
                width=side,
                **call,
            )
            x_N3HW = drawn.images.float().cpu()
            parts.append(F.interpolate(x_N3HW, (size, size), mode="bilinear", antialias=True, align_corners=False))
        return torch.cat(parts).clamp(0, 1)


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


def _load(folder: Path, device: torch.device, settings: GeneratorSettings) -> Any:
    pipelines = import_diffusers("text-to-image")
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    known: dict[str, Any] = {"torch_dtype": dtype, "use_safetensors": True, "local_files_only": True}
    known |= {"variant": settings.variant} if settings.variant else {}
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
    if settings.scheduler:
        pipeline.scheduler = _scheduler(pipelines, settings.scheduler, pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _scheduler(pipelines: Any, name: str, old: Any) -> Any:
    """A scheduler of diffusers with the configuration of another."""
    known = sorted({*old._compatibles, *_DISTILLED_SCHEDULERS})
    if name not in known:
        raise ConfigError(
            f"generator.scheduler is '{name}', which does not fit the pipeline's {type(old).__name__}."
            f"{did_you_mean(name, known)} It takes {', '.join(known)}."
        )
    return getattr(pipelines, name).from_config(old.config)


def native_side(pipeline: Any, cell: int) -> int | None:
    """Side in pixels that a network was trained at, by cells of so many pixels; None where nothing tells it.

    At much smaller sides it draws parts of things, or none.
    """
    configs = [getattr(getattr(pipeline, part, None), "config", None) for part in ("unet", "transformer")]
    # Networks of Flux's kind do not tell it; their pipelines do.
    cells = [*(getattr(config, "sample_size", None) for config in configs), getattr(pipeline, "default_sample_size", 0)]
    return next((each * cell for each in cells if isinstance(each, int) and each > 0), None)


def call_arguments(pipeline: Any, settings: GeneratorSettings, name: str) -> dict[str, Any]:
    """Steps, guidance and negative prompt of a pipeline's call; those that stay its own are left out.

    Raises:
        ConfigError: The pipeline does not take a setting.
    """
    taken = inspect.signature(pipeline.__call__).parameters
    own_steps = int(taken["num_inference_steps"].default)
    distilled = own_steps > _DISTILLED_STEPS and _is_distilled(pipeline, name)
    guidance = settings.guidance
    # Networks that were told the guidance as a number while they were distilled still want it.
    told = getattr(getattr(getattr(pipeline, "unet", None), "config", None), "time_cond_proj_dim", None)
    if guidance is None and distilled and told is None and "guidance_scale" in taken:
        guidance = 0.0
    call: dict[str, Any] = {
        "num_inference_steps": settings.steps or min(own_steps, _DISTILLED_STEPS if distilled else _STEPS),
        "guidance_scale": guidance,
        "negative_prompt": settings.negative_prompt or None,
    }
    call = {argument: value for argument, value in call.items() if value is not None}
    for argument in call.keys() - taken.keys():
        setting = argument.removesuffix("_scale")
        raise ConfigError(f"generator.{setting} is set, and {type(pipeline).__name__} takes none. Leave it out.")
    return call


def _is_distilled(pipeline: Any, name: str) -> bool:
    """Whether a network was trained to draw in a few steps without guidance."""
    transformer: Any = getattr(pipeline, "transformer", None)
    return (
        type(pipeline.scheduler).__name__ in _DISTILLED_SCHEDULERS
        # Schnell, of Flux's two networks, was distilled without guidance.
        or (type(transformer).__name__ == "FluxTransformer2DModel" and not transformer.config.guidance_embeds)
        or bool(_DISTILLED_NAME.search(name))
    )


def load_text_to_image(rest: str, device: torch.device, settings: GeneratorSettings | None = None) -> TextToImage:
    """Factory of the registry, for a folder or a repository of the hub."""
    folder = user_path(rest)
    if folder.is_dir():
        return TextToImage(folder, device, settings=settings)
    pipeline = import_diffusers("text-to-image").DiffusionPipeline
    variant = None if settings is None else settings.variant

    def fetched() -> str:
        with suppress(Exception):  # Whatever keeps it from being in the cache, the hub is asked next.
            return str(pipeline.download(rest, use_safetensors=True, variant=variant, local_files_only=True))
        check_reachable()
        return str(pipeline.download(rest, use_safetensors=True, variant=variant))

    folder = download("text-to-image", rest, fetched, local="/path/to/folder")
    return TextToImage(folder, device, source=rest, settings=settings)
