"""What each stage makes. A stage reads what earlier ones stored, writes into its own folder, and commits it.

Shapes: N images, C classes, D teacher dimensions, H x W pixels.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.errors import ArtifactError, ConfigError
from clipstill.core.files import read_json, write_json, write_text
from clipstill.core.images import ImageFolder, iterate
from clipstill.core.progress import Progress, say
from clipstill.distributed import launch
from clipstill.text.task import Task
from clipstill.workflow.cohorts import Cohort, Taught, kind_of, stage_of
from clipstill.workflow.keys import (
    BUNDLE,
    CLASS_VECTORS,
    EVALUATION,
    PROMPTS,
    STUDENT,
    SURROGATE,
    TEACHER_PROMPTS,
    styles_of,
    templates_of,
)
from clipstill.workflow.workbench import (
    HISTORY_FILE,
    STUDENT_FILE,
    STYLES_FILE,
    TEACHER_FILE,
    TEACHER_PROMPTS_FILE,
    TEXT_VECTORS_NAME,
    VECTORS_FILE,
    VECTORS_NAME,
    Workbench,
    as_json,
    commit,
    read_style_names,
    write_tensors,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from clipstill.assembly.training import Lesson
    from clipstill.distributed.synthesis_work import SynthesisWork, Worker
    from clipstill.surrogate.shards import ShardWriter
    from clipstill.text.prompts import Prompt, PromptRequest, PromptSet

PROMPTS_FILE = "prompts.jsonl"
TARGETS_FILE = "targets.safetensors"
TARGETS_NAME = "targets"
DIVERSITY_FILE = "diversity.json"
RESULT_FILE = "evaluation.json"
PREVIEW_FILE = "preview.png"
CURATION_FILE = "curation.json"
KEPT_FILE = "kept.json"
WORK_FOLDER = "work"


def make_teacher_prompts(bench: Workbench, folder: Path) -> None:
    """Examples, or prompts that were learned before -> prompts by which the teacher tells the classes apart."""
    from clipstill.assembly.prompt_learning import given_prompts, learn_prompts
    from clipstill.teachers.prompted import save_prompts

    start = time.monotonic()
    section, work = bench.config.prompt_teacher, folder / WORK_FOLDER
    if section.weights is not None:
        teacher, told = given_prompts(bench.plain_teacher, section.weights)
    else:
        assert bench.examples is not None
        teacher, told = learn_prompts(
            bench.plain_teacher, section, bench.examples, bench.config.seed, work, bench.device
        )
    save_prompts(teacher, folder / TEACHER_PROMPTS_FILE)
    write_json(folder / HISTORY_FILE, told)
    commit(bench, TEACHER_PROMPTS, folder, [TEACHER_PROMPTS_FILE, HISTORY_FILE], start)
    shutil.rmtree(work, ignore_errors=True)


def make_class_vectors(bench: Workbench, folder: Path) -> None:
    """Class names -> one unit vector a class, and what is to be known of the teacher."""
    from clipstill.core.protocols import PromptedTeacher
    from clipstill.teachers import class_vectors
    from clipstill.text.templates import class_texts

    start = time.monotonic()
    teacher = bench.teacher
    templates = templates_of(bench.config, teacher.templates)
    text_CD = class_vectors(teacher, class_texts(bench.task, templates)).cpu()
    tensors = {VECTORS_NAME: text_CD, TEXT_VECTORS_NAME: text_CD}
    told: dict[str, Any] = {}
    if isinstance(teacher, PromptedTeacher):
        # After its prompts are loaded, once: they are what the student is taught by, and what it ships with.
        tensors[VECTORS_NAME] = teacher.class_vectors(bench.task.names).detach().cpu()
    elif bench.examples is not None:
        tensors, told = _with_examples(bench, bench.examples, text_CD)
    write_tensors(folder / VECTORS_FILE, tensors)
    write_json(
        folder / TEACHER_FILE,
        {
            "name": teacher.name,
            "image_size": teacher.image_size,
            "dim": teacher.dim,
            "logit_scale": teacher.logit_scale,
            "templates": templates,
            "image_parameters": teacher.image_parameters,
            "weights_sha256": teacher.weights_sha256,
            "preprocess": asdict(teacher.preprocess),
            "provenance": as_json(teacher.provenance),
            **told,
        },
    )
    commit(bench, CLASS_VECTORS, folder, [VECTORS_FILE, TEACHER_FILE], start)


def _with_examples(bench: Workbench, folder: ImageFolder, text_CD: Tensor) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Vectors of classes with example images, and how many examples each class has."""
    from clipstill.assembly.zero_shot import encoded
    from clipstill.teachers.prototypes import class_vectors_with_examples, prototypes

    feat_ND, labels = encoded(bench.teacher, folder, bench.device, bench.config.evaluation.batch)
    found = prototypes(feat_ND, labels, text_CD)
    count = {name: int(number) for name, number in zip(bench.task.names, found.count_C, strict=True)}
    without = [name for name, number in count.items() if number == 0]
    say(
        f"class vectors: {len(labels)} examples of {len(count) - len(without)} classes"
        + (f"; by text alone: {', '.join(without[:8])}{' and more' if len(without) > 8 else ''}" if without else "")
    )
    tensors = {
        VECTORS_NAME: class_vectors_with_examples(text_CD, found, bench.config.examples.text_count),
        TEXT_VECTORS_NAME: text_CD,
        "prototypes": found.prototypes_CD,
        "counts": found.count_C,
        "shift": found.shift_D,
    }
    return tensors, {"examples": count}


def make_prompts(bench: Workbench, folder: Path, cohort: Cohort | None = None) -> None:
    """Task and styles -> one prompt an image with its seed, and its vector in the teacher's space.

    Args:
        bench: of the run.
        folder: of the stage.
        cohort: whose prompts; None for that of a plain run.
    """
    from clipstill.text import prompt_strategies
    from clipstill.text.bank import read_bank
    from clipstill.text.diversity import diversity

    start = time.monotonic()
    section = bench.config.prompts
    strategy, _ = prompt_strategies.resolve(section.strategy)
    bank = None if section.bank is None else read_bank(section.bank)
    cohort = cohort or bench.cohort_of(PROMPTS)
    made: PromptSet = strategy(replace(_request_of(bench, cohort), bank=bank))
    made = replace(made, prompts=[replace(one, class_id=cohort.drawn_ids[one.class_id]) for one in made.prompts])
    class_ids, style_ids = [one.class_id for one in made.prompts], [one.style_id for one in made.prompts]
    measured = diversity(made.targets_ND, class_ids, style_ids, bench.text_vectors_CD)
    say(f"prompts: {len(made.prompts)} by '{section.strategy}', {measured.line()}")
    lines = [json.dumps(asdict(prompt), ensure_ascii=False) + "\n" for prompt in made.prompts]
    write_text(folder / PROMPTS_FILE, "".join(lines))
    write_tensors(folder / TARGETS_FILE, {TARGETS_NAME: bench.towards_examples(made.targets_ND, class_ids)})
    write_json(folder / DIVERSITY_FILE, {"strategy": section.strategy, "classes": cohort.drawn, **asdict(measured)})
    write_json(folder / STYLES_FILE, made.style_names)
    files = [PROMPTS_FILE, TARGETS_FILE, DIVERSITY_FILE, STYLES_FILE]
    if made.bank is not None:
        files += made.bank.write(folder)
    commit(bench, stage_of(PROMPTS, cohort), folder, files, start)


def _request_of(bench: Workbench, cohort: Cohort) -> PromptRequest:
    """What prompts of a cohort are made from: its classes, with the vectors of the others behind theirs."""
    whole = prompt_request(bench)
    if cohort.is_whole:
        return whole
    ids = cohort.drawn_ids
    order = [*ids, *(place for place in range(len(cohort.task.names)) if place not in ids)]
    drawn = Task(cohort.drawn, tuple(cohort.task.descriptions[place] for place in ids))
    return replace(whole, task=drawn, class_vectors_CD=whole.class_vectors_CD[order])


def prompt_request(bench: Workbench) -> PromptRequest:
    """What prompts of this run are made from, but for a bank."""
    from clipstill.text.prompts import PromptRequest

    section = bench.config.prompts
    return PromptRequest(
        task=bench.task,
        styles=styles_of(bench.config),
        per_class=section.images_per_class,
        seed=bench.config.seed,
        teacher=bench.plain_teacher,
        class_vectors_CD=bench.text_vectors_CD,
        settings=section,
    )


def read_prompts(folder: Path) -> tuple[list[Prompt], Tensor]:
    """The prompts of the stage and targets_ND, one row a prompt.

    Raises:
        ArtifactError: the files are malformed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from clipstill.text.prompts import Prompt

    try:
        lines = (folder / PROMPTS_FILE).read_text(encoding="utf-8").splitlines()
        prompts = [Prompt(**json.loads(line)) for line in lines]
        targets_ND = load_file(folder / TARGETS_FILE)[TARGETS_NAME]
    except (OSError, TypeError, KeyError, SafetensorError, json.JSONDecodeError) as error:
        raise ArtifactError(f"the prompts in {folder} cannot be read ({error}). Delete it and run again.") from None
    if len(prompts) != len(targets_ND):
        raise ArtifactError(
            f"{folder} holds {len(prompts)} prompts and {len(targets_ND)} vectors. Delete it and run again."
        )
    return prompts, targets_ND


def make_surrogate(bench: Workbench, folder: Path, cohort: Cohort | None = None) -> None:
    """Prompts -> synthetic images, group by group; groups that are committed are never made again.

    Args:
        bench: of the run.
        folder: of the stage.
        cohort: whose images; None for that of a plain run.
    """
    import torch

    from clipstill.distributed.synthesis_work import Worker
    from clipstill.surrogate.dataset import SurrogateSet
    from clipstill.surrogate.preview import MOST_IMAGES, write_grid
    from clipstill.surrogate.shards import ShardWriter

    cohort = cohort or bench.cohort_of(SURROGATE)
    work = synthesis_work(bench, cohort)
    worker = Worker(work, bench.plain_teacher, bench.generators, bench.device)
    shards = ShardWriter(folder, work.key)
    groups = work.groups
    # Further images of an earlier start are counted below.
    done = shards.committed() & set(range(len(groups)))
    missing = [number for number in range(len(groups)) if number not in done]
    ready = sum(len(groups[number]) for number in done)
    if ready:
        say(f"surrogate: {ready} of {len(work.prompts)} images are there already, going on")
    with Progress("synthesis", total=len(work.prompts), unit="img", done=ready) as bar:

        def on_done(number: int, loss: float | None) -> None:
            bar.advance(len(groups[number]), **({} if loss is None else {"loss": loss}))

        if bench.config.launch.launcher == "ray" and launch.world() == 1:
            launch.make_by_ray(work, missing, shards, bench.config.launch, bench.run.threads, on_done)
        else:
            launch.offer(launch.Offer(stage_of(SURROGATE, cohort), work.key, missing, bench.run.threads))
            own = launch.share(missing)
            make_groups(worker, own, shards, on_done, bench.run.path / PREVIEW_FILE)
            launch.wait_for_groups(shards, [number for number in missing if number not in own], on_done)
    _diversify(bench, cohort, work, shards)
    facts = shards.facts()
    dropped, restarts = (sum(int(told[name]) for told in facts) for name in ("dropped", "restarts"))
    if dropped or restarts:
        say(f"surrogate: {restarts} times an image began again, {dropped} images could not be made")
    seconds = round(sum(float(told["seconds"]) for told in facts), 3)
    info = {"seconds": seconds, "dropped": dropped, "restarts": restarts, "provenance": as_json(worker.provenance)}
    shards.finish(info, [CURATION_FILE])
    # What was at work last gives way to what came out.
    made = SurrogateSet.open(folder)
    # Only these are decoded: the whole set may take gigabytes.
    shown = made.keep(torch.arange(len(made)) < MOST_IMAGES)
    write_grid(bench.run.path / PREVIEW_FILE, shown.pixels_N3HW.permute(0, 2, 3, 1).numpy())


def _diversify(bench: Workbench, cohort: Cohort, work: SynthesisWork, shards: ShardWriter) -> None:
    """Measure what was made, make further images of look-alikes, and write down what came out, class by class."""
    from clipstill.stages.curation import curation_facts, curation_line, extended

    made = shards.read(len(work.groups))
    style_names = read_style_names(bench.run.stage(stage_of(PROMPTS, cohort)))
    # A class or two have no middle of their own to be seen from, and no median: the earlier cohorts lend theirs.
    beside = None if cohort.is_whole else bench.made_images(before=cohort)
    asked = extended(
        work, made, bench.config.curation, prompt_request(bench), style_names, bench.towards_examples, beside
    )
    if asked.work.further:
        _make_further(bench, asked.work, shards)
        made = shards.read(len(asked.work.groups))
    facts = curation_facts(made, asked, bench.task.names, beside)
    say(f"surrogate: {curation_line(facts)}")
    write_json(shards.folder / CURATION_FILE, facts)


def _make_further(bench: Workbench, work: SynthesisWork, shards: ShardWriter) -> None:
    """Make the further images of classes whose first ones look alike."""
    further = [number for number, group in enumerate(work.groups) if group.stop > len(work.prompts) - work.further]
    make_alone(bench, work, shards, further, "further images", bench.run.path / PREVIEW_FILE)


def make_alone(
    bench: Workbench, work: SynthesisWork, shards: ShardWriter, numbers: Sequence[int], title: str, preview: Path | None
) -> None:
    """Make what is missing of some groups: few, so this process makes them by itself."""
    from clipstill.distributed.synthesis_work import Worker

    groups, done = work.groups, shards.committed()
    missing = [number for number in numbers if number not in done]
    ready = sum(len(groups[number]) for number in numbers if number in done)
    with Progress(title, total=sum(len(groups[number]) for number in numbers), unit="img", done=ready) as bar:

        def on_done(number: int, loss: float) -> None:
            bar.advance(len(groups[number]), loss=loss)

        if missing:
            worker = Worker(work, bench.plain_teacher, bench.generators, bench.device)
            make_groups(worker, missing, shards, on_done, preview)


def make_groups(
    worker: Worker,
    groups: Sequence[int],
    shards: ShardWriter,
    on_done: Callable[[int, float], None],
    preview: Path | None,
) -> None:
    """Make groups in this process, and write each one while the next is at work."""
    from clipstill.surrogate.background import BackgroundWriter
    from clipstill.surrogate.preview import Preview

    with BackgroundWriter() as writer:
        watch = None if preview is None else Preview(preview, writer.submit)
        for number in groups:
            made = worker.make(number, watch)
            facts = {**made.facts, "worker": launch.worker_name()}
            writer.submit(shards.write_group, number, made.pixels_NHW3, made.records, facts, made.features_ND)
            on_done(number, made.loss)


def synthesis_work(bench: Workbench, cohort: Cohort) -> SynthesisWork:
    """What the stages before left for the synthesis of a cohort."""
    from clipstill.distributed.synthesis_work import SynthesisWork

    prompts, targets_ND = read_prompts(bench.run.stage(stage_of(PROMPTS, cohort)))
    return SynthesisWork(
        bench.keys[stage_of(SURROGATE, cohort)], bench.config, prompts, targets_ND, bench.drawn_vectors_CD
    )


def assist(bench: Workbench, offer: launch.Offer) -> None:
    """What a rank of torchrun other than the first does: its share of a stage, in the run folder of the first.

    Args:
        bench: of this rank; its folder is not held by it.
        offer: of the first rank.

    Raises:
        ConfigError: this rank would make something else than the first.
        ResourceError: this machine does not see the run folder of the first rank.
    """
    from clipstill.core.device import make_deterministic

    keys = bench.keys
    if offer.key != keys[offer.stage]:
        raise ConfigError(
            f"rank {launch.rank()} would make another {offer.stage} than the first rank: settings, class names or "
            f"weights differ. Give all ranks the same command, version and files."
        )
    for stage in list(keys)[: list(keys).index(offer.stage)]:
        launch.wait_for_manifest(bench.run.stage(stage), keys[stage])
    make_deterministic(offer.threads)
    if kind_of(offer.stage) == SURROGATE:
        _assist_synthesis(bench, offer)
    else:
        from clipstill.assembly.training import teach

        work = bench.run.stage(STUDENT) / WORK_FOLDER
        lesson = bench.lesson(with_examples=True)
        teach(bench.config, lesson, bench.teacher, bench.class_vectors_CD, work, bench.device)


def _assist_synthesis(bench: Workbench, offer: launch.Offer) -> None:
    from clipstill.distributed.synthesis_work import Worker
    from clipstill.surrogate.shards import ShardWriter

    own = launch.share(offer.groups)
    if own:
        worker = Worker.load(synthesis_work(bench, bench.cohort_of(offer.stage)), bench.device)
        make_groups(worker, own, ShardWriter(bench.run.stage(offer.stage), offer.key), lambda number, loss: None, None)


def synthesis_histories(bench: Workbench) -> list[list[dict[str, float]]]:
    """How the losses of each group went."""
    from clipstill.surrogate.shards import ShardWriter

    stages = [stage_of(SURROGATE, part.cohort) for part in bench.image_parts]
    writers = [ShardWriter(bench.run.stage(stage), bench.keys[stage]) for stage in stages]
    return [told["history"] for writer in writers for told in writer.facts()]


def make_student(bench: Workbench, folder: Path) -> None:
    """Synthetic images -> a trained student."""
    from clipstill.assembly.training import shares_teaching, teach
    from clipstill.stages.curation import kept_facts

    if bench.growth is not None and bench.growth.taught is not None:
        _with_other_vectors(bench, folder, bench.growth.taught)
        return
    start = time.monotonic()
    config = bench.config
    work = folder / WORK_FOLDER
    lesson = bench.lesson(with_examples=True)
    if bench.examples is not None and bench.examples.classes_without_images and config.examples.teach_share > 0:
        say("student: the examples themselves do not teach, since some classes have none and would look like no photo")
    made, curation, teaching = lesson.made, lesson.curation, lesson.teaching
    kept = 0 if curation is None else int(curation.keep_N.sum())
    say(f"student: {_told(lesson)}")
    if shares_teaching(config):
        launch.offer(launch.Offer(STUDENT, bench.keys[STUDENT], [], bench.run.threads))
    student, result = teach(config, lesson, bench.teacher, bench.class_vectors_CD, work, bench.device, bench.watch)
    write_tensors(folder / STUDENT_FILE, student.state_dict())
    write_json(
        folder / HISTORY_FILE,
        {
            "history": result.history,
            "best_phase": result.best_phase,
            "best_step": result.best_step,
            "best_agreement": result.best_agreement,
            "train_count": result.train_count,
            "held_out_count": result.held_out_count,
            "images": kept,
            "images_made": 0 if made is None else len(made),
            "examples": teaching.examples,
            "unlabelled": teaching.unlabelled,
            "provenance": as_json(student.provenance),
        },
    )
    files = [STUDENT_FILE, HISTORY_FILE]
    if made is not None and curation is not None:
        write_json(folder / KEPT_FILE, kept_facts(made, curation, len(bench.task.names)))
        files.append(KEPT_FILE)
    commit(bench, STUDENT, folder, files, start)
    # Checkpoints and cached features served to go on after a kill; the student is safe now.
    shutil.rmtree(work, ignore_errors=True)


def _with_other_vectors(bench: Workbench, folder: Path, taught: Taught) -> None:
    """A student that was taught before, telling the present classes apart by their vectors."""
    from clipstill.assembly.students import new_student

    start = time.monotonic()
    source = bench.run.kept(STUDENT, taught.key)
    before = taught.task.names
    added = [name for name in bench.task.names if name not in before]
    say(
        "student: the present classes get their vectors, and nothing is taught"
        + (f"; new to it: {', '.join(added[:8])}{' and more' if len(added) > 8 else ''}" if added else "")
    )
    student = new_student(bench.config.student, len(before), source / STUDENT_FILE, bench.config.seed).eval()
    scale = read_json(bench.run.stage(CLASS_VECTORS) / TEACHER_FILE)["logit_scale"]
    student.use_class_vectors(bench.class_vectors_CD, scale)
    write_tensors(folder / STUDENT_FILE, student.state_dict())
    write_json(folder / HISTORY_FILE, {**read_json(source / HISTORY_FILE), "by_vector": added})
    files = [STUDENT_FILE, HISTORY_FILE]
    if (source / KEPT_FILE).is_file():
        kept = dict(zip(before, read_json(source / KEPT_FILE), strict=True))
        nothing = {"kept": 0, "low_score": 0, "duplicates": 0, "duplicate_pairs": 0}
        write_json(folder / KEPT_FILE, [kept.get(name, nothing) for name in bench.task.names])
        files.append(KEPT_FILE)
    commit(bench, STUDENT, folder, files, start)


def _told(lesson: Lesson) -> str:
    """What teaches, in a line."""
    made, curation, teaching = lesson.made, lesson.curation, lesson.teaching
    parts = []
    if made is not None and curation is not None:
        low, same, kept = (int(each.sum()) for each in (curation.low_score_N, curation.duplicate_N, curation.keep_N))
        left_out = f" (left out: {low} with a low score, {same} near-duplicates)" if low or same else ""
        parts.append(f"{kept} of {len(made)} synthetic images{left_out}")
    if teaching.unlabelled:
        parts.append(f"{teaching.unlabelled} unlabelled photos")
    if teaching.examples:
        parts.append(f"{teaching.examples} examples {teaching.repeats} times over")
    return " and ".join(parts) + " teach"


def make_evaluation(bench: Workbench, folder: Path) -> None:
    """Real photos -> how teacher and student do on them."""
    from clipstill.evaluation.evaluate import compare

    start = time.monotonic()
    assert bench.photos is not None
    result = compare(
        bench.teacher,
        bench.class_vectors_CD,
        bench.student,
        bench.photos,
        bench.device,
        bench.config.evaluation.batch,
        bench.calibration["temperature"],
        bench.refusal_threshold,
    )
    bench.student.cpu()  # Where the export expects it.
    write_json(folder / RESULT_FILE, result)
    commit(bench, EVALUATION, folder, [RESULT_FILE], start)


def _first_photos(bench: Workbench) -> np.ndarray | None:
    """One batch of the run's photos as the student sees them, or None where it has none."""
    if bench.photos is None:
        return None
    preprocess = bench.student.preprocess
    # The evaluation told of files that cannot be read.
    batches = iterate(
        bench.photos,
        preprocess.size,
        preprocess.crop_fraction,
        bench.config.evaluation.batch,
        lambda path, reason: None,
    )
    return next((images_NHW3 for images_NHW3, _, _ in batches), None)


def make_bundle(bench: Workbench, folder: Path) -> None:
    """Trained student -> the folder that is shipped."""
    from clipstill.commands.export import pictures_of_run
    from clipstill.export.bundle import BundleContent, ExportFacts, write_bundle
    from clipstill.report.card import CardData, model_card
    from clipstill.report.licences import licence_ledger
    from clipstill.stages.origin import origin_of

    provenance = bench.provenance()
    evaluation = read_evaluation(bench)
    origin = origin_of(bench)

    def texts(facts: ExportFacts) -> dict[str, str]:
        card = CardData(
            labels=bench.task.names,
            teacher=bench.config.teacher.name,
            student=bench.config.student.name,
            preprocess=bench.student.preprocess,
            provenance=provenance,
            evaluation=evaluation,
            **facts.on_card(),
            examples=0 if bench.examples is None else len(bench.examples.items),
            unlabelled=0 if bench.unlabelled is None else len(bench.unlabelled.items),
            calibration=bench.calibration,
            refuses=bench.refusal_threshold is not None,
            origin=origin,
            run=bench.facts(),
        )
        return {"card.md": model_card(card), "LICENCES.md": licence_ledger(provenance, facts.software)}

    content = BundleContent(
        student=bench.student,
        labels=bench.task.names,
        class_vectors_CD=bench.class_vectors_CD,
        preprocess=bench.student.preprocess,
        provenance=provenance,
        evaluation=evaluation,
        formats=bench.config.export.formats,
        pictures=pictures_of_run(bench),
        limits=bench.config.export,
        parity_images_NHW3=_first_photos(bench),
        temperature=bench.calibration["temperature"],
        refusal_threshold=bench.refusal_threshold,
        teacher_prompts=bench.run.stage(TEACHER_PROMPTS) / TEACHER_PROMPTS_FILE if bench.config.has_prompts else None,
        page=bench.config.export.page,
        info={**bench.facts(), "origin": origin},
    )
    write_bundle(folder, content, texts, bench.keys[BUNDLE])


def read_evaluation(bench: Workbench) -> dict[str, Any] | None:
    """What was measured on the photos of this run, or None where it has none."""
    if bench.photos is None:
        return None
    return dict(read_json(bench.run.stage(EVALUATION) / RESULT_FILE))
