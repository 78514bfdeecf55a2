"""Settings as people write them: scalars of ``--set``, and files of YAML."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from clipstill.cli.main import main
from input_tables import refused, table, unchanged

WHOLE = "Expected: whole number"
NUMBER = "Expected: number"
PLAIN_DIGITS = "Write numbers in plain digits without quotes"
NOT_PLAIN = "no plain text"
NO_YAML = "not valid YAML"

# What follows --set; the value that counts, or words of the one line.
SCALARS: dict[str, tuple[str, Any]] = {
    "digits": ("seed=12", 12),
    "a plus": ("seed=+3", 3),
    "nothing below nothing": ("seed=-0", 0),
    "a space behind": ("synthesis.steps=60 ", 60),
    "a comment": ("seed=3 # mine", 3),
    "a new line before": ("seed=\n3", 3),
    "more than 64 bits": ("seed=18446744073709551616", 1 << 64),
    "an exponent": ("distillation.lr=1e-3", 0.001),
    "a dot before": ("curation.min_score=.5", 0.5),
    "a dot behind": ("curation.min_score=1.", 1.0),
    "true": ("evaluation.ladder=true", True),
    "True": ("evaluation.ladder=True", True),
    "a template in braces": ("prompts.template={class}", "{class}"),
    "octal digits as a name": ("student.name=010", "010"),
    "a word that YAML turns": ("student.name=off", "off"),
    "texts like numbers and dates": (
        "refusal.near_misses=[007, 2026-01-31, no, 0x1F, 1_000, nan, <<]",
        ["007", "2026-01-31", "no", "0x1F", "1_000", "nan", "<<"],
    ),
    "octal": ("seed=010", PLAIN_DIGITS),
    "underscores": ("synthesis.steps=1_000", PLAIN_DIGITS),
    "thousands with a comma": ("synthesis.steps=1,000", PLAIN_DIGITS),
    "a whole exponent": ("seed=1e3", "Did you mean 1000?"),
    "hexadecimal": ("seed=0x1F", PLAIN_DIGITS),
    "binary": ("seed=0b1", PLAIN_DIGITS),
    "sixty seconds": ("seed=1:30", PLAIN_DIGITS),
    "seconds": ("synthesis.steps=60s", PLAIN_DIGITS),
    "a date": ("seed=2026-01-31", PLAIN_DIGITS),
    "quotes": ("seed='3'", PLAIN_DIGITS),
    "digits of full width": ("seed=\uff13", PLAIN_DIGITS),
    "digits of Arabic": ("synthesis.steps=\u0663", PLAIN_DIGITS),
    "two statements": ("seed=1;seed=2", PLAIN_DIGITS),
    "a half": ("distillation.batch=4.5", WHOLE),
    "a fraction sign": ("synthesis.steps=\xbd", WHOLE),
    "two minuses": ("seed=--3", WHOLE),
    "true as a number": ("seed=true", WHOLE),
    "nothing": ("seed=", WHOLE),
    "a list": ("seed=[3]", WHOLE),
    "a mapping": ("seed={a: 1}", WHOLE),
    "a block of text": ("seed=|", WHOLE),
    "6,000 digits": ("seed=" + "9" * 6000, WHOLE),
    "6,000 digits of hexadecimal": ("seed=0x" + "f" * 6000, WHOLE),
    "6,000 digits with a tag": ("seed=!!int 0x" + "f" * 6000, WHOLE),
    "a setting below a setting": ("seed.x=3", WHOLE),
    "an octal fraction": ("curation.min_score=010.5", NUMBER),
    "endless": ("curation.min_score=.inf", NUMBER),
    "not a number": ("curation.min_score=nan", NUMBER),
    "a decimal comma": ("curation.min_score=0,5", NUMBER),
    "a number that is too small": ("distillation.lr=1e-400", NUMBER),
    "a number that is too large": ("distillation.lr=1e400", NUMBER),
    "a fraction that is too small": ("distillation.lr=1.5e-400", NUMBER),
    "an empty list": ("prompts.styles=[]", "it must hold at least 1"),
    "percent": ("curation.min_score=50%", NUMBER),
    "a ratio": ("curation.min_score=1/2", NUMBER),
    "1 as a switch": ("evaluation.ladder=1", "Expected: true or false"),
    "on": ("evaluation.ladder=on", "Expected: true or false"),
    "yes": ("evaluation.ladder=yes", "Expected: true or false"),
    "a number as a name": ("student.name=18", "Quote it if it is meant as a text: '18'"),
    "null as a name": ("student.name=null", "Quote it if it is meant as a text: 'null'"),
    "a number among texts": ("prompts.styles=[photo, 3]", "Quote it if it is meant as a text: '3'"),
    "null among texts": ("refusal.near_misses=[wolf, null]", "Quote it if it is meant as a text: 'null'"),
    "a text for a list": ("prompts.styles=photo", "Expected: list (text)"),
    "one of several kinds": ("refusal.near_misses=007", "Expected: auto or whole number or list (text)"),
    "a typing mistake of several kinds": ("refusal.near_misses=autoo", "Expected: auto or whole number or list"),
    "a mapping for several kinds": ("refusal.near_misses={wolf: {a: b}}", "Expected: auto or whole number or list"),
    "deep braces": ("refusal.near_misses=" + "{a: " * 200 + "}" * 200, "Expected: auto or whole"),
    "below the range": ("refusal.near_misses=-1", "It must lie at or above 0"),
    "above the range": ("curation.min_score=2", "It must lie between 0 and 1"),
    "too many threads": ("threads=100000000", "It must lie between 0 and 1024"),
    "a section as a value": ("synthesis=3", "it is a section"),
    "nothing for a section": ("refusal=", "it is a section"),
    "a mapping for a section of numbers": ("refusal={near_misses: {a: 1}}", "refusal.near_misses"),
    "an escape": ("student.name=a\x1b[31m", NO_YAML),
    "a null byte": ("seed=1\0", NO_YAML),
    "an escape in quotes": (r'student.name="a\e[31m"', NOT_PLAIN),
    "a mark of direction in a list": (r'prompts.styles=["a\u202eb"]', NOT_PLAIN),
    "half a pair in a list": (r'prompts.styles=["\ud800"]', NOT_PLAIN),
    "a new line in a template": (r'prompts.templates=["a {class}\n"]', NOT_PLAIN),
    "an address for a folder": ("evaluation.images=https://example.org/x", "is no path of this machine"),
    "the home of nobody": ("evaluation.images=~nobody-of-that-name/x", "no home folder"),
    "a list for a folder": ("evaluation.images=[a]", "Expected: path or null"),
    "a year for a folder": ("evaluation.images=2024", "Quote it if it is meant as a text: '2024'"),
    "an address for weights": ("student.init=https://example.org/a.safetensors", "is no path of this machine"),
    "an open bracket": ("synthesis.steps=[1", NO_YAML),
    "an open quote": ('seed="3', NO_YAML),
    "an alias": ("seed=*a", "aliases are not read"),
    "code": ("seed=!!python/name:os.system", NO_YAML),
    "a directive": ("seed=%x", NO_YAML),
    "no value": ("synthesis.steps", "is not of the form section.key=value"),
    "no key": ("=3", "is not of the form section.key=value"),
    "half a key": ("refusal.=3", "is not of the form section.key=value"),
    "a colon": ("seed: 3", "is not of the form section.key=value"),
    "an option": ("--set", "is not of the form section.key=value"),
    "a key without end": (".".join(["a"] * 3000) + "=1", "is not of the form section.key=value"),
    "a number of a roll of film": ("evaluation.images=/photos/roll #3", "Put quotes around a value that holds it"),
    "a comma behind": ("seed=3,", PLAIN_DIGITS),
    "two signs of equality": ("synthesis.steps==3", WHOLE),
    "capitals": ("Synthesis.Steps=3", "Did you mean 'synthesis'?"),
    "a slash between": ("synthesis/steps=3", "Did you mean 'synthesis'?"),
    "a space of no width": ("seed\u200b=3", "Did you mean 'seed'?"),
    "quotes of a word processor": ("seed=\u20183\u2019", WHOLE),
    "a minus of a word processor": ("distillation.lr=\u22121e-3", NUMBER),
    "a typing mistake": ("sed=1", "Did you mean 'seed'?"),
    "a letter of another script": ("s\u0435ed=3", "Did you mean 'seed'?"),
    "an attribute of Python": ("__class__=3", "unknown key '__class__'"),
}


@table(SCALARS)
def test_a_setting_on_the_command_line(
    given: str, expected: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if isinstance(expected, str) and not given.endswith(expected):
        assert expected in refused(capsys, tmp_path, "settings", "--json", "--set", given)
        return
    assert main(["settings", "--json", "--set", given]) == 0
    rows = {row["name"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    assert rows[given.partition("=")[0]] == expected
    assert type(rows[given.partition("=")[0]]) is type(expected)


LAUGHS = "".join(
    f"{new}: &{new} [{','.join(['*' + old] * 9)}]\n" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)
# Content of a file of settings; words of the one line, beside the file's name.
FILES: dict[str, tuple[str | bytes, str]] = {
    "an unknown key": ("synthesis:\n  step: 3\n", "line 2: unknown key 'synthesis.step'. Did you mean 'steps'?"),
    "a wrong value": ("synthesis:\n  steps: many\n", "line 2: synthesis.steps is 'many'. Expected: whole number"),
    "a dotted name": ("synthesis.steps: 40\n", "line 1: unknown key 'synthesis.steps'"),
    "a section that is not indented": ("synthesis:\nsteps: 40\n", "line 1: synthesis = null cannot be used: it is a"),
    "a key twice": ("seed: 1\nseed: 2\n", "line 2, is not valid YAML: key 'seed' appears twice"),
    "a tab": ("synthesis:\n\tsteps: 3\n", "line 2, is not valid YAML"),
    "an open bracket": ("student: [1, 2\n", NO_YAML),
    "a billion laughs": (f"a: &a [x,x,x,x,x,x,x,x,x]\n{LAUGHS}synthesis: {{steps: *h}}\n", "aliases are not read"),
    "itself": ("&a [*a]\n", "aliases are not read"),
    "deep brackets": ("a: " + "[" * 1000, NO_YAML),
    "deep bullets": ("- " * 3000, NO_YAML),
    "deep questions": ("? " * 3000, NO_YAML),
    "code": ("!!python/object/apply:os.system ['exit 1']", NO_YAML),
    "code below": ("seed: !!python/object:os.system {}\n", NO_YAML),
    "no date": ("seed: 2026-99-99\n", "seed"),
    "no number": ("seed: !!int x\n", "mine.yaml"),
    "digits without end": ("seed: " + "9" * 10_000, WHOLE),
    "a list as a name": ("? [a, b]\n: c\n", "a name must be plain text"),
    "a list": ("- a\n- b\n", "must hold settings"),
    "a text": ("seed\n", "must hold settings"),
    "two documents": ("seed: 1\n---\nseed: 2\n", NO_YAML),
    "an escape": ('"a\\x1b[31m": 1\n', r"a\x1b[31m"),
    "a null byte": ("a: \0", NO_YAML),
    "UTF-16": ("seed: 1\n".encode("utf-16"), "not UTF-8"),
    "a mapping for a list": ("refusal:\n  near_misses:\n    wolf: 1\n", "Expected: auto or whole number or list"),
    "a pointer of Git LFS": ("version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "a pointer of Git LFS"),
    "a web page": ("<html><body>404</body></html>\n", "a web page"),
    "a megabyte": ("# " + "x" * (1 << 20), "larger than 1 MB"),
}
TAKES_SETTINGS: dict[str, tuple[str, ...]] = {
    "run, config": ("run", "--classes", "dog,cat", "--config"),
    "plan, config": ("plan", "--classes", "dog,cat", "--config"),
    "run, recipe": ("run", "--classes", "dog,cat", "--recipe"),
    "settings": ("settings", "--config"),
}


@table(FILES)
def test_a_file_that_holds_no_settings(
    given: str | bytes, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(given if isinstance(given, bytes) else given.encode())
    for arguments in TAKES_SETTINGS.values():
        line = refused(capsys, tmp_path, *arguments, path)
        assert expected in line
        assert "mine.yaml" in line


@pytest.mark.parametrize("verb", TAKES_SETTINGS)
@pytest.mark.parametrize("kind", ["nothing", "a pipe", "a device", "a folder"])
def test_what_is_no_file_holds_no_settings(
    kind: str, verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    elif kind == "a folder":
        path.mkdir()
    assert str(path) in refused(capsys, tmp_path, *TAKES_SETTINGS[verb], path)


def test_an_empty_file_holds_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("# nothing\n")
    with unchanged(tmp_path):
        assert main(["settings", "seed", "--config", str(tmp_path / "mine.yaml")]) == 0
    assert "(default)" in capsys.readouterr().out
