"""The stage of prompts: what it stores, and what it refuses to read."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from clipstill.core.files import commit_manifest, verify_files
from clipstill.core.tensors import write_tensors
from clipstill.stages import STAGES
from clipstill.stages.prompts import read_prompts, read_style_names
from clipstill.workflow.cohorts import FolderHistory, cohorts_in_use
from clipstill.workflow.keys import Keys
from clipstill.workflow.models import Models
from clipstill.workflow.photos import Photos
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.run import Run
from clipstill.workflow.store import LockedStore
from text_fixtures import TASK, request, words


def make(out: Path, *overrides: str) -> tuple[Run, Path]:
    """A run whose prompts a small teacher has made, and their folder."""
    settings = load_settings(overrides=["prompts.images_per_class=3", "prompts.styles=[sketch, art]", *overrides])
    models = Models(settings, {"teacher": words()})
    keys = Keys(STAGES, settings, Photos(), models.identity)
    in_use = cohorts_in_use(keys, TASK, FolderHistory())
    with LockedStore(out, 1) as store:
        run = Run(settings, TASK, Photos(), store, in_use, keys.steps(TASK, in_use), models)
        vectors_CD = request().class_vectors_CD
        run.folder("class_vectors").mkdir(parents=True)
        file = run.folder("class_vectors") / "class_vectors.safetensors"
        write_tensors(file, {"class_vectors": vectors_CD, "text_vectors": vectors_CD})
        (step,) = run.steps_of("prompts")
        folder = store.folder(step)
        folder.mkdir()
        files = step.stage.make(run, step, folder)
        assert files is not None
        verify_files(folder, commit_manifest(folder, step.key, list(files)))
    return run, folder


def test_the_stage_stores_one_row_a_prompt_and_what_was_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "clipstill")
    run, folder = make(tmp_path)
    prompts, targets_ND = read_prompts(folder)
    assert len(prompts) == len(targets_ND) == 9
    assert torch.allclose(targets_ND, words().encode_text([prompt.text for prompt in prompts]), atol=1e-6)
    assert read_style_names(run) == ("sketch", "art")
    measured = json.loads((folder / "diversity.json").read_text())
    assert measured["classes"] == list(TASK.names)
    assert len(measured["within_class_each"]) == 3
    assert f"{measured['within_class']:.1f} degrees within a class" in caplog.text
