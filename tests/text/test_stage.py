"""The stage of prompts: what it stores, and what its key depends on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from clipstill.stages.stages import make_prompts, read_prompts, read_style_names

from clipstill.core.errors import ArtifactError, ConfigError
from clipstill.core.files import read_manifest, verify_files
from clipstill.text.learned import sdd_prompts
from clipstill.workflow.cohorts import Cohort
from clipstill.workflow.keys import STAGES, stage_keys
from clipstill.workflow.recipes import load_settings
from text_fixtures import TASK, request, words


def make(folder: Path, *overrides: str) -> tuple[Any, Any]:
    """The stage with a small teacher: (prompts, targets)."""
    config = load_settings(overrides=["prompts.images_per_class=3", "prompts.styles=[sketch, art]", *overrides])
    keys = {"prompts": "the key"}
    bench: Any = SimpleNamespace(
        config=config,
        task=TASK,
        plain_teacher=words(),
        text_vectors_CD=request().class_vectors_CD,
        towards_examples=lambda targets_ND, class_ids: targets_ND,
        keys=keys,
        cohort_of=lambda stage: Cohort(1, TASK, TASK.names),
    )
    folder.mkdir(exist_ok=True)
    make_prompts(bench, folder)
    manifest = read_manifest(folder)
    assert manifest is not None
    verify_files(folder, manifest)
    return read_prompts(folder)


def test_the_stage_stores_one_row_a_prompt_and_what_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts, targets_ND = make(tmp_path)
    assert len(prompts) == len(targets_ND) == 9
    assert torch.allclose(targets_ND, words().encode_text([prompt.text for prompt in prompts]), atol=1e-6)
    assert read_style_names(tmp_path) == ("sketch", "art")
    measured = json.loads((tmp_path / "diversity.json").read_text())
    assert measured["classes"] == list(TASK.names)
    assert len(measured["within_class_each"]) == 3
    assert f"{measured['within_class']:.1f} degrees apart within a class" in capsys.readouterr().err
    assert not (tmp_path / "bank.safetensors").exists()


@pytest.mark.parametrize("strategy", ["sdd", "contrastive"])
def test_a_learned_bank_lies_in_the_stage_and_serves_the_next_run(tmp_path: Path, strategy: str) -> None:
    name = f"prompts.strategy={strategy}"
    _, first = make(tmp_path / "a", name, "prompts.steps=3")
    manifest = read_manifest(tmp_path / "a")
    assert manifest is not None
    assert {"bank.safetensors", "bank.json"} < set(manifest.files)
    facts = json.loads((tmp_path / "a" / "bank.json").read_text())
    assert facts["strategy"] == strategy
    assert facts["classes"] == list(TASK.names)
    assert facts["settings"]["steps"] == 3
    _, again = make(tmp_path / "b", name, "prompts.steps=0", f"prompts.bank={tmp_path / 'a'}")
    assert torch.equal(first, again)


def test_prompts_and_vectors_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    make(tmp_path)
    lines = (tmp_path / "prompts.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "prompts.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(ArtifactError, match="holds 8 prompts and 9 vectors"):
        read_prompts(tmp_path)
    (tmp_path / "targets.safetensors").write_bytes(b"")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_prompts(tmp_path)


def test_a_bank_counts_by_its_content_wherever_it_lies(tmp_path: Path) -> None:
    def key(place: Path) -> dict[str, str]:
        return stage_keys(load_settings(overrides=[f"prompts.bank={place}"]), TASK, None)

    banks = [sdd_prompts(request(steps=0, per_class=1, seed=seed)).bank for seed in (0, 1, 0)]
    for name, bank in zip("abc", banks, strict=True):
        assert bank is not None
        (tmp_path / name).mkdir()
        bank.write(tmp_path / name)
    keys = [key(tmp_path / name) for name in "abc"]
    assert keys[0] == keys[2] == key(tmp_path / "a" / "bank.safetensors")
    changed = [stage for stage in STAGES if stage in keys[0] and keys[0][stage] != keys[1][stage]]
    assert changed[0] == "prompts"
    with pytest.raises(ConfigError, match="there is no file"):
        key(tmp_path)
