"""Students from timm's architectures.

Weights come from the pip packages of ``core.packaged_weights``, from a file, or, only where the user names a remote
model (``timm:ARCHITECTURE``), from timm's hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from clipstill.core.errors import ArtifactError, ConfigError, ResourceError, UnknownNameError, did_you_mean
from clipstill.core.files import sha256_file
from clipstill.core.packaged_weights import LITE, LITE_MEAN, LITE_STD, lite_provenance, lite_state_dict
from clipstill.core.protocols import Preprocess, Provenance
from clipstill.core.seeds import seed_for
from clipstill.students.class_vectors_head import projector_shape
from clipstill.students.student import Student

_PACKAGED = {weights.timm_name: size for size, weights in LITE.items()}
# Five halvings of the resolution: smaller pictures would leave a feature map without a pixel.
_SMALLEST = 32


def load_timm(
    rest: str, classes: int, init: str | Path = "pretrained", image_size: int | None = None, seed: int = 0
) -> Student:
    """``timm:ARCHITECTURE``: any network of timm; its pretrained weights may come from the hub."""
    return _build(f"timm:{rest}", rest, classes, init, image_size, seed, remote=True)


def lite0(rest: str, classes: int, init: str | Path, image_size: int | None, seed: int) -> Student:
    """EfficientNet-Lite0, 3.4 million parameters without the head."""
    return _build("lite0", "tf_efficientnet_lite0", classes, init, image_size, seed)


def lite2(rest: str, classes: int, init: str | Path, image_size: int | None, seed: int) -> Student:
    """EfficientNet-Lite2, 4.8 million parameters without the head."""
    return _build("lite2", "tf_efficientnet_lite2", classes, init, image_size, seed)


def mobilenetv3_small(rest: str, classes: int, init: str | Path, image_size: int | None, seed: int) -> Student:
    """MobileNetV3-Small, 1.5 million parameters without the head."""
    return _build("mobilenetv3-small", "mobilenetv3_small_100", classes, init, image_size, seed)


def mobilenetv4_small(rest: str, classes: int, init: str | Path, image_size: int | None, seed: int) -> Student:
    """MobileNetV4-Conv-Small, 2.5 million parameters without the head."""
    return _build("mobilenetv4-small", "mobilenetv4_conv_small", classes, init, image_size, seed)


def vit_tiny(rest: str, classes: int, init: str | Path, image_size: int | None, seed: int) -> Student:
    """ViT-Tiny with patches of 16 pixels, 5.5 million parameters without the head; sides are multiples of 16."""
    return _build("vit-tiny", "vit_tiny_patch16_224", classes, init, image_size, seed)


def resnet10t(rest: str, classes: int, init: str | Path, image_size: int | None, seed: int) -> Student:
    """A ten-layer ResNet, 4.9 million parameters without the head."""
    return _build("resnet10t", "resnet10t", classes, init, image_size, seed)


def resnet18(rest: str, classes: int, init: str | Path, image_size: int | None, seed: int) -> Student:
    """ResNet-18, 11.2 million parameters without the head; the student of the published system."""
    return _build("resnet18", "resnet18", classes, init, image_size, seed)


def _build(
    name: str,
    architecture: str,
    classes: int,
    init: str | Path,
    image_size: int | None,
    seed: int,
    remote: bool = False,
) -> Student:
    if classes < 2:
        raise ConfigError(f"a student needs at least 2 classes, not {classes}. Name more classes.")
    if image_size is not None and image_size < _SMALLEST:
        raise ConfigError(f"student.image_size is {image_size}; students see no less than {_SMALLEST} pixels a side.")
    from_hub = init == "pretrained" and architecture not in _PACKAGED
    if from_hub and not remote:
        raise ConfigError(
            f"no installed package carries pretrained weights of '{name}'. Set student.init to 'scratch' or to a "
            f"safetensors file, choose lite0 or lite2, or name the hub's model: timm:{architecture}."
        )
    backbone = _create(architecture, seed, from_hub, image_size)
    preprocess = _preprocess(backbone, architecture, image_size)
    feature_count = _feature_count(backbone, preprocess.size)
    provenance: list[Provenance] = []
    if from_hub:
        provenance.append(_hub_provenance(backbone, architecture))
    elif init == "pretrained":
        size = _PACKAGED[architecture]
        backbone.load_state_dict(_without_classifier(lite_state_dict(size), backbone), strict=True)
        provenance.append(lite_provenance(size))
    elif init != "scratch":
        digest = sha256_file(_existing(Path(init)))
        provenance.append(Provenance(f"{name} weights given by the user", "not stated", str(init), digest))
    student = Student(name, backbone, feature_count, classes, preprocess, provenance, seed)
    if init not in ("pretrained", "scratch"):
        load_weights(student, Path(init))
    return student.eval()


def _create(architecture: str, seed: int, from_hub: bool, image_size: int | None) -> nn.Module:
    """Weights are drawn from torch's global generator; it is borrowed, so that nobody else's numbers change."""
    if not timm.is_model(architecture):
        raise UnknownNameError(
            f"timm {timm.__version__} has no architecture '{architecture}'."
            f"{did_you_mean(architecture, timm.list_models())} All of them: timm.list_models()."
        )
    facts = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    # Transformers are built for one size, and have a position of their own for each patch.
    sized: dict[str, Any] = {}
    if image_size is not None and getattr(facts, "fixed_input_size", False):
        sized = {"img_size": image_size}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(seed, "student", architecture))
        try:
            backbone: nn.Module = timm.create_model(architecture, pretrained=from_hub, num_classes=0, **sized)
        except Exception as error:  # The hub's client raises many kinds: connection, HTTP status, missing weights.
            if not from_hub:
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ResourceError(
                f"the pretrained weights of timm:{architecture} cannot be fetched ({reason}). "
                f"Check the network, or set student.init to 'scratch' or to a safetensors file."
            ) from None
    patch = getattr(getattr(backbone, "patch_embed", None), "patch_size", None)
    if sized and patch is not None and image_size is not None and image_size % int(patch[0]):
        raise ConfigError(f"student.image_size is {image_size}; '{architecture}' wants a multiple of {int(patch[0])}.")
    return backbone


def _preprocess(backbone: nn.Module, architecture: str, image_size: int | None) -> Preprocess:
    facts: dict[str, Any] = getattr(backbone, "pretrained_cfg", {})
    mean, std = (LITE_MEAN, LITE_STD) if architecture in _PACKAGED else (facts["mean"], facts["std"])
    return Preprocess(
        size=image_size or int(facts["input_size"][-1]),
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        crop_fraction=float(facts.get("crop_pct", 1.0)),
    )


def _feature_count(backbone: nn.Module, size: int) -> int:
    """Asked of the network itself: ``num_features`` differs from it where a layer follows the pooling."""
    was_training = backbone.training
    backbone.eval()
    with torch.no_grad():
        count = int(backbone(torch.zeros(1, 3, size, size)).shape[1])
    backbone.train(was_training)
    return count


def _hub_provenance(backbone: nn.Module, architecture: str) -> Provenance:
    facts: dict[str, Any] = getattr(backbone, "pretrained_cfg", {})
    return Provenance(
        name=f"{architecture}, pretrained weights",
        licence=str(facts.get("license") or "unknown"),
        source=f"timm hub model {facts.get('hf_hub_id') or architecture}",
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ConfigError(
            f"student.init is '{path}', which is neither 'pretrained', 'scratch' nor an existing file. Check the path."
        )
    return path


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(_existing(path))
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} cannot be read as safetensors ({error}). Convert the weights first.") from None


def holds_frame(path: Path) -> bool:
    """Whether a file is of a student with a learned frame.

    Raises:
        ConfigError: there is no such file.
        ArtifactError: it holds no weights.
    """
    return "backbone.prompts" in _read(path)


def _without_classifier(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    wanted = backbone.state_dict()
    return {key: value for key, value in state.items() if key in wanted}


def load_weights(student: Student, path: Path) -> None:
    """Put a file's weights into a student.

    A whole student keeps its head where the number of classes is the same; a timm network gives its backbone.

    Raises:
        ConfigError: there is no such file.
        ArtifactError: it holds no weights, or those of something else.
    """
    state = _read(path)
    own = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    wanted = student.backbone.state_dict()
    backbone = own or _without_classifier(state, student.backbone)
    missing = [key for key, value in wanted.items() if key not in backbone or backbone[key].shape != value.shape]
    if missing or set(backbone) - set(wanted):
        first = missing[0] if missing else sorted(set(backbone) - set(wanted))[0]
        raise ArtifactError(
            f"{path} does not hold the weights of student '{student.name}' (tensor '{first}' does not fit). "
            f"Give the file of the same architecture."
        )
    student.backbone.load_state_dict(backbone, strict=True)
    head = {key.removeprefix("head."): value for key, value in state.items() if key.startswith("head.")}
    vectors_CD = head.get("class_vectors")
    if own and vectors_CD is not None and len(vectors_CD) == student.head.out_features:
        layers, width = projector_shape(head)
        student.use_class_vectors(vectors_CD, float(head["scale"]), layers=layers, width=width)
        student.head.load_state_dict(head, strict=True)
    elif own and "weight" in head and head["weight"].shape == student.head.state_dict()["weight"].shape:
        student.head.load_state_dict(head, strict=True)
