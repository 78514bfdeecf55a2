"""What is foretold of a task against what real photos say; and which names a teacher reads.

    python benchmarks/foresight.py --data DIR --cache FOLDER [--teacher embedded-m] [--fit] [--seed 0]
    python benchmarks/foresight.py --data DIR --cache FOLDER --student embedded-s
    python benchmarks/foresight.py --data DIR --cache FOLDER --languages
    python benchmarks/foresight.py --runs RUN...

DIR has the sets ``pacs``, ``caltech101``, ``flowers``, ``tinyimagenet`` and ``textile``, with ``train`` and ``test``.
Each whole set and five random tasks of each, of 2 to 20 classes, are foretold by names alone, by the train photos
without their labels, by 10 or 40 labelled train photos, and by 2 or 5 examples a class, each classified without itself;
the test photos tell what is true. ``--student`` foretells the answers of another model, by the teacher's probability of
them on the photos without labels. ``--fit`` prints the constants of ``core.foresight`` by 100 other tasks of each set
of PACS and of Caltech-101. ``--languages`` measures names in other languages and of no words on PACS photos, and tells
which names of known data sets are called unreadable. ``--runs`` compares the student's accuracy and the seconds that
were foretold with those of finished runs.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import clipstill
from clipstill.assembly.class_vectors import encode_folder
from clipstill.assembly.foresight import MOST_LOOKED_AT, common_words, foresee_by_names, imagenet_names
from clipstill.core.files import read_json, sha256_json
from clipstill.core.foresight import MEASURED_FROM, Estimate, Foresight, by_confidence, measured
from clipstill.core.image_folder import ImageFolder
from clipstill.core.names import spoken
from clipstill.core.seeds import generator_for
from clipstill.teachers import load_teacher
from clipstill.teachers.prototypes import class_vectors_with_examples, prototypes, right_without_themselves
from clipstill.text.difficulty import estimate
from clipstill.text.linter import Linter
from clipstill.text.reading import is_english
from clipstill.text.task import Task
from clipstill.workflow.records import read_events
from clipstill.workflow.settings import Settings

SETS = {
    "PACS photo": "pacs/{}/photo",
    "PACS art": "pacs/{}/art_painting",
    "PACS cartoon": "pacs/{}/cartoon",
    "PACS sketch": "pacs/{}/sketch",
    "Caltech-101": "caltech101/{}",
    "tinyimagenet": "tinyimagenet/{}",
    "flowers": "flowers/{}",
    "textile": "textile/{}",
}
DRAWINGS = ("PACS art", "PACS cartoon", "PACS sketch")
FITTED = ("PACS photo", *DRAWINGS, "Caltech-101")
PACS = ["dog", "elephant", "giraffe", "guitar", "horse", "house", "person"]
NAMES = {
    "English": "dog,elephant,giraffe,guitar,horse,house,person",
    "French": "chien,éléphant,girafe,guitare,cheval,maison,personne",
    "Spanish": "perro,elefante,jirafa,guitarra,caballo,casa,persona",
    "Italian": "cane,elefante,giraffa,chitarra,cavallo,casa,persona",
    "German": "Hund,Elefant,Giraffe,Gitarre,Pferd,Haus,Person",
    "Polish": "pies,słoń,żyrafa,gitara,koń,dom,osoba",
    "Turkish": "köpek,fil,zürafa,gitar,at,ev,insan",
    "Russian": "собака,слон,жираф,гитара,лошадь,дом,человек",
    "Arabic": "كلب,فيل,زرافة,جيتار,حصان,منزل,شخص",
    "Japanese": "犬,象,キリン,ギター,馬,家,人",
    "Chinese": "狗,大象,长颈鹿,吉他,马,房子,人",
    "emoji": "🐶,🐘,🦒,🎸,🐴,🏠,🧑",
    "class_0 ...": "class_0,class_1,class_2,class_3,class_4,class_5,class_6",
    "numbers": "0,1,2,3,4,5,6",
    "keyboard": "asdfgh,qwerty,zxcvbn,uiop,hjkl,sdfsdf,fghfgh",
    "typing mistakes": "dgo,elehpant,girafe,guitarr,hrose,huose,persn",
}
CIFAR_100 = (
    "apple,aquarium_fish,baby,bear,beaver,bed,bee,beetle,bicycle,bottle,bowl,boy,bridge,bus,butterfly,camel,can,castle,"
    "caterpillar,cattle,chair,chimpanzee,clock,cloud,cockroach,couch,crab,crocodile,cup,dinosaur,dolphin,elephant,"
    "flatfish,forest,fox,girl,hamster,house,kangaroo,keyboard,lamp,lawn_mower,leopard,lion,lizard,lobster,man,"
    "maple_tree,motorcycle,mountain,mouse,mushroom,oak_tree,orange,orchid,otter,palm_tree,pear,pickup_truck,pine_tree,"
    "plain,plate,poppy,porcupine,possum,rabbit,raccoon,ray,road,rocket,rose,sea,seal,shark,shrew,skunk,skyscraper,"
    "snail,snake,spider,squirrel,streetcar,sunflower,sweet_pepper,table,tank,telephone,television,tiger,tractor,train,"
    "trout,tulip,turtle,wardrobe,whale,willow_tree,wolf,woman,worm"
)


class Asked:
    """A teacher whose texts are computed once, however many tasks hold them."""

    def __init__(self, teacher: Any) -> None:
        self.teacher, self._vectors = teacher, dict[str, Tensor]()
        settings = Settings()
        self.known, self.imagenet_KD = common_words(teacher, settings), imagenet_names(teacher, settings)

    def encode(self, texts: Sequence[str]) -> Tensor:
        missing = [text for text in dict.fromkeys(map(spoken, texts)) if text not in self._vectors]
        if missing:
            self._vectors |= dict(zip(missing, self.teacher.encode_text(missing), strict=True))
        return torch.stack([self._vectors[spoken(text)] for text in texts])

    def linter(self, names: Sequence[str]) -> Linter:
        return Linter(Task(tuple(names), ("",) * len(names)), self.encode(names), self.known, self.encode)


@dataclass(frozen=True)
class Photos:
    """A set as the teacher sees it."""

    names: list[str]
    parts: dict[str, tuple[Tensor, Tensor]]  # ``train`` and ``test``: vectors and labels.

    def of(self, part: str, chosen: list[int]) -> tuple[Tensor, Tensor]:
        feat_ND, label_N = self.parts[part]
        keep = torch.isin(label_N, torch.tensor(chosen))
        return feat_ND[keep], torch.searchsorted(torch.tensor(chosen), label_N[keep])


def photos_of(teacher: Any, data: Path, form: str, cache: Path) -> Photos:
    names, parts = [], {}
    for part in ("train", "test"):
        folder = data / form.format(part)
        names = sorted(each.name for each in folder.iterdir() if each.is_dir())
        stored = cache / f"{sha256_json([teacher.weights_sha256, str(folder.resolve())])[:16]}.safetensors"
        if not stored.exists():
            feat_ND, labels = encode_folder(teacher, ImageFolder.open(folder, names), torch.device("cpu"))
            stored.parent.mkdir(parents=True, exist_ok=True)
            save_file({"vectors": feat_ND, "labels": torch.tensor(labels)}, stored)
        found = load_file(stored)
        parts[part] = found["vectors"], found["labels"]
    return Photos(names, parts)


def draws(count: int, sets: dict[str, Photos], seed: str) -> Iterator[tuple[str, list[int]]]:
    """Random tasks of each set, of 2 to 20 classes."""
    for title, photos in sets.items():
        draw, classes = random.Random(f"{seed} {title}"), len(photos.names)
        for _ in range(count):
            yield title, sorted(draw.sample(range(classes), draw.randint(2, min(20, classes))))


@dataclass(frozen=True)
class Row:
    """One task: what is told, and what is true."""

    title: str
    classes: int
    true: float
    photos: int
    told: dict[str, tuple[Estimate | None, float]]  # By what it is told, and what is true of it.
    known: dict[str, float]  # What the constants are fitted to.


def row_of(asked: Asked, title: str, photos: Photos, chosen: list[int], seed: int) -> Row:
    names = [photos.names[place] for place in chosen]
    linter, text_CD, scale = asked.linter(names), asked.encode(names), float(asked.teacher.logit_scale)
    (seen_ND, shown_N), (feat_ND, label_N) = photos.of("train", chosen), photos.of("test", chosen)
    true = float(((feat_ND @ text_CD.T).argmax(1) == label_N).float().mean())
    by_name, _ = foresee_by_names(linter, linter.findings(), asked.teacher, Settings())
    confidence = float((scale * seen_ND @ text_CD.T).softmax(1).amax(1).mean())
    by_photos = by_name.photos and by_confidence(confidence, min(len(seen_ND), MOST_LOOKED_AT)).photos
    told = {
        "names": (by_name.drawings if title in DRAWINGS else by_name.photos, true),
        "unlabelled": (by_photos, true),
    }
    order = torch.randperm(len(seen_ND), generator=generator_for("examples", seed, title, len(chosen)))
    for count in (10, 40):
        few = order[:count]
        share = float(((seen_ND[few] @ text_CD.T).argmax(1) == shown_N[few]).float().mean())
        told[f"{count} labelled"] = measured(share, len(few), "").photos, true
    for count in (2, 5):
        some = [place for label in range(len(chosen)) for place in order[shown_N[order] == label][:count].tolist()]
        if len(some) >= MEASURED_FROM:
            told[f"{count} examples a class"] = by_examples(seen_ND[some], shown_N[some], text_CD, (feat_ND, label_N))
    assert asked.imagenet_KD is not None
    known = {"names": statistics.fmean(estimate(linter, asked.imagenet_KD)), "unlabelled": confidence}
    return Row(title, len(chosen), true, len(label_N), told, known)


def by_examples(
    some_ND: Tensor, labels: Tensor, text_CD: Tensor, test: tuple[Tensor, Tensor]
) -> tuple[Estimate | None, float]:
    """As ``assembly.foresight.sharpened`` tells it, and the accuracy by the class vectors of names and examples."""
    count, (feat_ND, label_N) = Settings().examples.text_count, test
    right = right_without_themselves(some_ND, labels.tolist(), text_CD, count)
    vectors_CD = class_vectors_with_examples(text_CD, prototypes(some_ND, labels.tolist(), text_CD), count)
    true = float(((feat_ND @ vectors_CD.T).argmax(1) == label_N).float().mean())
    return measured(right / len(labels), len(labels) // 2, "").photos, true


def on_student(args: argparse.Namespace) -> None:
    """What is told of another model's answers, and what is true of them."""
    teacher, student = (Asked(load_teacher(name, torch.device("cpu"))) for name in (args.teacher, args.student))
    sets, seen = (
        {title: photos_of(each.teacher, args.data, form, args.cache) for title, form in SETS.items()}
        for each in (teacher, student)
    )
    rows = []
    for title, chosen in draws(args.tasks, sets, str(args.seed)):
        names = [sets[title].names[place] for place in chosen]
        linter, own_CD = teacher.linter(names), student.encode(names)
        by_name, _ = foresee_by_names(linter, linter.findings(), teacher.teacher, Settings())
        answer_N = (seen[title].of("train", chosen)[0] @ own_CD.T).argmax(1)
        logits_NC = float(teacher.teacher.logit_scale) * sets[title].of("train", chosen)[0] @ teacher.encode(names).T
        share = float(logits_NC.softmax(1).gather(1, answer_N[:, None]).mean())
        feat_ND, label_N = seen[title].of("test", chosen)
        true = float(((feat_ND @ own_CD.T).argmax(1) == label_N).float().mean())
        told = by_name.photos and by_confidence(share, min(len(answer_N), MOST_LOOKED_AT)).photos
        rows.append(Row(title, len(chosen), true, len(label_N), {"answers": (told, true)}, {}))
    print(f"{args.student}, by {args.teacher}'s probability of its answers: {summary(rows, 'answers')}")
    for title in SETS:
        print(f"  {title}: {summary([row for row in rows if row.title == title], 'answers')}")


def logit(share: float) -> float:
    bounded = min(max(share, 0.02), 0.98)
    return math.log(bounded / (1 - bounded))


def summary(rows: Sequence[Row], basis: str) -> str:
    found = [(pair[1], pair[0]) for row in rows if (pair := row.told.get(basis)) and pair[0] is not None]
    if not found:
        return "cannot tell"
    error = statistics.fmean(abs(told.share - true) for true, told in found)
    inside = statistics.fmean(told.low <= true <= told.high for true, told in found)
    width = statistics.fmean(told.high - told.low for _, told in found)
    return f"{len(found)}: off by {100 * error:.1f}, inside {100 * inside:.0f} %, width {100 * width:.0f}"


def on_photos(args: argparse.Namespace) -> None:
    asked = Asked(load_teacher(args.teacher, torch.device("cpu")))
    sets = {title: photos_of(asked.teacher, args.data, form, args.cache) for title, form in SETS.items()}
    if args.fit:
        fitted = {title: sets[title] for title in FITTED}
        rows = [row_of(asked, title, sets[title], chosen, args.seed) for title, chosen in draws(100, fitted, "fit")]
        fit(rows)
        return
    whole = [row_of(asked, title, each, list(range(len(each.names))), args.seed) for title, each in sets.items()]
    print("| set | classes | measured | names | photos without labels | 10 labelled |\n|---|---:|---:|---:|---:|---:|")
    for row in whole:
        cells = [text_of(row.told[basis][0]) for basis in ("names", "unlabelled", "10 labelled")]
        print(f"| {row.title} | {row.classes} | {100 * row.true:.0f} | {' | '.join(cells)} |")
    tasks = [
        row_of(asked, title, sets[title], chosen, args.seed)
        for title, chosen in draws(args.tasks, sets, str(args.seed))
    ]
    for name, rows in (("whole sets and random tasks", [*whole, *tasks]), ("random tasks", tasks)):
        print(f"\n{name}: {len(rows)}")
        for basis in dict.fromkeys(basis for row in rows for basis in row.told):
            print(f"  by {basis}: {summary(rows, basis)}")
            for title in SETS:
                print(f"    {title}: {summary([row for row in rows if row.title == title], basis)}")


def text_of(told: Estimate | None) -> str:
    return "cannot tell" if told is None else f"{100 * told.share:.0f} ({100 * told.low:.0f} to {100 * told.high:.0f})"


def fit(rows: Sequence[Row]) -> None:
    """Lines from logit to logit, the sets with equal weight; the error holds 80 % of the tasks."""
    kinds: dict[str, tuple[str, Callable[[Row], bool]]] = {
        "BY_NAMES": ("names", lambda row: row.title not in DRAWINGS),
        "OF_DRAWINGS": ("names", lambda row: row.title in DRAWINGS),
        "BY_CONFIDENCE": ("unlabelled", lambda row: True),
    }
    for name, (basis, belongs) in kinds.items():
        chosen = [row for row in rows if row.told[basis][0] is not None and belongs(row)]
        per_set = {title: sum(row.title == title for row in chosen) for title in SETS}
        weight_N = torch.tensor([1 / per_set[row.title] for row in chosen]).double()
        x_N = torch.tensor([logit(row.known[basis]) for row in chosen]).double()
        y_N = torch.tensor([logit(row.true) for row in chosen]).double()
        a_N2 = torch.stack([torch.ones_like(x_N), x_N], 1) * weight_N.sqrt()[:, None]
        offset, slope = torch.linalg.lstsq(a_N2, (y_N * weight_N.sqrt())[:, None]).solution[:, 0].tolist()
        gaps = (y_N - offset - slope * x_N).abs()
        order = gaps.argsort()
        held = (weight_N[order].cumsum(0) / weight_N.sum() <= 0.8).sum()
        print(
            f"{name} = Fit({offset:.2f}, {slope:.2f}, {float(gaps[order][held]) / 1.2816:.2f})  # {len(chosen)} tasks"
        )


def on_languages(args: argparse.Namespace) -> None:
    asked = Asked(load_teacher(args.teacher, torch.device("cpu")))
    feat_ND, label_N = photos_of(asked.teacher, args.data, SETS["PACS photo"], args.cache).parts["test"]

    def accuracy(texts: Sequence[str]) -> str:
        return f"{100 * float(((feat_ND @ asked.encode(texts).T).argmax(1) == label_N).float().mean()):.0f}"

    print("| names | read | told | top-1 | name, English | English alone |\n|---|---:|---|---:|---:|---:|")
    for title, text in NAMES.items():
        names = text.split(",")
        linter = asked.linter(names)
        told, _ = foresee_by_names(linter, linter.findings(), asked.teacher, Settings())
        mixed = [f"{spoken(name)}, {english}" for name, english in zip(names, PACS, strict=True)]
        cells = [f"{7 - len(linter.unread)} of 7", text_of(told.photos), *map(accuracy, (names, mixed, PACS))]
        print(f"| {title} | {' | '.join(cells)} |")
    lists = {title: photos_of(asked.teacher, args.data, form, args.cache).names for title, form in SETS.items()}
    lists |= {"CIFAR-100": CIFAR_100.split(","), "ImageNet": list(open_clip.IMAGENET_CLASSNAMES)}
    for title, names in lists.items():
        unread = [name for name in names if not is_english(name)]
        print(f"{title}: {len(unread)} of {len(names)} names called unreadable {unread}")


def on_runs(args: argparse.Namespace) -> None:
    """What was foretold of finished runs: the student's accuracy, and the seconds."""
    for run in args.runs:
        told = Foresight.from_json(read_json(run / "stages" / "calibration" / "calibration.json")["foresight"])
        found = read_json(run / "bundle" / "metrics.json")["evaluation"]
        if found is not None:
            shift = logit(found["student_top1"]) - logit(found["teacher_top1"])
            print(
                f"{run.name}: {told.text()}; measured {100 * found['student_top1']:.1f} %, teacher's logit {shift:+.2f}"
            )
        names = read_json(run / "task.json")["names"]
        took = {event["stage"]: event["seconds"] for event in read_events(run) if event.get("event") == "done"}
        cost = clipstill.plan(classes=names, config=run / "config.yaml").cost
        stages = {stage: seconds for stage, seconds in cost.stages.items() if stage != "start"}
        lines = [f"{stage} {seconds:.0f} ({took.get(stage, 0):.0f})" for stage, seconds in stages.items()]
        print(f"  predicted {sum(stages.values()):.0f} s, took {sum(took.values()):.0f} s: {', '.join(lines)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--cache", type=Path, default=Path("/tmp/clipstill-foresight"))
    parser.add_argument("--teacher", default="embedded-m")
    parser.add_argument("--student")
    parser.add_argument("--tasks", type=int, default=5, help="Random tasks of each set.")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--languages", action="store_true")
    parser.add_argument("--runs", nargs="+", default=[], type=Path)
    args = parser.parse_args()
    if args.runs:
        on_runs(args)
    elif args.student:
        on_student(args)
    elif args.languages:
        on_languages(args)
    else:
        on_photos(args)


if __name__ == "__main__":
    main()
