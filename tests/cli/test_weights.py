"""``clipstill weights``: a tiny checkpoint of the published naming, from the file to the generator."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import vqgan_fixtures as published
from clipstill.cli.main import main
from clipstill.generators import load_generators
from run_fixtures import kill_before_file

TINY = published.TINY
NEEDED = published.decoder(TINY)
STATE = published.random_state(published.encoder(TINY) | NEEDED | {"loss.discriminator.main.0.bias": (4,)})
DAMAGED_KEY = "decoder.up.0.block.1.conv2.weight"


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPSTILL_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def lightning(path: Path, state: dict[str, Any] | None = None) -> Path:
    content = {"epoch": 7, "optimizer_states": [{"step": 3}], "state_dict": STATE if state is None else state}
    torch.save(content, path)  # noqa: TID251
    return path


def ran(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["weights", *(str(argument) for argument in arguments)]) == 0
    return capsys.readouterr().out


def failed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["weights", *(str(argument) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    [line] = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_a_lightning_checkpoint_becomes_a_generator(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: Path
) -> None:
    file = lightning(tmp_path / "last.ckpt")
    out = ran(capsys, "import", file, "--name", "photos", "--licence", "CC-BY-4.0", "--source", "trained by us")
    assert "vqgan:photos" in out
    assert "CC-BY-4.0" in out
    kept = load_file(store / "photos" / "model.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in kept.items()} == NEEDED
    assert all(torch.equal(tensor, STATE[name]) for name, tensor in kept.items())
    config = json.loads((store / "photos" / "config.json").read_text())
    assert config["foreign_sha256"] == sha256(file)
    assert config["sha256"] == sha256(store / "photos" / "model.safetensors")
    assert (config["licence"], config["source"], config["kind"]) == ("CC-BY-4.0", "trained by us", "vqgan")
    assert config["architecture"]["widths"] == [32, 64]

    [generator] = load_generators("vqgan:photos", torch.device("cpu"))
    [z] = generator.init([1, 2], 16)
    expected = ((published.forward(STATE, TINY, z) + 1) / 2).clamp(0, 1)
    assert torch.allclose(generator.decode([z]), expected, atol=1e-5)


@pytest.mark.slow
def test_an_import_that_was_killed_leaves_nothing_behind_the_next_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: Path
) -> None:
    file = lightning(tmp_path / "last.ckpt")
    for name in ("model.safetensors", "config.json"):
        kill_before_file(f"*/photos/{name}", ["weights", "import", str(file), "--name", "photos"])
        assert len(list((store / "photos").glob(".tmp-*"))) == 1
    ran(capsys, "import", file, "--name", "photos")
    assert sorted(path.name for path in (store / "photos").iterdir()) == ["config.json", "model.safetensors"]


def test_importing_the_same_file_twice_changes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: Path
) -> None:
    file = lightning(tmp_path / "last.ckpt")
    first = ran(capsys, "import", file)
    files = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in store.rglob("*") if path.is_file()}
    assert len(files) == 2
    assert ran(capsys, "import", file) == first
    assert files == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in store.rglob("*") if path.is_file()}
    # Saying later what the licence is changes that alone.
    ran(capsys, "import", file, "--licence", "MIT")
    [config] = [path for path in files if path.suffix == ".json"]
    assert json.loads(config.read_text())["licence"] == "MIT"


def test_other_weights_do_not_take_a_name(capsys: pytest.CaptureFixture[str], tmp_path: Path, store: Path) -> None:
    ran(capsys, "import", lightning(tmp_path / "a.ckpt"))
    other = lightning(tmp_path / "b.ckpt", published.random_state(NEEDED, 1))
    before = sha256(store / "vqgan-f2-24-d5" / "model.safetensors")
    assert "--name" in failed(capsys, "import", other)
    assert sha256(store / "vqgan-f2-24-d5" / "model.safetensors") == before


def test_json_and_list_tell_the_same(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert json.loads(ran(capsys, "list", "--json")) == []
    save_file({name: STATE[name] for name in NEEDED}, tmp_path / "decoder.safetensors")
    imported = json.loads(ran(capsys, "import", tmp_path / "decoder.safetensors", "--json"))
    assert imported["name"] == "vqgan-f2-24-d5"
    assert imported["licence"] == "unknown"
    assert json.loads(ran(capsys, "list", "--json")) == [imported]
    assert ran(capsys, "list").split()[0] == "vqgan-f2-24-d5"


def test_an_empty_store_says_how_to_import(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "list"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "clipstill weights import --help" in captured.err


def test_a_publisher_is_suggested_and_its_licence_taken_only_when_the_user_names_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = published.Published(16384, 4, 4, 32, (1, 1, 1, 1), 1, (32,), 256)  # sizes that f8-16384-d4 stands for
    save_file(published.random_state(published.decoder(config)), tmp_path / "model.safetensors")
    assert main(["weights", "import", str(tmp_path / "model.safetensors"), "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["licence"] == "unknown"
    assert "--source CompVis/latent-diffusion" in captured.err
    file = str(tmp_path / "model.safetensors")
    assert main(["weights", "import", file, "--json", "--source", "CompVis/Latent-Diffusion"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["licence"] == "MIT"
    assert json.loads(captured.out)["trained_on"] == "OpenImages"
    assert captured.err == ""


def test_the_autoencoder_inside_a_larger_checkpoint_is_found(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: Path
) -> None:
    inside = {f"first_stage_model.{name}": tensor for name, tensor in STATE.items()}
    whole = {**inside, "transformer.head.weight": torch.zeros(2), "cond_stage_model.decoder.x": torch.zeros(2)}
    ran(capsys, "import", lightning(tmp_path / "whole.ckpt", whole), "--name", "inside")
    kept = load_file(store / "inside" / "model.safetensors")
    assert all(torch.equal(kept[name], STATE[name]) for name in NEEDED)


def test_half_precision_and_leftovers_of_training_are_no_obstacle(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, store: Path
) -> None:
    state = {name: tensor.half() for name, tensor in STATE.items()}
    state |= {"model_ema.decay": torch.zeros(()), "quantize.embedding.cluster_size": torch.zeros(24), "note": "text"}  # type: ignore[dict-item]
    ran(capsys, "import", lightning(tmp_path / "half.ckpt", state), "--name", "half")
    kept = load_file(store / "half" / "model.safetensors")
    assert set(kept) == set(NEEDED)
    assert all(tensor.dtype == torch.float32 for tensor in kept.values())


def without(name: str) -> Callable[[], dict[str, Tensor]]:
    return lambda: {key: tensor for key, tensor in STATE.items() if key != name}


def changed(name: str, tensor: Tensor) -> Callable[[], dict[str, Tensor]]:
    return lambda: {**STATE, name: tensor}


@pytest.mark.parametrize(
    ("state", "messages"),
    [
        (without(DAMAGED_KEY), ("not complete", DAMAGED_KEY)),
        (without("decoder.up.1.attn.0.q.bias"), ("not complete", "decoder.up.1.attn.0.q.bias")),
        (without("decoder.up.1.block.0.conv1.weight"), ("lacks", "decoder.up.1.block.0.conv1.weight")),
        (without("post_quant_conv.weight"), ("lacks", "post_quant_conv.weight")),
        (without("encoder.mid.block_1.norm1.bias"), ("not complete", "encoder.mid.block_1.norm1.bias")),
        (without("quantize.embedding.weight"), ("quantize.embedding.weight", "no VQGAN, or damaged")),
        (
            lambda: {key.replace("quantize.embedding", "quantize.embed"): tensor for key, tensor in STATE.items()},
            ("Gumbel",),
        ),
        (changed(DAMAGED_KEY, torch.zeros(32, 32, 1, 1)), (DAMAGED_KEY, "(32, 32, 1, 1) instead of (32, 32, 3, 3)")),
        (changed("quantize.embedding.weight", torch.zeros(24)), ("quantize.embedding.weight", "dimensions")),
        (changed("quantize.embedding.weight", torch.full((24, 5), torch.nan)), ("not finite",)),
        (changed("decoder.up.0.block.0.temb_proj.weight", torch.zeros(3, 3)), ("temb_proj", "another architecture")),
        (
            lambda: {key: tensor for key, tensor in STATE.items() if not key.startswith("decoder.up.0.")},
            ("lacks", "decoder.up.0"),
        ),
        (lambda: {"classifier.weight": torch.zeros(3, 3)}, ("no VQGAN", "decoder.")),
    ],
)
def test_damaged_and_foreign_checkpoints_are_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    store: Path,
    state: Callable[[], dict[str, Tensor]],
    messages: tuple[str, ...],
) -> None:
    line = failed(capsys, "import", lightning(tmp_path / "bad.ckpt", state()))
    assert all(message in line for message in messages), line
    assert "bad.ckpt" in line
    assert not store.exists()


class Malicious:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


def test_code_in_a_file_is_not_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, store: Path) -> None:
    trace = tmp_path / "it-ran"
    file = lightning(tmp_path / "bad.ckpt", {**STATE, "decoder.extra": Malicious(trace)})
    line = failed(capsys, "import", file)
    assert "code in weight files is never run" in line
    assert ".safetensors" in line
    assert not trace.exists()
    assert not store.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not complete"),
        (b"not a checkpoint", "not a plain file of tensors"),
        (b"PK\x03\x04 half an archive", "is not complete"),
    ],
)
def test_what_is_no_checkpoint_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: bytes, says: str
) -> None:
    (tmp_path / "noise.ckpt").write_bytes(content)
    assert says in failed(capsys, "import", tmp_path / "noise.ckpt")
    assert "there is no file" in failed(capsys, "import", tmp_path / "gone.ckpt")
    assert "there is no file" in failed(capsys, "import", tmp_path)


def test_bad_names_and_missing_arguments_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = lightning(tmp_path / "last.ckpt")
    assert "cannot be named '../out'" in failed(capsys, "import", file, "--name", "../out")
    failed(capsys, "import")
    failed(capsys, "export")


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert "clipstill weights import vqgan_imagenet_f16_16384.ckpt" in ran(capsys, "import", "--help")
    assert "clipstill weights list --json" in ran(capsys, "list", "--help")
