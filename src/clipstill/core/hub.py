"""Files of repositories on the model hub: from its cache on this machine, else fetched, and soon given up offline."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from clipstill.core.errors import ResourceError, reason_of

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
