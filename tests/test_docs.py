"""The docs do what they say: their code blocks run as they stand, links lead somewhere, the reference is whole.

Shell blocks run in this process. What ``clipstill run`` computes is made small, and only the first one is computed at
all: of the others the settings, names and folders are checked as a run checks them, and the folder gets a copy. A run
whose classes change ends before its bundle. What an earlier page did by the same words is not done again. Everything
else is the real thing.
"""

from __future__ import annotations

import ast
import functools
import logging
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image

import clipstill
from clipstill.cli.main import COMMAND, main
from clipstill.commands import grow as growing
from clipstill.commands import run as running
from clipstill.commands.results import RunResult
from clipstill.commands.run import Job
from clipstill.core.config import merge
from clipstill.core.config_fields import declared
from clipstill.core.seeds import generator_for
from clipstill.teachers import load_teacher
from clipstill.workflow import recipes
from clipstill.workflow.settings import Settings
from run_fixtures import stopped_before

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
# In the order in which a reader meets them; the first one makes the run that the others share.
PAGES = [*sorted(DOCS.glob("tutorial/*.md")), *sorted(DOCS.glob("how-to/*.md")), README]
SHELL = ("bash", "console")
pytestmark = pytest.mark.usefixtures("own_torch_settings")

SMALL: dict[str, Any] = {
    "threads": 1,
    "device": "cpu",
    "prompts": {"images_per_class": 2, "styles": ["photo", "sketch"]},
    "synthesis": {"steps": 1, "image_size": 32, "group_size": 8},
    "curation": {"min_score": 0.0},
    "refusal": {"near_misses": 0},
    "teacher": {"name": "embedded-s"},
    "generator": {"name": "pixels"},
    # A network of a few layers: exporting one as deep as the default takes longer than all else.
    "student": {"name": "timm:test_resnet", "init": "scratch", "image_size": 32},
    "distillation": {"steps": 2, "batch": 4, "views": 1, "held_out_styles": 1},
    "evaluation": {"ladder": False},
    "export": {"formats": ["onnx"]},
}
SMALL_RECIPES: dict[str, dict[str, Any]] = {
    "promptkd-embedded": {
        "prompt_teacher": {"epochs": 1, "views": 1, "average_mean": 0.0},
        "student": {"init": "pretrained", "image_size": 32, "projector_width": 8},
        "distillation": {"epochs": 1, "views": 1},
    },
    "fine-tune": {"distillation": {"steps": 2, "views": 1}},
}
# A line of the README that needs what a test has not; there the lines stand together by what they show.
README_NEEDS = {
    "openclip:": "a model hub",
    "--recipe promptkd ": "a model hub",
    "--recipe ovc": "a model hub",
    "weights import": "a checkpoint",
    "--generator tiny-autoencoder:": "a decoder",
    "torchrun": "several processes",
    "--launcher ray": "a cluster",
    "--set distillation.minutes=10min": "minutes",
    "clipstill ui": "a server that does not end",
    "clipstill serve": "a server that does not end",
    "curl ": "a server that does not end",
    "make ": "an installation",
    "pip ": "a package index",
    "git ": "a network",
    "docker ": "a daemon",
    "python benchmarks/": "hours",
    "CLIPSTILL_DATA": "data sets",
    "runs/pacs-": "minutes and photos of PACS",
    "clipstill base-to-novel": "minutes",
    "clipstill transfer": "minutes",
    "clipstill reproduce": "data sets",
    "clipstill push": "a model hub",
    "hf:USER": "a model hub",
}


# --- Blocks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        line: of the page, where its text begins.
        language: behind the fence.
        text: as it stands.
        not_run: the reason why it is only checked; empty where it runs.
    """

    line: int
    language: str
    text: str
    not_run: str


def blocks(page: Path) -> list[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    found: list[Block] = []
    reason, number = "", 0
    while number < len(lines):
        line = lines[number]
        mark = re.fullmatch(r"<!-- not run: (.+) -->", line.strip())
        fence = re.fullmatch(r"\s*```(\w*).*", line)
        if mark:
            reason = mark.group(1)
        elif fence:
            end = next(at for at in range(number + 1, len(lines)) if lines[at].strip() == "```")
            text = "\n".join(lines[number + 1 : end])
            found.append(Block(number + 2, fence.group(1), text, reason))
            reason, number = "", end
        elif line.strip():
            reason = ""
        number += 1
    return found


def commands(text: str) -> list[list[str]]:
    """The words of each command, without comments and prompts; continued lines are joined."""
    lines = [line.strip().removeprefix("$ ") for line in text.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def is_shell(page: Path, block: Block) -> bool:
    if block.language in SHELL:
        return True
    words = block.text.split()
    programs = ("clipstill", "torchrun", "make", "python")
    return page == README and not block.language and bool(words) and words[0] in programs


@functools.cache
def verbs() -> dict[str, Any]:
    """Every verb by its words, ``weights import`` among them."""
    return {command.command_path.removeprefix("clipstill "): command for command in _contexts()}


def _contexts() -> Iterator[Any]:
    root = typer.Context(COMMAND, info_name="clipstill")
    for name, command in root.command.commands.items():
        child = typer.Context(command, info_name=name, parent=root)
        if not hasattr(command, "commands"):
            yield child
        for inner, nested in getattr(command, "commands", {}).items():
            yield typer.Context(nested, info_name=inner, parent=child)


def check_options(words: list[str]) -> None:
    """Parse a command as the program would, and its settings, without doing anything."""
    if words[0] == "torchrun":
        words = words[words.index("-m") + 1 :]
    if words[0] == "make":
        targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert set(words[1:]) <= {*targets, "PYTHON=python3.12"}, f"the Makefile has no {words[1:]}"
        return
    if words[:2] == ["python", "-m"] or words[0] != "clipstill":
        if words[0] == "python" and words[1] != "-m":
            assert (ROOT / words[1]).is_file(), f"there is no {words[1]}"
        return
    known = verbs()
    name = words[1] if words[1] in known else " ".join(words[1:3])
    assert name in known, f"there is no verb 'clipstill {name}'"
    context = known[name].command.make_context(name, words[1 + len(name.split()) :], parent=known[name].parent)
    settings = context.params
    if name == "run" or "recipe" in settings:
        recipe, file = settings.get("recipe") or "default", settings.get("config")
        recipes.load_settings(recipe, file, settings.get("overrides") or ())


# --- Running them -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def patched() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, patched: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the pages speak of, where runs are small."""
    folder = tmp_path_factory.mktemp("desk")
    names = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person", "crane", "heron", "stork")
    for top in (
        "photos",
        "five_photos",
        "other_photos",
        "unlabelled",
        "my_data/train",
        "my_data/test",
        "my_photos",
    ):
        inner = ("train", "test") if top == "my_photos" else (".",)
        for part in inner:
            for name in names[: 4 if top.startswith("my_") else None]:
                picture(folder / top / part / name / f"{top.replace('/', '-')}-{name}.png", top, name)
    for domain in ("photo", "art", "cartoon", "sketch"):
        for part in ("train", "test"):
            for name in names[:2]:
                picture(folder / domain / part / name / f"{domain}-{name}.png", domain, name)
    picture(folder / "photo.jpg", "photo", "jpg")
    (folder / "classes.txt").write_text("dog\nelephant\nguitar\ncrane: a large wading bird\n")
    patched.chdir(folder)
    # Torch tells its logger of every operation that it exports; pytest would keep them all.
    patched.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    make_small(patched)
    return folder


def picture(path: Path, *seed: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = torch.randint(0, 256, (9, 9, 3), generator=generator_for(*seed, path.name), dtype=torch.uint8)
    Image.fromarray(pixels.numpy()).resize((80, 70)).save(path)


def make_small(patch: pytest.MonkeyPatch) -> None:
    """Small settings below all that a page says, and one computed run."""
    real_load, real_run = recipes.load_yaml, running.run
    default = recipes.recipe_path("default")

    def small_yaml(path: Path) -> dict[str, Any]:
        settings = real_load(path)
        if path.parent == default.parent and "extends" not in settings:
            settings = merge(SMALL, settings)
        if path.stem in SMALL_RECIPES:  # Their own values would come after the small ones.
            return merge(settings, SMALL_RECIPES[path.stem])
        return settings

    made: list[tuple[Job, RunResult]] = []

    def first_is_computed(job: Job, **named: Any) -> RunResult:
        # The same again shall find everything done.
        if not made or same(job, made[0][0]):
            made.append((job, real_run(job, **named)))
            return made[-1][1]
        running.check_names(job)
        like = made[0][1]
        if not job.out.exists():
            shutil.copytree(like.out, job.out)
        photos = job.photos.measured
        evaluation = None if photos is None else clipstill.evaluate(run=job.out, images=photos.path)
        bundle, report = job.out / "bundle", job.out / "report.html"
        return replace(like, out=job.out, bundle_folder=bundle, report=report, evaluation=evaluation)

    def same(one: Job, other: Job) -> bool:
        return (one.settings, one.task, one.out) == (other.settings, other.task, other.out)

    def up_to_the_bundle(job: Job) -> RunResult:
        with stopped_before("bundle"), pytest.raises(KeyboardInterrupt):
            real_run(job)
        return replace(made[0][1], out=job.out, classes=job.task.names)

    patch.setattr(recipes, "load_yaml", small_yaml)
    patch.setattr(running, "run", first_is_computed)
    # All pages share one folder of runs, whose classes are those of the first.
    patch.setattr(running, "_refuse_other_classes", lambda job: None)
    # A class that comes or goes is nothing that a copy of another run could show.
    patch.setattr(growing, "run", up_to_the_bundle)
    patch.setattr("clipstill.teachers.load_teacher", functools.cache(load_teacher))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_code_blocks_of_a_page_run_as_they_stand(
    page: Path, desk: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["page"])
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        where = f"{page.relative_to(ROOT)}, line {block.line}"
        if block.language == "python":
            code = compile(ast.parse(block.text, where), where, "exec")
            if not block.not_run:
                exec(code, names)
        elif is_shell(page, block):
            for words in commands(block.text):
                run_command(page, block, words, where, capfd)


# The words of commands that earlier pages did.
_DONE: list[list[str]] = []


def run_command(page: Path, block: Block, words: list[str], where: str, capfd: pytest.CaptureFixture[str]) -> None:
    line = " ".join(words)
    check_options(words)
    needs = [need for mark, need in README_NEEDS.items() if page == README and mark in f"{line} "]
    if block.not_run or needs or words in _DONE:
        return
    assert words[0] == "clipstill", f"{where}: '{line}' cannot run here; say why in a comment before the block"
    code = main(words[1:])
    assert code == 0, f"{where}: '{line}' ended with {code}: {capfd.readouterr().err[-800:]}"
    if words[1] != "run":
        _DONE.append(words)


def test_every_block_of_a_page_is_code_that_is_run_or_a_listing() -> None:
    for page in PAGES:
        for block in blocks(page):
            assert block.language in ("python", "yaml", "toml", "text", *SHELL) or page == README, (page, block.line)
            assert not block.not_run or len(block.not_run) > 5


def test_a_renamed_option_or_setting_would_be_noticed() -> None:
    check_options(shlex.split("clipstill run --classes a,b --teacher openclip:X --set synthesis.steps=3"))
    for wrong in (
        "clipstill run --klasses a,b",
        "clipstill run --classes a,b --set synthesis.stepps=3",
        "clipstill run --classes a,b --recipe ovcc",
        "clipstill walk",
        "make tea",
        "torchrun --nproc-per-node 8 -m clipstill run --wrong",
    ):
        with pytest.raises(Exception, match="."):  # Of click, of clipstill, or an assertion.
            check_options(shlex.split(wrong))


def test_extras_are_quoted_for_the_shell() -> None:
    places = [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    texts = {place: place.read_text(encoding="utf-8") for place in places}
    told = [place for place, text in texts.items() if "pip install 'clipstill[" in text]
    assert len(told) >= 5
    assert [place for place, text in texts.items() if re.search(r"pip install (-\S+ )*[\w.]+\[", text)] == []


# --- Links ------------------------------------------------------------------------------------------------------------

MARKDOWN = [*sorted(DOCS.rglob("*.md")), README, ROOT / "CONTRIBUTING.md"]
GENERATED = ("reference/cli.md", "reference/settings.md")


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if path.is_relative_to(DOCS) and str(path.relative_to(DOCS)) in GENERATED:
            continue
        assert path.exists(), f"{page.name} leads to {target}, which is not there"
        if anchor and path.suffix == ".md":
            assert anchor in anchors(path), f"{page.name} leads to {target}: there is no such heading"


def anchors(page: Path) -> set[str]:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


def test_every_page_stands_in_the_table_of_contents() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert listed == {str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")} | set(GENERATED)


# --- The reference ----------------------------------------------------------------------------------------------------


@pytest.fixture
def reference_pages(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(DOCS))
    import reference_pages

    return reference_pages


def test_reference_holds_every_verb_with_all_of_its_options(reference_pages: Any) -> None:
    sections = {part.splitlines()[0]: part for part in reference_pages.cli_reference().split("\n## clipstill ")[1:]}
    assert set(sections) == set(verbs())
    for name, context in verbs().items():
        for parameter in context.command.params:
            is_argument = parameter.param_type_name == "argument"
            written = parameter.metavar or parameter.name.upper() if is_argument else parameter.opts[-1]
            assert written.lower() in sections[name].lower()


def test_reference_holds_every_setting_with_its_default_and_meaning(reference_pages: Any) -> None:
    text = reference_pages.settings_reference()
    for each in declared(Settings):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{each.name}` |"))
        assert row.replace("\\|", "").split("|")[5].strip(), f"{each.name} has no description"
    assert "| `synthesis.tv_weight` | `2.0` | number | between 0 and 10000000 |" in text


def test_reason_that_goes_on_over_lines_is_told_whole(reference_pages: Any) -> None:
    text = reference_pages.settings_reference()
    assert "auto is bare names for embedded teachers and eight plain ImageNet sentences for CLIP" in text


# --- The site ---------------------------------------------------------------------------------------------------------


def test_site_is_built_without_a_warning_and_loads_nothing_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mkdocs", reason="the docs extra is not installed")
    pytest.importorskip("mkdocstrings_handlers.python", reason="the docs extra is not installed")
    pytest.importorskip("material", reason="the docs extra is not installed")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    monkeypatch.chdir(ROOT)
    config = load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path))
    try:
        build(config)
    except Abort as error:
        pytest.fail(str(error))
    for page in ("index.html", "reference/cli.html", "reference/settings.html", "reference/python.html"):
        html = (tmp_path / page).read_text(encoding="utf-8")
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]+src="([^"]+)"|<link[^>]+rel="(?!canonical)[^"]*"[^>]+href="([^"]+)"', html
        )
        assert loaded
        assert [each for pair in loaded for each in pair if re.match(r"(https?:)?//", each)] == []
    assert "distil" in (tmp_path / "reference" / "python.html").read_text(encoding="utf-8")
    assert not list(tmp_path.rglob("*.py"))
