"""Which processor a run uses, and what the machine has."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clipstill
from clipstill.core.cores import usable_cores
from clipstill.core.errors import ConfigError, ResourceError, did_you_mean

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def pick_device(name: str = "auto") -> torch.device:
    """The torch device of a name in ``DEVICES``; ``auto`` takes CUDA, then Apple's MPS, then the CPU.

    ``cuda`` may have an index, such as ``cuda:1``.

    Raises:
        ConfigError: No device of that name exists.
        ResourceError: This machine does not have the device.
    """
    import torch

    kind, _, index = name.partition(":")
    if kind not in DEVICES or (index and (kind != "cuda" or not index.isdigit())):
        hint = did_you_mean(name, DEVICES)
        raise ConfigError(f"there is no device '{name}'.{hint} Choose one of {', '.join(DEVICES)}.")
    if kind == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    if kind == "cuda" and (not torch.cuda.is_available() or int(index or 0) >= torch.cuda.device_count()):
        raise ResourceError(f"device '{name}' is asked for, but torch sees no such CUDA device. Use --device cpu.")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ResourceError("device 'mps' is asked for, but this machine does not offer it. Use --device cpu.")
    return torch.device(name)


def configure_torch(threads: int, device: str, deterministic: bool = False) -> None:
    """Make the same work give the same bits on the CPU, for the same number of threads; make GPUs fast.

    Args:
        threads: CPU threads.
        device: Name as for ``pick_device``.
        deterministic: Whether a GPU, too, takes its deterministic algorithms, where there are any.
    """
    import torch

    torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # Read at the first CUDA call.
    is_fast = not deterministic and pick_device(device).type == "cuda"
    # As use_deterministic_algorithms, which imports the compiler: a second, and it compiles nothing in that mode.
    torch.set_deterministic_debug_mode("default" if is_fast else "warn")
    warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
    # Filling only helps to find reads of uninitialised memory, and costs time.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = is_fast
    # TF32 for what stays in float32; on the CPU, nothing reads this.
    torch.backends.cuda.matmul.allow_tf32 = is_fast


def has_fast_half(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 several times as fast as in float32: NVIDIA's since Ampere.

    CPUs are not, even with instructions for it: docs/measured.md, What a run spends.
    """
    import torch

    return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def precision_on(device: torch.device, precision: str) -> str:
    """``"auto"`` as a precision: bf16 where the device is fast in it, fp32 elsewhere. Other precisions are kept."""
    if precision != "auto":
        return precision
    return "bf16" if has_fast_half(device) else "fp32"


def hold_in(dtype: torch.dtype, network: Any) -> Any:
    """Hold the weights of a frozen network in another precision, in place, so that no pass casts them; returns it.

    BatchNorm's stay in float32: synthesis compares images with its statistics.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    for module in network.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            if tensor.is_floating_point() and not isinstance(module, _BatchNorm):
                tensor.data = tensor.data.to(dtype)
    return network


def memory_bytes(device: torch.device | None = None) -> int | None:
    """Memory of a device, or of this machine or container, in bytes; None if unknown."""
    if device is not None and device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    try:
        installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        return min(installed, int(_CONTAINER_LIMIT.read_text()))
    except (OSError, ValueError):  # No container, or one without a limit, which says "max".
        return installed


def versions() -> dict[str, Any]:
    """Versions of clipstill, Python and torch, and the commit of a source checkout."""
    import torch

    return {
        "clipstill": clipstill.__version__,
        "commit": source_commit(),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }


@functools.cache
def source_commit() -> str | None:
    """The commit of a source checkout, read without running git; None for an installed package."""
    git = Path(clipstill.__file__).parents[2] / ".git"
    try:
        head = (git / "HEAD").read_text(encoding="ascii").strip()
        reference = head.removeprefix("ref: ")
        if reference == head:
            return head[:12]
        if (git / reference).is_file():
            return (git / reference).read_text(encoding="ascii")[:12]
        packed = (git / "packed-refs").read_text(encoding="ascii").splitlines()
        return next((line[:12] for line in packed if line.endswith(f" {reference}")), None)
    except (OSError, UnicodeDecodeError):
        return None


def describe(folder: Path | None = None) -> dict[str, Any]:
    """Facts about the machine as JSON values; free disk space is that of ``folder``, by default the working folder."""
    import torch

    memory = memory_bytes()
    cuda = torch.cuda.is_available()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "device": str(pick_device("auto")),
        "device_name": torch.cuda.get_device_name() if cuda else (platform.processor() or platform.machine()),
        "device_memory_gb": round(torch.cuda.get_device_properties(0).total_memory / 2**30, 1) if cuda else None,
        "cores": usable_cores(),
        "memory_gb": None if memory is None else round(memory / 2**30, 1),
        "free_disk_gb": round(shutil.disk_usage(folder or Path.cwd()).free / 2**30, 1),
    }
