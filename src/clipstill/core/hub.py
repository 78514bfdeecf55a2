"""Files of repositories on the model hub: from its cache on this machine, else fetched, and soon given up offline."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from clipstill.core.errors import ArtifactError, ClipstillError, DataError, ResourceError, reason_of
from clipstill.core.files import MANIFEST, read_manifest
from clipstill.core.paths import user_path

SCHEME = "hf:"  # How the address of a repository begins where a folder is asked for.
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
# Seconds until a hub that does not answer is given up. The hub's client itself waits for ever, or asks five times.
_PATIENCE = 4.0
_asks_the_hub: ContextVar[bool] = ContextVar("clipstill asks the model hub", default=True)


@contextmanager
def cache_alone() -> Iterator[None]:
    """Inside the ``with`` block, nothing is fetched: what the cache has not is missing."""
    token = _asks_the_hub.set(False)
    try:
        yield
    finally:
        _asks_the_hub.reset(token)


def check_reachable() -> None:
    """Ask the hub once whether it answers; call it before what would try again and again.

    Raises:
        Exception: It does not, in the words of the hub's client.
    """
    from huggingface_hub import constants, get_session

    # One line of ours says what many of its own would.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    get_session().head(constants.ENDPOINT, timeout=_PATIENCE)


def is_address(place: object) -> bool:
    """Whether a place is a repository on the model hub, ``hf:USER/NAME``, and no path of this machine."""
    return isinstance(place, str | Path) and str(place).startswith(SCHEME)


def bundle_folder(place: str | Path) -> Path:
    """The folder of a bundle on this machine; of ``hf:USER/NAME`` or ``hf:USER/NAME@REVISION``, where its files are.

    The hub is asked whether there is a newer version, and the files that its manifest lists are fetched; offline, what
    was fetched before is taken. The files are not checked.

    Raises:
        DataError: It is neither a path nor such an address.
        ArtifactError: The repository holds no bundle.
        ResourceError: The hub, the repository or the revision cannot be reached, or huggingface_hub is not installed.
    """
    if not is_address(place):
        return user_path(place)
    address = Path(place).as_posix()
    repository, _, revision = address.removeprefix(SCHEME).partition("@")
    if not REPOSITORY.fullmatch(repository):
        raise DataError(f"{address} names no repository. Write {SCHEME}USER/NAME or {SCHEME}USER/NAME@REVISION.")
    try:
        from huggingface_hub import hf_hub_download, snapshot_download
        from huggingface_hub.errors import RemoteEntryNotFoundError
    except ModuleNotFoundError:
        raise ResourceError(
            f"huggingface_hub is not installed, which fetches {address}. Run: pip install huggingface_hub"
        ) from None
    is_cached = not _asks_the_hub.get()
    advice = "Check the name and the connection; a private repository needs a token: hf auth login"
    with asking_hub(f"get the bundle {address}", advice):
        try:
            file = hf_hub_download(
                repository, MANIFEST, revision=revision or None, local_files_only=is_cached, etag_timeout=_PATIENCE
            )
            folder = Path(file).parent
            manifest = read_manifest(folder)
            names = list(manifest.files) if manifest is not None else []
            if not all((folder / name).is_file() for name in names):
                # The folder is named after its commit, which does not change meanwhile.
                snapshot_download(
                    repository,
                    revision=folder.name,
                    allow_patterns=names,
                    local_files_only=is_cached,
                    etag_timeout=_PATIENCE,
                )
        except RemoteEntryNotFoundError:
            raise ArtifactError(
                f"{address} holds no clipstill bundle: it has no {MANIFEST}. Push one: clipstill push"
            ) from None
    return folder


@contextmanager
def asking_hub(what: str, advice: str) -> Iterator[None]:
    """Raise errors of the network, the hub's client and the disk as a ``ResourceError``: cannot ``what``, and why."""
    try:
        yield
    except ClipstillError:
        raise
    except Exception as error:
        raise ResourceError(f"cannot {what} ({_reason(error)}). {advice}") from None


def _reason(error: Exception) -> str:
    """Why the hub's client failed, in a few words."""
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    kinds = {RepositoryNotFoundError: "no such repository, or it is private", RevisionNotFoundError: "no such revision"}
    for kind, reason in kinds.items():
        if isinstance(error, kind):
            return reason
    if isinstance(error, HfHubHTTPError):
        return error.server_message or f"it answers {error.response.status_code}"
    return reason_of(error.__cause__ or error).rstrip(".")


def fetch(repository: str, names: Sequence[str]) -> Path:
    """Folder on this machine with those of the named files that a repository has.

    Args:
        repository: ``ORG/NAME``.
        names: Names of files or patterns such as ``"tokenizer*"``.

    Raises:
        ResourceError: None of them is in the cache, and the hub cannot be reached or has none of them.
    """
    return _found(repository, [names])


def fetch_first(repository: str, names: Sequence[str]) -> Path:
    """The first of the named files that a repository has; errors as for ``fetch``."""
    folder = _found(repository, [[name] for name in names])
    return next(folder / name for name in names if (folder / name).is_file())


def _found(repository: str, choices: Sequence[Sequence[str]]) -> Path:
    """Folder with any file of one of the choices; what is in the cache is not asked for again."""
    from huggingface_hub import snapshot_download

    reason = "it has no such file"
    for is_cached in (True, False) if _asks_the_hub.get() else (True,):
        for names in choices:
            try:
                if not is_cached:
                    check_reachable()
                # One question, not one for each file: those are repeated for half a minute where there is no network.
                found = snapshot_download(
                    repository, allow_patterns=list(names), local_files_only=is_cached, etag_timeout=_PATIENCE
                )
            except Exception as error:  # any error of the network, the hub's client or the disk
                reason = reason_of(error)
                break
            folder = Path(found)
            if any(path.is_file() for name in names for path in folder.glob(name)):
                return folder
    wanted = ", ".join(name for names in choices for name in names)
    raise ResourceError(
        f"cannot get {wanted} of the repository {repository} ({reason.rstrip('.')}). Check the connection, or fetch it "
        f"where there is one (hf download {repository}) and copy the hub's cache."
    )
