import pytest
import torch

from clipstill.core.device import describe, pick_device
from clipstill.core.errors import ConfigError, ResourceError


def test_unknown_device_suggests_the_closest() -> None:
    with pytest.raises(ConfigError, match=r"no device 'cudaa'\. Did you mean 'cuda'"):
        pick_device("cudaa")


@pytest.mark.parametrize("name", ["cpu:1", "cuda:x", "auto:0", ""])
def test_malformed_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        pick_device(name)


def test_absent_device_says_what_to_do() -> None:
    with pytest.raises(ResourceError, match="--device cpu"):
        pick_device("cuda:99")


def test_auto_falls_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")


def test_description_is_plain_values() -> None:
    facts = describe()
    assert facts["cores"] >= 1
    assert all(isinstance(value, str | int | float | None) for value in facts.values())
