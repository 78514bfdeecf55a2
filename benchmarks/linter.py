"""Warnings of the linter on sixty everyday tasks: those that a person calls useful, and false alarms.

    python benchmarks/linter.py [--teacher embedded-m] [--full] [--photos DIR]

Beside each task stand the names of which a warning helps its user: the teacher takes the name for another thing than
the classes beside it do, or cannot know it, or two classes are one thing. The forty of ``TASKS`` were judged with what
the teacher takes the names for in sight; the rules were changed with them. The twenty of ``HELD_OUT`` were judged
without, and chose nothing but the linter's ``_STRANGE``. A note does not count as a warning.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch

from clipstill.assembly.class_vectors import text_vectors
from clipstill.assembly.foresight import foresee_by_names, linter_of
from clipstill.core.image_folder import ImageFolder
from clipstill.core.protocols import Teacher
from clipstill.evaluation.evaluate import evaluate, teacher_predictor
from clipstill.teachers import load_teacher
from clipstill.text.task import parse_task
from clipstill.text.word_checks import WARNING
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.settings import Settings

# Classes -> names of which a warning is useful.
TASKS = {
    "dog, guitar": "",
    "cat, mouse, keyboard": "mouse",
    "shirt, shoe, bag": "",
    "dog, cat": "",
    "apple, banana, orange": "",
    "car, truck, bus, bicycle": "",
    "crane, heron, stork": "crane",
    "crane, excavator, bulldozer": "",
    "rose, tulip, sunflower": "",
    "spoon, fork, knife": "",
    "chair, table, sofa, lamp": "",
    "hammer, screwdriver, wrench, nail": "",
    "bat, ball, glove": "",
    "bat, owl, fox": "bat",
    "plastic, glass, paper, metal": "glass",
    "cardboard, glass bottle, can, banana peel": "",
    "pizza, burger, salad, sushi": "",
    "person, bicycle, car": "",
    "cup, mug, glass": "cup, mug",
    "laptop, phone, tablet": "tablet",
    "keyboard, mouse, monitor, printer": "",
    "piano, violin, guitar, drum": "",
    "bass, trout, salmon": "bass",
    "bass, guitar, drum": "",
    "jaguar, lion, tiger": "",
    "beetle, ant, bee": "",
    "mushroom, tree, rock": "",
    "ripe tomato, unripe tomato, rotten tomato": "ripe tomato, unripe tomato, rotten tomato",
    "hat, scarf, coat, boot": "",
    "tie, shirt, belt": "",
    "ring, necklace, bracelet, watch": "",
    "seal, penguin, whale": "",
    "swallow, robin, sparrow": "swallow",
    "trunk, branch, leaf": "trunk",
    "pitcher, vase, bowl": "pitcher",
    "cricket, grasshopper, spider": "",
    "plane, train, ship": "",
    "house, garage, church": "",
    "scratch, dent, crack": "",
    "ice cream, cake, cookie": "",
}
HELD_OUT = {
    "jar, lid, bottle": "",
    "bee, wasp, fly": "",
    "mint, basil, parsley": "",
    "date, fig, olive": "date",
    "turkey, chicken, duck": "",
    "kiwi, mango, lemon": "kiwi",
    "ruler, pencil, eraser": "ruler",
    "file, folder, stapler": "file",
    "pool, garden, garage": "",
    "court, field, track": "court",
    "pen, pencil, marker": "",
    "plug, socket, switch": "",
    "palm, oak, pine": "palm",
    "bolt, nut, washer": "nut, washer",
    "chest, wardrobe, bed": "chest",
    "mole, rabbit, deer": "mole",
    "tank, jeep, helicopter": "",
    "lobster, crab, shrimp": "",
    "sink, toilet, bathtub": "",
    "horse, cow, sheep": "",
}


def compare(teacher: Teacher, settings: Settings, photos: Path) -> None:
    """Print how many photos are named right, of classes with a warning and of those without."""
    task = parse_task(sorted(path.name for path in photos.iterdir()))
    vectors_CD = text_vectors(teacher, task, settings)
    findings = linter_of(teacher, task, vectors_CD, settings).findings()
    warned = {name for one in findings if one.level == WARNING for name in one.classes}
    found = evaluate(teacher_predictor(teacher, vectors_CD), ImageFolder.open(photos, task.names), teacher.preprocess)
    for title, is_warned in (("with a warning", True), ("without", False)):
        shares = [
            share
            for name, share in zip(task.names, found.per_class, strict=True)
            if share is not None and (name in warned) == is_warned
        ]
        print(f"{len(shares)} classes {title}: {100 * statistics.fmean(shares):.1f} %")


def main() -> None:
    """Print a line for each task and the totals."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="embedded-m")
    parser.add_argument("--full", action="store_true", help="print the messages too")
    parser.add_argument("--photos", type=Path, help="instead: photos by class, right with a warning and without")
    arguments = parser.parse_args()
    settings = load_settings().changed(**{"teacher.name": arguments.teacher})
    teacher = load_teacher(arguments.teacher, torch.device("cpu"))
    if arguments.photos:
        compare(teacher, settings, arguments.photos)
        return
    for title, tasks in (("tasks", TASKS), ("held-out tasks", HELD_OUT)):
        counts = dict.fromkeys(("useful", "missed", "false"), 0)
        print(f"\n| {title} | useful warnings | missed | false alarms | least expected |\n|---|---|---|---|---:|")
        for classes, names in tasks.items():
            task, wanted = parse_task(classes), {name.strip() for name in names.split(",") if name.strip()}
            linter = linter_of(teacher, task, text_vectors(teacher, task, settings), settings)
            findings = linter.findings()
            warned = {name for one in findings if one.level == WARNING for name in one.classes}
            groups = {"useful": wanted & warned, "missed": wanted - warned, "false": warned - wanted}
            for kind, group in groups.items():
                counts[kind] += len(group)
            expected = foresee_by_names(linter, findings, teacher, settings)[1].values()
            cells = [", ".join(sorted(group)) for group in groups.values()]
            print(f"| {classes} | {' | '.join(cells)} | {f'{100 * min(expected):.0f} %' if expected else '-'} |")
            for one in findings if arguments.full else ():
                print(f"    {one.level} {one.kind}: {one.message}")
        print(f"\n{title}: {', '.join(f'{count} {kind}' for kind, count in counts.items())}")


if __name__ == "__main__":
    main()
