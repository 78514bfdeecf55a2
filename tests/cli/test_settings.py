"""The verb ``settings``."""

import json
from pathlib import Path

import pytest

from clipstill.cli.main import main
from clipstill.cli.options import with_flags
from clipstill.core.config import apply_overrides


def test_each_value_is_shown_with_its_origin_range_and_meaning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("synthesis:\n  views: 3\n")
    arguments = ["synthesis", "--recipe", "ovc", "--config", str(file), "--set", "synthesis.steps=12"]
    assert main(["settings", *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "synthesis.precision = auto  (default)" in lines
    assert "synthesis.image_size = 224  (recipe ovc)" in lines
    assert f"synthesis.views = 3  (file {file})" in lines
    steps = lines.index("synthesis.steps = 12  (--set)")
    told = " ".join(line.strip() for line in lines[steps + 1 : steps + 3])
    assert told.startswith("Optimiser steps per image. ")
    assert told.endswith("[whole number, between 1 and 10000000; default 20]")
    assert not [line for line in lines if line.startswith("student.")]


def test_json_holds_every_setting_and_the_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "--seed", "4", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["seed"] == {
        "value": 4,
        "origin": "flag",
        "name": "seed",
        "type": "whole number",
        "range": "at or above 0",
        "default": 0,
        "description": "Seed of everything random. Equal seeds give equal bits on the CPU.",
    }
    assert rows["student.name"]["origin"] == "default"


def test_an_unknown_section_suggests_the_closest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["settings", "sinthesis"]) == 2
    assert "there is no setting or section 'sinthesis'. Did you mean 'synthesis'" in capsys.readouterr().err


def test_texts_of_flags_stay_texts() -> None:
    overrides = with_flags(["seed=1"], {"device": "0", "launch.address": "null", "seed": 2, "student.name": None})
    assert apply_overrides({}, overrides) == {"seed": 2, "device": "0", "launch": {"address": "null"}}
