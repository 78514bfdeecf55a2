"""Weights from elsewhere: tensors come in, code never runs."""

from __future__ import annotations

import os
import re
import sys
import types
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import clipstill
from authors_fixtures import dassl_file
from clipstill.core.checkpoints import checkpoint_in, read_state
from clipstill.core.errors import ArtifactError, ConfigError, DataError
from clipstill.core.weights_store import WeightsFacts, open_weights, store_weights, stored_weights, weights_folder

TENSORS = {"b.weight": torch.arange(4.0), "a.bias": torch.ones(2)}


def saved(value: Any, path: Path, **options: Any) -> Path:
    torch.save(value, path, **options)  # noqa: TID251
    return path


class Malicious:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def foreign_class(
    monkeypatch: pytest.MonkeyPatch, module: str, name: str, base: type = object
) -> tuple[type, list[Any]]:
    """A class of a package that is not installed, importable while its objects are written; and what it was told."""
    told: list[Any] = []
    kind = type(name, (base,), {"__module__": module, "__setstate__": lambda self, state: told.append(state)})
    parts = module.split(".")
    for length in range(1, len(parts) + 1):
        path = ".".join(parts[:length])
        if path not in sys.modules:
            stub = types.ModuleType(path)
            stub.__path__ = []  # type: ignore[attr-defined]
            monkeypatch.setitem(sys.modules, path, stub)
    setattr(sys.modules[module], name, kind)
    return kind, told


def lightning_checkpoint(path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[Path, list[Any]]:
    """What Lightning writes: a callback's class as a key, settings and scores as objects of other packages."""
    callback, told = foreign_class(monkeypatch, "pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint")
    settings, told_too = foreign_class(monkeypatch, "omegaconf.dictconfig", "DictConfig")
    mapping, _ = foreign_class(monkeypatch, "pytorch_lightning.utilities.parsing", "AttributeDict", dict)
    config = settings()
    config._content = {"ch": 128}  # type: ignore[attr-defined]
    content = {
        "epoch": 3,
        "callbacks": {callback: {"best_model_score": np.float64(0.5), "history": np.arange(3)}, "last": callback()},
        "hyper_parameters": config,
        "hparams": mapping(a=1),
        "counts": defaultdict(int, {"x": 1}),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(2)}}}],
        "state_dict": OrderedDict(TENSORS),
    }
    saved(content, path, **options)
    for module in ("pytorch_lightning.callbacks.model_checkpoint", "omegaconf.dictconfig"):
        assert module.encode() in path.read_bytes()
    return path, [told, told_too]


def test_tensors_come_in_their_order_from_every_layout(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "plain.safetensors")
    paths = [
        tmp_path / "plain.safetensors",
        saved(TENSORS, tmp_path / "plain.pth"),
        saved({"state_dict": TENSORS, "epoch": 1}, tmp_path / "nested.ckpt"),
        saved({f"module.{name}": tensor for name, tensor in TENSORS.items()}, tmp_path / "parallel.pt"),
        saved(TENSORS, tmp_path / "old.pt", _use_new_zipfile_serialization=False),
    ]
    for path in paths:
        state = read_state(path)
        assert set(state) == set(TENSORS)
        assert all(torch.equal(state[name], tensor) for name, tensor in TENSORS.items())
        if path.suffix != ".safetensors":  # which sorts by itself
            assert list(state) == list(TENSORS)


@pytest.mark.parametrize("zipped", [True, False])  # without: torch's format before 1.6
def test_lightning_objects_are_skipped_and_their_packages_are_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    path, told = lightning_checkpoint(tmp_path / "last.ckpt", monkeypatch, _use_new_zipfile_serialization=zipped)
    state = read_state(path)
    assert list(state) == list(TENSORS)
    assert all(torch.equal(state[name], tensor) for name, tensor in TENSORS.items())
    # Their own classes were importable all the time, and were never given the file's content.
    assert told == [[], []]


@pytest.mark.parametrize("old_format", [False, True])
def test_the_authors_optimiser_and_schedulers_are_skipped(tmp_path: Path, old_format: bool) -> None:
    path = dassl_file(tmp_path / "model-best.pth.tar", TENSORS, old_format=old_format)
    for module in ("torch.optim.sgd", "torch.optim.lr_scheduler", "dassl.optim.lr_scheduler", "collections"):
        assert module.encode() in path.read_bytes()
    allowed = sorted(torch.serialization.get_safe_globals(), key=str)  # Torch returns them in no order.
    with patch.object(torch.optim.SGD, "__setstate__") as optimiser:
        state = read_state(path)
    assert all(torch.equal(state[name], tensor) for name, tensor in TENSORS.items())
    assert list(state) == list(TENSORS)
    # The class of torch was there all the time, was never given the file's content, and is not allowed afterwards.
    assert not optimiser.called
    assert sorted(torch.serialization.get_safe_globals(), key=str) == allowed


class Shell:
    """Pickles to a call of ``os.system``."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_command_inside_an_optimiser_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    trace = tmp_path / "it-ran"
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    optimiser.defaults["lr"] = Shell(f"touch {trace}")
    content = {"state_dict": TENSORS, "optimizer": optimiser, "val_result": np.float64(1)}
    path = saved(content, tmp_path / "model-best.pth.tar", _use_new_zipfile_serialization=zipped)
    assert b"system" in path.read_bytes()
    with pytest.raises(DataError, match="code in weight files is never run"):
        read_state(path)
    assert not trace.exists()


@pytest.mark.parametrize("name", ["zipped.ckpt", "old.ckpt", "plain.safetensors"])
def test_a_file_that_lost_its_end_is_called_incomplete(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if path.suffix == ".safetensors":
        save_file(TENSORS, path)
    else:
        saved({"state_dict": TENSORS}, path, _use_new_zipfile_serialization=name == "zipped.ckpt")
    whole = path.read_bytes()
    for length in (0, len(whole) // 3, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=f"{name} is not complete: it ends too early"):
            read_state(path)


def test_a_folder_stands_for_the_checkpoint_that_dassl_left_in_it(tmp_path: Path) -> None:
    for place in ("DTD/VLPromptLearner/model-best.pth.tar", "DTD/VLPromptLearner/model.pth.tar-20"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).touch()
    for epoch in (5, 20, 100):
        (tmp_path / "ImageNet-xd/VLPromptLearner_large").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"ImageNet-xd/VLPromptLearner_large/model.pth.tar-{epoch}").touch()
    (tmp_path / "ImageNet-xd/VLPromptLearner_large/checkpoint").touch()
    best = tmp_path / "DTD/VLPromptLearner/model-best.pth.tar"
    assert checkpoint_in(tmp_path / "DTD") == checkpoint_in(best.parent) == checkpoint_in(best) == best
    assert checkpoint_in(tmp_path / "ImageNet-xd").name == "model.pth.tar-100"
    with pytest.raises(DataError, match=r"several folders: DTD/VLPromptLearner, ImageNet-xd/VLPromptLearner_large"):
        checkpoint_in(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no checkpoint .* in .*empty"):
        checkpoint_in(tmp_path / "empty")
    with pytest.raises(DataError, match="no file or folder .*nothing"):
        checkpoint_in(tmp_path / "nothing")


def test_a_pickle_that_wants_to_run_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    trace = tmp_path / "it-ran"
    beside = {"state_dict": TENSORS, "callbacks": Malicious(trace)}
    for number, value in enumerate((Malicious(trace), beside, {"state_dict": Malicious(trace)})):
        path = saved(value, tmp_path / f"{number}.ckpt")
        with pytest.raises(DataError, match="code in weight files is never run") as caught:
            read_state(path)
        assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_an_archive_that_unpacks_to_more_than_it_is_is_refused_unread(tmp_path: Path) -> None:
    names = zipfile.ZipFile(saved(TENSORS, tmp_path / "whole.pt")).namelist()
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, bytes(20_000_000) if name.endswith("data.pkl") else b"")
    with pytest.raises(
        DataError, match=r"not a plain file of tensors \(it is [\d,]+ bytes and unpacks to 20,0"
    ) as caught:
        read_state(tmp_path / "bomb.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("old", [False, True])
def test_a_tensor_that_repeats_few_numbers_without_end_is_refused(tmp_path: Path, old: bool) -> None:
    path = saved({"a": torch.zeros(1).expand(10**12)}, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(DataError, match="a tensor is larger than the file"):
        read_state(path)


def damaged_archives(folder: Path) -> dict[str, Path]:
    whole = saved(TENSORS, folder / "whole.pt").read_bytes()
    contents = {
        "cut": whole[: len(whole) // 2],
        "cut at the end": whole[:-1],
        "empty": b"",
        "a name that is no UTF-8": whole.replace(b"whole/data.pkl", b"whole/d\xffta.pkl"),
        "flipped": whole[:200] + bytes([whole[200] ^ 255]) + whole[201:],
        "only a signature": b"PK\x03\x04",
    }
    for name, content in contents.items():
        (folder / f"{name}.pt").write_bytes(content)
    with zipfile.ZipFile(folder / "names twice and outside.pt", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("../a", "/etc/a", "a/data.pkl", "a/data.pkl"):
            archive.writestr(name, b"x")
    os.mkfifo(folder / "pipe.pt")
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "folder.pt").mkdir()
    names = [
        *(f"{name}.pt" for name in contents),
        "names twice and outside.pt",
        "pipe.pt",
        "pipe.safetensors",
        "folder.pt",
    ]
    return {name: folder / name for name in names}


def test_damaged_archives_and_what_is_no_file_are_refused_in_one_line(tmp_path: Path) -> None:
    for name, path in damaged_archives(tmp_path).items():
        with pytest.raises(DataError, match="is not (a plain file of tensors|complete)") as caught:
            read_state(path)
        assert "\n" not in str(caught.value), name
        assert not (tmp_path.parent / "a").exists()


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    for name in ("noise.ckpt", "noise.safetensors"):
        (tmp_path / name).write_bytes(b"not tensors")
        with pytest.raises(DataError, match="not a plain file of tensors"):
            read_state(tmp_path / name)
    for number, value in enumerate(([torch.zeros(1)], {}, {"state_dict": [1]})):
        with pytest.raises(DataError, match="holds no state dict"):
            read_state(saved(value, tmp_path / f"{number}.pt"))


def test_checkpoints_are_unpickled_in_one_place_and_by_weights_only() -> None:
    root = Path(clipstill.__file__).parent
    calls = {
        str(path.relative_to(root)): line
        for path in root.rglob("*.py")
        for line in re.findall(r"torch\.load\(.*", path.read_text(encoding="utf-8"))
    }
    assert list(calls) == [str(Path("core") / "checkpoints.py")]
    assert "weights_only=True" in calls[str(Path("core") / "checkpoints.py")]


FACTS = WeightsFacts("vqgan", {"codes": 3}, "MIT", "a test", "nothing", "f" * 64)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPSTILL_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def test_stored_weights_come_back_with_their_facts(store: Path) -> None:
    assert stored_weights() == []
    written = store_weights("mine", {"t": torch.arange(6.0).view(2, 3).T}, FACTS)
    [entry] = stored_weights()
    assert entry == written
    assert torch.equal(entry.tensors()["t"], torch.arange(6.0).view(2, 3).T)
    assert stored_weights("vqgan") == [entry]
    assert stored_weights("other") == []
    assert sorted(path.name for path in (store / "mine").iterdir()) == ["config.json", "model.safetensors"]


def test_an_interrupted_import_is_no_entry_and_is_made_good_by_the_next(store: Path) -> None:
    (store / "mine").mkdir(parents=True)
    (store / "mine" / "model.safetensors").write_bytes(b"half")
    assert stored_weights() == []
    store_weights("mine", TENSORS, FACTS)
    assert set(stored_weights()[0].tensors()) == set(TENSORS)


def test_a_damaged_file_is_told_and_made_good_by_importing_again(store: Path) -> None:
    written = store_weights("mine", TENSORS, FACTS)
    (store / "mine" / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match="--name mine"):
        open_weights(store / "mine").tensors()
    assert store_weights("mine", TENSORS, FACTS) == written
    assert set(open_weights(store / "mine").tensors()) == set(TENSORS)


def test_a_name_is_never_given_to_other_weights(store: Path) -> None:
    store_weights("mine", TENSORS, FACTS)
    other = WeightsFacts("vqgan", {"codes": 3}, foreign_sha256="0" * 64)
    with pytest.raises(ConfigError, match="Choose another name with --name"):
        store_weights("mine", {"t": torch.zeros(1)}, other)
    assert set(open_weights(store / "mine").tensors()) == set(TENSORS)


@pytest.mark.parametrize("name", ["", "..", "../out", "a/b", "a+b", ".hidden", "a b"])
def test_names_that_are_no_folders_are_refused(store: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be named"):
        store_weights(name, TENSORS, FACTS)
    assert not store.exists()


@pytest.mark.parametrize("config", ["{}", "[1]", '{"kind": 1, "architecture": {}}', '{"surprise": true}'])
def test_a_foreign_config_is_refused(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ArtifactError, match="is damaged"):
        open_weights(tmp_path)


def test_the_store_lies_in_the_cache_unless_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CLIPSTILL_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert weights_folder() == tmp_path / "cache" / "clipstill" / "weights"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights_folder() == Path.home() / ".cache" / "clipstill" / "weights"
