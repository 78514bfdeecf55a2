"""A hub that cannot be reached, or that does not answer, is given up within seconds and told in one line."""

import socket
import time
from pathlib import Path

import pytest

from clipstill.core.errors import ResourceError
from clipstill.core.hub import fetch
from clipstill.generators.model_files import download_diffusers_model


@pytest.fixture
def mute_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    """A hub that takes connections and never answers, and an empty cache."""
    listener = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with listener:
        yield listener


@pytest.mark.usefixtures("mute_hub")
def test_a_hub_that_never_answers_is_given_up_within_five_seconds(capfd: pytest.CaptureFixture[str]) -> None:
    from huggingface_hub import get_session, snapshot_download  # noqa: F401 - their import is not timed

    start = time.monotonic()
    with pytest.raises(ResourceError, match="cannot get config.json of the repository someone/model") as caught:
        fetch("someone/model", ["config.json"])
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.usefixtures("mute_hub")
def test_generators_give_it_up_as_soon_and_name_a_local_copy(capfd: pytest.CaptureFixture[str]) -> None:
    start = time.monotonic()
    with pytest.raises(ResourceError, match="name a local copy: vqgan:hub:/path"):
        download_diffusers_model("vqgan:hub", "someone/model", "/path")
    assert time.monotonic() - start < 10
    assert capfd.readouterr().err == ""
