"""What the photos of a run decide about its classes."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipstill.core.errors import TaskError
from clipstill.text.task import parse_task
from clipstill.workflow.photos import Photos
from clipstill.workflow.recipes import load_settings
from run_fixtures import noise_photos


def test_examples_may_tell_classes_of_one_name_apart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    task, examples = parse_task(["crane", "dog", "crane (2)"]), tmp_path / "examples"
    noise_photos(examples, ("crane", "crane (2)"), 1)
    settings = load_settings(overrides=[f"examples.images={examples}"])
    photos = Photos.of(settings, task).examples
    assert photos is not None
    assert [label for _, label in photos.items] == [0, 2]
    assert "crane, crane (2) are all 'crane' to the teacher" in caplog.text
    with pytest.raises(TaskError, match=r'describe what differs \("crane \(2\): \.\.\."\), or give examples'):
        Photos.of(load_settings(), task)
    described = parse_task(["crane: a bird", "dog", "crane: a machine"])
    assert Photos.of(load_settings(), described) == Photos()
    caplog.clear()
    prompts = load_settings(overrides=["prompt_teacher.weights=learned.safetensors"])
    Photos.of(prompts, described)
    assert "no descriptions: it cannot tell them apart" in caplog.text
