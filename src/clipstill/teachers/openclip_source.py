"""Where a model of open_clip comes from: its name, its configuration, its files, and what its publisher tells of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.factory import HF_HUB_PREFIX, LOCAL_DIR_PREFIX, _find_checkpoint_in_dir
from open_clip.pretrained import download_pretrained, get_pretrained_cfg
from open_clip.transform import PreprocessCfg

from clipstill.core.errors import ConfigError, DataError, ResourceError, UnknownNameError, did_you_mean, reason_of
from clipstill.core.file_names import CHECKPOINT_SUFFIXES
from clipstill.core.files import read_json
from clipstill.core.hub import fetch, fetch_first
from clipstill.core.paths import user_path
from clipstill.core.progress import say, warn

CONFIG_FILE = "open_clip_config.json"
# What the tags of an architecture may disagree on.
_FACTS = ("mean", "std", "interpolation", "resize_mode", "quick_gelu")
# Licences of the weights by the first word of the tag, as their publishers state them. A word that is not here stays
# unknown, since related names differ: "datacomp" is MIT, "datacompdr" is not.
_LICENCES = {
    **dict.fromkeys(
        ("openai", "laion400m", "laion2b", "laion5b", "datacomp", "commonpool", "merged2b"),
        "MIT",
    ),
    **dict.fromkeys(("webli", "meta"), "Apache-2.0"),
    **dict.fromkeys(("metaclip", "metaclip2", "v1", "mrl"), "CC-BY-NC-4.0"),
    **dict.fromkeys(("dfn2b", "dfn5b", "datacompdr"), "LicenseRef-apple-amlr"),
}


@dataclass(frozen=True)
class Source:
    """A model of open_clip whose weights are on this machine."""

    name: str  # Architecture, repository or folder.
    model: str  # Name of the configuration for open_clip: an architecture, or ``local-dir:FOLDER``.
    config: dict[str, Any]  # The configuration.
    weights: Path
    origin: str  # Source of the weights, for the licence ledger.
    facts: dict[str, Any] = field(default_factory=dict)  # Fields of open_clip's ``PreprocessCfg``, and ``quick_gelu``.
    licence: str = "unknown"
    is_local: bool = False  # Whether the user named the file of weights.


def find_source(rest: str) -> Source:
    """The model that is named after ``openclip:``; its weights are fetched where they are not on this machine.

    ``ARCHITECTURE/TAG``, ``ARCHITECTURE/PATH``, ``ARCHITECTURE/TAG/PATH`` (a local copy of that tag's weights),
    ``hf-hub:ORG/NAME`` or ``local-dir:FOLDER``.

    Raises:
        UnknownNameError: There is no such architecture or tag.
        ClipstillError: The weights or the configuration cannot be had.
    """
    if rest.startswith(HF_HUB_PREFIX):
        repository = rest.removeprefix(HF_HUB_PREFIX)
        fetch(repository, (CONFIG_FILE,))
        weights = fetch_first(repository, (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME))
        return _from_folder(weights.parent, weights, repository)
    if rest.startswith(LOCAL_DIR_PREFIX):
        folder = user_path(rest.removeprefix(LOCAL_DIR_PREFIX))
        found = _find_checkpoint_in_dir(folder) if folder.is_dir() else None
        if found is None:
            raise DataError(f"there are no weights in {folder}. Name a folder with {CONFIG_FILE} and weights.")
        return _from_folder(folder, Path(found), str(folder))
    architecture, _, weights_name = rest.partition("/")
    tag, file = _parse(architecture, weights_name)
    published = dict(get_pretrained_cfg(architecture, tag)) if tag else _common_facts(architecture, rest)
    return Source(
        name=architecture,
        model=architecture,
        config=open_clip.get_model_config(architecture),
        weights=file or _published_weights(architecture, tag, published),
        origin=f"{architecture}/{file or tag}",
        facts=published,
        licence=_LICENCES.get(tag.partition("_")[0], "unknown"),
        is_local=file is not None,
    )


def _from_folder(folder: Path, weights: Path, origin: str) -> Source:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise DataError(f"there is no {path}. It holds model_cfg and preprocess_cfg, as open_clip writes it.")
    raw = read_json(path)
    config = raw.get("model_cfg") if isinstance(raw, dict) else None
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
        raise DataError(f"{path} holds no model_cfg with embed_dim, vision_cfg and text_cfg. Copy the folder again.")
    model, facts = f"{LOCAL_DIR_PREFIX}{folder}", raw.get("preprocess_cfg", {})
    return Source(name=origin, model=model, config=config, weights=weights, origin=origin, facts=facts)


def _parse(architecture: str, weights: str) -> tuple[str, Path | None]:
    """Tag of published weights (empty where only a file is named), and local file (None where only a tag is)."""
    known = open_clip.list_models()
    if architecture not in known:
        hint = did_you_mean(architecture, known)
        raise UnknownNameError(
            f"open_clip has no architecture '{architecture}'.{hint} Write openclip:ARCHITECTURE/TAG, e.g. "
            f"openclip:ViT-B-32/openai, openclip:ARCHITECTURE/PATH for a local file, openclip:hf-hub:ORG/NAME, or "
            f"openclip:local-dir:FOLDER."
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if not weights:
        raise ConfigError(
            f"'openclip:{architecture}' names no weights. Add a tag ({', '.join(tags) or 'none is published'}) "
            f"or a file: openclip:{architecture}/PATH."
        )
    if get_pretrained_cfg(architecture, weights):
        return weights, None
    first, slash, path = weights.partition("/")
    tag, path = (first, path) if slash and get_pretrained_cfg(architecture, first) else ("", weights)
    file = user_path(path)
    if file.suffix in CHECKPOINT_SUFFIXES:
        if not file.is_file():
            raise DataError(f"there is no checkpoint {file}. Check the path; an absolute one begins with two slashes.")
        return tag, file
    raise UnknownNameError(
        f"'{weights}' is neither a tag of {architecture} nor a checkpoint file.{did_you_mean(weights, tags)} "
        f"Tags: {', '.join(tags) or 'none'}. Files end in {', '.join(CHECKPOINT_SUFFIXES)}."
    )


def _common_facts(architecture: str, rest: str) -> dict[str, Any]:
    """What all tags of an architecture agree on, for a local file; what they disagree on is said."""
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    usual = {name: getattr(PreprocessCfg(), name, False) for name in _FACTS}
    cfgs = {tag: {**usual, **get_pretrained_cfg(architecture, tag)} for tag in tags}
    facts, others = {}, []
    for name in _FACTS:
        values = {cfg[name] for cfg in cfgs.values()}
        if len(values) == 1:
            facts[name] = values.pop()
        else:
            others += [f"{name} {cfg[name]} of {tag}" for tag, cfg in cfgs.items() if cfg[name] != usual[name]]
    if others:
        warn(
            f"openclip:{rest}: the tags of {architecture} differ, and open_clip's defaults are taken, not: "
            f"{', '.join(others)}. If these are the weights of a tag, name it too: "
            f"openclip:{architecture}/TAG/{rest.partition('/')[2]}"
        )
    if facts.get("quick_gelu") and not open_clip.get_model_config(architecture).get("quick_gelu"):
        say(
            f"openclip:{rest}: computed with QuickGELU, as all published weights of {architecture}. For weights "
            f"trained with GELU, put {CONFIG_FILE} beside them and name the folder: openclip:local-dir:FOLDER"
        )
    return facts


def _published_weights(architecture: str, tag: str, published: dict[str, Any]) -> Path:
    repository, _, file = published.get("hf_hub", "").rpartition("/")
    remedy = f"or give a local file: openclip:{architecture}/{tag}/PATH."
    try:
        if not repository or "file" in published:
            return Path(download_pretrained(published))
        safe = str(Path(file).with_suffix(".safetensors")) if file else HF_SAFE_WEIGHTS_NAME
        return fetch_first(repository, (safe, file or HF_WEIGHTS_NAME))
    except ResourceError as error:
        raise ResourceError(f"{str(error).rstrip('.')}, {remedy}") from error
    except Exception as error:  # any error of the network or the disk
        raise ResourceError(
            f"cannot get the weights of openclip:{architecture}/{tag} ({reason_of(error)}). Check the connection, "
            f"{remedy}"
        ) from error
