"""What an installation takes on the disk: the packages that are there now, by what asks for them.

    python benchmarks/install_size.py

A row counts its packages and all that they need; an extra's row only those that the plain install lacks. Sizes are the
sums of the installed files, without caches of byte code.
"""

from __future__ import annotations

from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# What `predict` needs of the packages, and `serve` beside its extra.
RUNTIME = ("numpy", "onnxruntime", "Pillow", "typer")
EXTRAS = (
    "serve",
    "demo",
    "ui",
    "heic",
    "openvino",
    "executorch",
    "litert",
    "ncnn",
    "coreml",
    "diffusers",
    "ray",
    "dev",
)


def asked(found: Distribution, extras: frozenset[str] = frozenset()) -> list[Requirement]:
    """The requirements of a distribution with some of its extras on this machine."""
    all_of_them = [Requirement(line) for line in found.requires or ()]
    return [
        each
        for each in all_of_them
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in (extras or {""}))
    ]


def closure(waiting: list[Requirement]) -> tuple[dict[str, Distribution], set[str]]:
    """All distributions that requirements lead to, by name, and the names of those that are not installed."""
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    missing: set[str] = set()
    while waiting:
        one = waiting.pop()
        key = canonicalize_name(one.name), frozenset(one.extras)
        if key in seen:
            continue
        seen.add(key)
        try:
            found[key[0]] = distribution(one.name)
        except PackageNotFoundError:
            missing.add(key[0])
            continue
        waiting += asked(found[key[0]]) + (asked(found[key[0]], key[1]) if key[1] else [])
    return found, missing


def size(found: dict[str, Distribution]) -> float:
    """Megabytes."""
    files = [file for each in found.values() for file in each.files or () if file.suffix != ".pyc"]
    paths = {Path(str(file.locate())) for file in files}
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def main() -> None:
    plain, _ = closure([Requirement("clipstill")])
    for_cuda = {name: each for name, each in plain.items() if name.startswith(("nvidia-", "cuda-", "triton"))}
    rows = {"predict alone": closure([Requirement(name) for name in RUNTIME]), "plain": (plain, set())}
    rows["of it for CUDA"] = for_cuda, set()
    for extra in EXTRAS:
        found, missing = closure([Requirement(f"clipstill[{extra}]")])
        rows[f"[{extra}] adds"] = {name: each for name, each in found.items() if name not in plain}, missing
    print(f"{'':20}{'packages':>9}{'MB':>9}")
    for row, (found, missing) in rows.items():
        told = f"   not installed: {', '.join(sorted(missing))}" if missing else ""
        print(f"{row:20}{len(found):9}{size(found):9.0f}{told}")


if __name__ == "__main__":
    main()
