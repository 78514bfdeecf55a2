"""A bundle -> a repository on the Hugging Face Hub, with its card as the page."""

from __future__ import annotations

from pathlib import Path

from clipstill.core.errors import ConfigError
from clipstill.core.file_names import METRICS_FILE
from clipstill.core.files import MANIFEST, read_json, read_manifest
from clipstill.core.hub import REPOSITORY, SCHEME, asking_hub
from clipstill.core.progress import warn
from clipstill.core.protocols import Provenance
from clipstill.export.bundle import CARD_FILE
from clipstill.report.card import hub_card
from clipstill.report.licences import warning
from clipstill.runtime import load_bundle

_LICENCES_FILE = "LICENCES.md"


def push(source: Path, repository: str, *, private: bool) -> str:
    """Upload the files of a bundle in one commit, and return the address of the repository's page.

    Other files in the repository stay. ``private`` is for a repository that is made; one that exists stays as it is.

    Raises:
        ConfigError: The name is none of a repository, or one exists that is public where a private one is asked for.
        ResourceError: The hub cannot be reached, or does not let the user write.
    """
    name = repository.removeprefix(SCHEME)
    if not REPOSITORY.fullmatch(name):
        raise ConfigError(f"'{repository}' names no repository of the hub. Write USER/NAME, such as me/zoo.")
    folder = load_bundle(source).folder
    manifest = read_manifest(folder)
    assert manifest is not None
    if CARD_FILE not in manifest.files:
        raise ConfigError(f"{folder} holds no {CARD_FILE}, which would be the page. Make the bundle again.")
    parts = [Provenance(**part) for part in read_json(folder / METRICS_FILE)["provenance"]]
    if (text := warning(parts)) and not private:
        warn(text)
    from huggingface_hub import CommitOperationAdd, HfApi

    readme = hub_card((folder / CARD_FILE).read_text(encoding="utf-8"), name).encode()
    files = {each: folder / each for each in (MANIFEST, *manifest.files)}
    # Hubs look for a licence under this name.
    content: dict[str, Path | bytes] = {"README.md": readme, "LICENSE.md": folder / _LICENCES_FILE, **files}
    hub = HfApi(library_name="clipstill")
    advice = "Check the name and the connection, and log in with a token that may write: hf auth login"
    with asking_hub(f"push to {name}", advice):
        page = hub.create_repo(name, private=private or None, exist_ok=True)
        if private and not hub.model_info(name).private:
            raise ConfigError(
                f"{name} exists and is public. Make it private on its page first, or choose another name."
            )
        operations = [CommitOperationAdd(path_in_repo=path, path_or_fileobj=data) for path, data in content.items()]
        hub.create_commit(name, operations, commit_message="Push a clipstill bundle")
    return str(page)
