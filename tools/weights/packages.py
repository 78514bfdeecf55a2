"""Gets the openly licensed packages of the recipes, each pinned by version and by the sha256 of its archive.

They come from Debian, npm and pip through ``apt-get download``, ``npm pack`` and ``pip download``.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from clipstill.core.errors import DataError, ResourceError
from clipstill.core.files import sha256_file
from clipstill.core.protocols import Provenance


@dataclass(frozen=True)
class Package:
    """One archive of pictures, words or programs."""

    client: str  # ``"debian"``, ``"npm"`` or ``"pip"``.
    name: str  # Name of the package.
    version: str  # Exact version.
    licence: str  # Licence of the used content.
    sha256: str  # Hash of the archive.

    @property
    def provenance(self) -> Provenance:
        """Source and licence."""
        return Provenance(self.name, self.licence, f"{self.client} package {self.name} {self.version}", self.sha256)

    @property
    def folder(self) -> str:
        """Name of the folder in the cache."""
        return self.name.replace("/", "-").removeprefix("@")


# Client -> lines of name, version, licence and sha256. The pip package onnxruntime has the third-party notices that the
# npm package onnxruntime-web lacks.
_PACKAGES = {
    "debian": """
openclipart-png 1:0.18+dfsg-19 CC0-1.0 f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02
openclipart-svg 1:0.18+dfsg-19 CC0-1.0 989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5
tuxpaint-stamps-default 2022.06.04-1 GPL-2.0-or-later 6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34
wordnet-base 1:3.0-37 WordNet-3.0 61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752
gnome-backgrounds 43.1-1 CC-BY-SA-3.0 a670dea21572652127d6e55f9cdb3a226d0037854fdbfd037003c7d00ee0dc4e
mate-backgrounds 1.26.0-1 GPL-2.0-or-later 7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04
plasma-workspace-wallpapers 4:5.27.5-2 GPL-2.0-or-later 32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b
ukui-wallpapers 20.04.3-1.1 CC-BY-SA-3.0 6d49be70152e6d603163458e177e501deb0be8f2916389ccbfcf59b0d7fc0262
""",
    "npm": """
emoji-datasource-google 16.0.0 Apache-2.0 fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438
emoji-datasource-twitter 16.0.0 CC-BY-4.0 f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877
openmoji 17.0.0 CC-BY-SA-4.0 55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68
fluentui-emoji 1.3.0 MIT ec892e607e854859b812c7d827801756adc19955b0ef56d4ae8afcddd19492c5
@lobehub/fluent-emoji-3d 1.1.0 MIT c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58
onnxruntime-web 1.30.0 MIT d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71
""",
    "pip": """
onnxruntime 1.30.0 MIT fa688e7891a6aa206636fe7372e27ee75fd17713289f6b4fc7b190e0a7de9328
""",
}
PACKAGES = {
    line.split()[0]: Package(client, *line.split())
    for client, lines in _PACKAGES.items()
    for line in lines.strip().splitlines()
}
PHOTOGRAPHS = ("gnome-backgrounds", "mate-backgrounds", "plasma-workspace-wallpapers", "ukui-wallpapers")
# The same wheel on any machine.
_WHEEL = ("--no-deps", "--only-binary", ":all:", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.12")


def trained_licence(packages: Iterable[Package]) -> str:
    """The licence expression of weights that learned from packages, read strictly: ours and all of theirs."""
    return " AND ".join(sorted({"Apache-2.0", *(package.licence for package in packages)}))


def package_table(packages: Iterable[Package]) -> list[str]:
    """Lines of a Markdown table for a licence ledger."""
    rows = (f"| {one.name} | {one.version} | {one.licence} | `{one.sha256}` |" for one in packages)
    return ["| package | version | licence | sha256 of the archive |", "|---|---|---|---|", *rows]


def fetch(name: str, cache: Path) -> Path:
    """Download, check and unpack one package, unless it is in the cache.

    Args:
        name: A key of ``PACKAGES``.
        cache: Folder of archives and unpacked packages.

    Returns:
        The unpacked folder.

    Raises:
        ResourceError: The client is not installed or cannot get the package.
        DataError: The archive has another sha256 than the recipe expects.
    """
    package = PACKAGES[name]
    target = cache / package.folder
    if (target / ".complete").exists():
        return target
    archives = cache / "archives" / package.folder
    archives.mkdir(parents=True, exist_ok=True)
    if not any(archives.iterdir()):
        if package.client == "debian":
            command = ["apt-get", "download", f"{name}={package.version}"]
        elif package.client == "npm":
            command = ["npm", "pack", "--silent", f"{name}@{package.version}"]
        else:
            command = [sys.executable, "-m", "pip", "download", "--quiet", *_WHEEL, f"{name}=={package.version}"]
        if shutil.which(command[0]) is None:
            raise ResourceError(
                f"{command[0]} is not installed; the recipe needs it for {name}. Install it, or run on Debian."
            )
        done = subprocess.run(command, cwd=archives, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ResourceError(
                f"cannot get {name} {package.version} with {command[0]}: {done.stderr.strip().splitlines()[-1:]}"
            )
    archive = next(archives.iterdir())
    digest = sha256_file(archive)
    if digest != package.sha256:
        raise DataError(
            f"{archive.name} has sha256 {digest}, the recipe expects {package.sha256}. Delete it and try again."
        )
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    if package.client == "debian":
        subprocess.run(["dpkg", "-x", str(archive), str(target)], check=True)
    elif package.client == "pip":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(target)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
    (target / ".complete").touch()
    return target
