"""Students from timm's architectures.

Weights come from the pip packages of ``core.packaged_weights``, from a file, or, only where the user names a remote
model (``timm:ARCHITECTURE``), from timm's hub.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipstill.core.checkpoints import checkpoint_in, read_state
from clipstill.core.errors import (
    ArtifactError,
    ClipstillError,
    ConfigError,
    ResourceError,
    UnknownNameError,
    did_you_mean,
    reason_of,
)
from clipstill.core.files import sha256_file
from clipstill.core.hub import fetch_first
from clipstill.core.lite_network import IMAGENET_CLASSES
from clipstill.core.packaged_weights import (
    LITE,
    LITE_MEAN,
    LITE_STD,
    lite_backbone,
    lite_provenance,
    lite_state_dict,
)
from clipstill.core.protocols import Preprocess, Provenance
from clipstill.core.seeds import seed_for
from clipstill.students.class_vectors_head import projector_shape
from clipstill.students.promptkd_checkpoint import is_of_promptkd, own_names
from clipstill.students.student import Backbone, Student

_PACKAGED = {weights.timm_name: size for size, weights in LITE.items()}
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Networks halve the resolution five times: smaller images would leave an empty feature map.
_SMALLEST = 32
# Larger sizes are not tried where a network refuses one.
_LARGEST = 640


def _build(
    name: str, architecture: str, rest: str, classes: int, *, init: str | Path, image_size: int | None, seed: int
) -> Student:
    del rest
    if image_size is not None and image_size < _SMALLEST:
        raise ConfigError(f"student.image_size is {image_size}; students see no less than {_SMALLEST} pixels a side.")
    from_hub = init == "pretrained" and architecture not in _PACKAGED
    if from_hub and not name.startswith("timm:"):
        raise ConfigError(
            f"no installed package carries pretrained weights of '{name}'. Set student.init to 'scratch' or to a "
            f"safetensors file, choose lite0 or lite2, or name the hub's model: timm:{architecture}."
        )
    metadata = _metadata(architecture)
    provenance = []
    if from_hub:
        source = f"timm hub model {metadata.get('hf_hub_id') or architecture}"
        licence = str(metadata.get("license") or "unknown")
        provenance = [Provenance(f"{architecture}, pretrained weights", licence, source)]
    elif init == "pretrained":
        provenance = [lite_provenance(_PACKAGED[architecture])]
    elif init != "scratch":
        digest = sha256_file(checkpoint_in(_existing(Path(init))))
        provenance = [Provenance(f"{name} weights given by the user", "not stated", str(init), digest)]
    preprocess = _preprocess(metadata, image_size)
    side, _ = preprocess.shape
    try:
        is_drawn = from_hub or init == "scratch" or architecture not in _PACKAGED
        network = _create(architecture, seed, from_hub, side) if is_drawn else lite_backbone(_PACKAGED[architecture])
        classifier = _classifier(network, metadata)
        imagenet = _imagenet_weights(architecture, classifier) if init == "pretrained" and classifier else None
        backbone = Backbone(name, network, preprocess, provenance, classifier=classifier, imagenet=imagenet)
        student = Student(backbone, classes, seed)
    except ClipstillError as error:
        if from_hub and isinstance(error, ResourceError):
            raise ResourceError(f"{error} Or set student.init to 'scratch' or to a safetensors file.") from None
        raise
    except Exception as error:  # Each network, and the hub's client, raise many kinds.
        if from_hub and _takes(architecture, side):
            raise ResourceError(
                f"the pretrained weights of timm:{architecture} cannot be fetched ({reason_of(error)}). "
                f"Check the network, or set student.init to 'scratch' or to a safetensors file."
            ) from None
        raise ConfigError(_unfit(architecture, side, reason_of(error))) from None
    if init not in ("pretrained", "scratch"):
        load_weights(student, Path(init))
    return student.eval()


def load_timm(rest: str, classes: int, *, init: str | Path, image_size: int | None, seed: int) -> Student:
    """``timm:ARCHITECTURE``: any network of timm; its pretrained weights may come from the hub."""
    return _build(f"timm:{rest}", rest, "", classes, init=init, image_size=image_size, seed=seed)


# Numbers of parameters are without the head.
lite0 = partial(_build, "lite0", "tf_efficientnet_lite0")  # 3.4 million
lite2 = partial(_build, "lite2", "tf_efficientnet_lite2")  # 4.8 million
mobilenetv3_small = partial(_build, "mobilenetv3-small", "mobilenetv3_small_100")  # 1.5 million
mobilenetv4_small = partial(_build, "mobilenetv4-small", "mobilenetv4_conv_small")  # 2.5 million
resnet10t = partial(_build, "resnet10t", "resnet10t")  # 4.9 million
resnet18 = partial(_build, "resnet18", "resnet18")  # 11.2 million; the student of the published system
vit_tiny = partial(_build, "vit-tiny", "vit_tiny_patch16_224")  # 5.5 million; sides are multiples of 16


def _create(architecture: str, seed: int, from_hub: bool, size: int) -> nn.Module:
    """Network without a classifier. timm draws weights from torch's global generator, whose state is restored."""
    import timm  # Takes seconds with torchvision, and the packaged networks need neither.

    # Transformers are built for one size, with a positional embedding for each patch.
    is_fixed = _metadata(architecture).get("fixed_input_size", False)
    sized: dict[str, Any] = {"img_size": size} if is_fixed else {}
    repository = _metadata(architecture).get("hf_hub_id") if from_hub else None
    if repository:
        with torch.device("meta"):  # Tells a size that it does not take before anything is fetched.
            timm.create_model(architecture, num_classes=0, **sized)
        # timm would ask six times for each file, and say so each time.
        sized["pretrained_cfg_overlay"] = {"file": str(fetch_first(repository, _WEIGHTS))}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(seed, "student", architecture))
        network: nn.Module = timm.create_model(architecture, pretrained=from_hub, num_classes=0, **sized)
    if is_fixed and size % _patch(network):  # timm would cut or pad the last patches.
        raise ValueError(f"it sees patches of {_patch(network)} pixels a side")
    return network


def _classifier(network: nn.Module, metadata: dict[str, Any]) -> str:
    """Name of the module where a classifier stands in a network that was built with one; empty where there is none."""
    name = metadata.get("classifier")
    modules = dict(network.named_modules())
    return name if isinstance(name, str) and isinstance(modules.get(name), nn.Identity) else ""


def _imagenet_weights(architecture: str, classifier: str) -> tuple[Tensor, Tensor] | None:
    """Weights (1000, F) and biases of the classifier that pretrained weights come with; None for other classes."""
    if architecture in _PACKAGED:
        state = lite_state_dict(_PACKAGED[architecture])
    else:
        state = read_state(fetch_first(_metadata(architecture)["hf_hub_id"], _WEIGHTS))
    weight_KF, bias_K = (state.get(f"{classifier}.{part}") for part in ("weight", "bias"))
    if weight_KF is None or bias_K is None or len(bias_K) != IMAGENET_CLASSES:
        return None
    return weight_KF.flatten(1).contiguous(), bias_K


def _patch(network: nn.Module) -> int:
    """Side of the patches that a network cuts images into; 1 where it does not."""
    patch = getattr(getattr(network, "patch_embed", None), "patch_size", 1)
    return int(patch[0] if isinstance(patch, Sequence) else patch)


def _takes(architecture: str, size: int) -> bool:
    """Whether the network gives one vector for an image of this side: tried without memory for weights and images."""
    try:
        with torch.device("meta"), torch.no_grad():
            return bool(_create(architecture, 0, False, size).eval()(torch.zeros(1, 3, size, size)).ndim == 2)
    except Exception:  # Each network raises kinds of its own.
        return False


def _unfit(architecture: str, size: int, reason: str) -> str:
    """Why a network cannot be a student at a size, and the nearest size at which it can."""
    own = int(_metadata(architecture)["input_size"][-1])
    with torch.device("meta"):
        patch = _patch(_create(architecture, 0, False, own))
    step = patch if patch > 8 else 32  # Networks with small patches or none halve the resolution, to a 32nd in all.
    sizes = {*range(math.ceil(_SMALLEST / step) * step, _LARGEST, step), own} - {size}
    nearest = next((each for each in sorted(sizes, key=lambda each: abs(each - size)) if _takes(architecture, each)), 0)
    if nearest and not _takes(architecture, size):
        return (
            f"student.image_size is {size}, at which timm's '{architecture}' does not run ({reason}). The nearest size "
            f"that it takes is {nearest}: set student.image_size to {nearest}."
        )
    return (
        f"timm's '{architecture}' cannot be a student ({reason}). Choose another network: clipstill list students, or "
        f"timm.list_models()."
    )


def _metadata(architecture: str) -> dict[str, Any]:
    """What timm knows of a network: size, mean and spread of its input, and where its weights come from."""
    if architecture in _PACKAGED:
        side = LITE[_PACKAGED[architecture]].image_size
        # What embedded teachers see of a photo: all of it. Cut to the usual 0.875, heads lost a point.
        return {
            "input_size": (3, side, side),
            "mean": LITE_MEAN,
            "std": LITE_STD,
            "crop_pct": 1.0,
            "classifier": "classifier",
        }
    import timm

    if not timm.is_model(architecture):
        raise UnknownNameError(
            f"timm {timm.__version__} has no architecture '{architecture}'."
            f"{did_you_mean(architecture, timm.list_models())} All of them: timm.list_models()."
        )
    found = timm.get_pretrained_cfg(architecture, allow_unregistered=True)
    assert found is not None
    return dict(found.to_dict())  # type: ignore[no-untyped-call]


def _preprocess(metadata: dict[str, Any], image_size: int | None) -> Preprocess:
    mean, std = metadata["mean"], metadata["std"]
    return Preprocess(
        size=image_size or int(metadata["input_size"][-1]),
        mean=(float(mean[0]), float(mean[1]), float(mean[2])),
        std=(float(std[0]), float(std[1]), float(std[2])),
        crop_fraction=float(metadata.get("crop_pct", 1.0)),
    )


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ConfigError(
            f"student.init is '{path}', which is neither 'pretrained', 'scratch' nor an existing file. Check the path."
        )
    return path


def _without_classifier(state: dict[str, Tensor], backbone: nn.Module) -> dict[str, Tensor]:
    wanted = backbone.state_dict()
    return {key: value for key, value in state.items() if key in wanted}


def load_weights(student: Student, path: Path) -> None:
    """Load a file's weights into a student.

    The file is a whole student, whose head is used if the number of classes is the same; a timm network; or a student
    of PromptKD's own code, or its folder.

    Raises:
        ConfigError: The student takes other prompts than those in the file.
        DataError: There is no such file, or it holds no weights.
        ArtifactError: It holds the weights of something else.
    """
    path = checkpoint_in(_existing(path))
    state = read_state(path)
    if is_of_promptkd(state):
        state = own_names(state, student, path)
    own = {key.removeprefix("backbone."): value for key, value in state.items() if key.startswith("backbone.")}
    weight_KF, bias_K = (own.get(f"{student.classifier}.{part}") for part in ("weight", "bias"))
    if weight_KF is not None and bias_K is not None:
        student.hand_on_imagenet_answers(weight_KF, bias_K)
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
