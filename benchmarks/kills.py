"""Kills commands at every kind of change of their files, does them again, and compares with what nobody killed.

    python benchmarks/kills.py --out DIR --kills 106

Prints one row a verb, and writes every kill to ``DIR/kills.json``. A command is killed before or after its n-th
rename, deletion, new folder or opening of a file, or at a random time, by SIGKILL, SIGTERM or SIGINT. Then the same
command runs to its end, which must exit with 0 and leave the same files with the same content (see ``killing.py``).
Where a bundle was in place before, what a reader finds right after the kill must be that one or the new one. ``ui``
kills jobs of the page.

Most commands are done by a fork of this process, which has imported everything; every sixteenth, and the jobs of the
page, are new processes. SIGKILL keeps what the system had not written to the disk yet, so this says nothing of a power
cut.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from killing import Campaign, Kill, Verb, clipstill, ended, fork  # isort: split (finds the modules of the tests)
from safetensors.torch import save_file

import vqgan_fixtures
from run_fixtures import CLASSES, QUICK, noise_photos, run_arguments

SETTINGS = (*QUICK, "export.formats=[onnx,onnx-fp16]", "export.page=false")
# Share of the kills of each verb; all of them are of ``--verbs``.
SHARES = {
    "run": 20,
    "run-again": 10,
    "export": 16,
    "fine-tune": 16,
    "add-class": 14,
    "ladder": 10,
    "import": 10,
    "ui": 10,
}


def verbs(campaign: Campaign, starts: Path) -> dict[str, Callable[[], Verb]]:
    """What is killed; each makes the folder that it starts from when it is called."""
    photos = ["--images", "{case}/photos", "--set=evaluation.ladder=false"]

    def run(case: Path, *more: str) -> list[str]:
        return run_arguments(case / "run", SETTINGS, *(text.format(case=case) for text in (*photos, *more)))

    def started(name: str, *commands: Callable[[Path], list[str]]) -> Path:
        """A folder with photos, in which commands were done."""
        place = starts / name
        if not place.is_dir():
            (starts / "empty").mkdir(parents=True, exist_ok=True)
            noise_photos(starts / "empty" / "photos", CLASSES, 9)
            campaign.reset(starts / "empty")
            for command in commands:
                arguments = command(campaign.case)
                code = ended(fork(campaign.case, lambda arguments=arguments: clipstill(arguments)))
                assert code == 0, campaign.case.with_name("log.txt").read_text()
            shutil.rmtree(campaign.case / "tmp")
            shutil.copytree(campaign.case, place)
        return place

    def lone(name: str) -> Path:
        """A folder with a bundle alone."""
        place = starts / name
        if not place.is_dir():
            shutil.copytree(started("empty-photos"), place)
            shutil.copytree(started("finished", run) / "run" / "bundle", place / "lone")
        return place

    def tune(case: Path) -> list[str]:
        settings = [
            f"--set={each}" for each in ("distillation.steps=4", "export.page=false", "threads=1", "device=cpu")
        ]
        return ["fine-tune", str(case / "lone"), "--examples", f"{case}/photos", "--out", f"{case}/tuned", *settings]

    def tuned_before() -> Path:
        place = lone("tuned")
        if not (place / "tuned").is_dir():
            shutil.copytree(place / "lone", place / "tuned")
        return place

    def checkpoint() -> Path:
        place = starts / "checkpoint"
        place.mkdir(parents=True, exist_ok=True)
        save_file(vqgan_fixtures.random_state(vqgan_fixtures.decoder(vqgan_fixtures.TINY)), place / "last.safetensors")
        return place

    def export(case: Path) -> list[str]:
        formats = [part for name in ("onnx-int8", "torch") for part in ("--format", name)]
        given = ["--calibration", f"{case}/photos", "--set=export.int8_refuse=1"]
        return ["export", str(case / "lone"), *formats, *given]

    def ladder(case: Path) -> list[str]:
        given = ["--images", f"{case}/photos", "--rungs", "noise,procedural,ours,examples"]
        return ["ladder", str(case / "run"), *given]

    def load(case: Path) -> list[str]:
        os.environ["CLIPSTILL_WEIGHTS"] = str(case / "weights")
        return ["weights", "import", str(case / "last.safetensors"), "--name", "photos"]

    def add(case: Path) -> list[str]:
        return ["add-class", str(case / "run"), "cow: it gives milk"]

    return {
        "run": lambda: Verb(
            "run", started("empty-photos"), lambda case: run(case, "--set=export.page=true"), "run/bundle"
        ),
        "run-again": lambda: Verb(
            "run-again", started("finished", run), lambda case: run(case, "--set=distillation.steps=4"), "run/bundle"
        ),
        "export": lambda: Verb("export", lone("alone"), export, "lone"),
        "fine-tune": lambda: Verb("fine-tune", tuned_before(), tune, "tuned"),
        "add-class": lambda: Verb("add-class", started("finished", run), add, "run/bundle"),
        "ladder": lambda: Verb("ladder", started("finished", run), ladder),
        "import": lambda: Verb("import", checkpoint(), load),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=106)
    parser.add_argument("--verbs", default=",".join(SHARES))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    out, names = given.out.resolve(), given.verbs.split(",")
    out.mkdir(parents=True, exist_ok=True)
    campaign = Campaign(out, given.seed)
    whole = sum(SHARES[name] for name in names)
    known = verbs(campaign, out / "starts")
    for name in names:
        number = max(1, round(given.kills * SHARES[name] / whole))
        if name == "ui":
            from kills_of_jobs import kill_jobs

            kill_jobs(campaign, known["run"](), number)
        else:
            campaign.kill_all(known[name](), number)
        found = {"points": campaign.points, "kills": [asdict(kill) for kill in campaign.kills]}
        (out / "kills.json").write_text(json.dumps(found, indent=1))
    table(campaign.kills, campaign.points)


# What can be wrong, in words -> the attribute of a kill.
_FOUND = {"not 0 then": "code_again", "lost": "lost", "not equal": "unequal", "left over": "left", "wrong": "broken"}


def table(all_kills: list[Kill], points: dict[str, int]) -> None:
    head = ("kills", "SIGKILL", "new process", "at changes", "kinds of changes", *_FOUND)
    print("| verb | " + " | ".join(head) + " |")
    print("|---|" + "---:|" * len(head))
    for name in dict.fromkeys(kill.verb for kill in all_kills):
        kills = [kill for kill in all_kills if kill.verb == name]
        places = [kill.at for kill in kills if not kill.at.endswith(" s")]
        facts = (
            len(kills),
            sum(kill.signal == "SIGKILL" for kill in kills),
            sum(kill.process != "fork" for kill in kills),
            len(places),
            f"{len(set(places))} of {points[name]}",
            *(sum(bool(getattr(kill, fact)) for kill in kills) for fact in _FOUND.values()),
        )
        print(f"| `{name}` | " + " | ".join(map(str, facts)) + " |")


if __name__ == "__main__":
    main()
