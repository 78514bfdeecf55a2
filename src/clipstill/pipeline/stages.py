"""What each stage makes. A stage reads what earlier ones stored, writes into its own folder, and commits it.

Shapes: N images, C classes, D teacher dimensions, H x W pixels.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from clipstill.core.errors import ArtifactError
from clipstill.core.files import commit_manifest, read_json, write_bytes, write_json, write_text
from clipstill.core.images import iterate
from clipstill.core.progress import Progress, say
from clipstill.pipeline.keys import (
    BUNDLE,
    CLASS_VECTORS,
    EVALUATION,
    PROMPTS,
    STUDENT,
    SURROGATE,
    styles_of,
    templates_of,
)
from clipstill.pipeline.run_folder import read_events
from clipstill.pipeline.workbench import (
    HISTORY_FILE,
    STUDENT_FILE,
    TEACHER_FILE,
    VECTORS_FILE,
    VECTORS_NAME,
    Workbench,
    as_json,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from clipstill.surrogate.records import ImageRecord
    from clipstill.synthesis.engine import SynthesisedGroup
    from clipstill.text.prompts import Prompt

Item = TypeVar("Item")

PROMPTS_FILE = "prompts.jsonl"
TARGETS_FILE = "targets.safetensors"
TARGETS_NAME = "targets"
RESULT_FILE = "evaluation.json"
GROUP_EVENT = "group"
# Texts are short; this many at once keep the text tower busy and its memory small.
_TEXTS_AT_ONCE = 256


def make_class_vectors(bench: Workbench, folder: Path) -> None:
    """Class names -> one unit vector a class, and what is to be known of the teacher."""
    from clipstill.teachers import class_vectors
    from clipstill.text.templates import class_texts

    start = time.monotonic()
    teacher = bench.teacher
    templates = templates_of(bench.config, teacher.templates)
    vectors_CD = class_vectors(teacher, class_texts(bench.task, templates))
    _write_tensors(folder / VECTORS_FILE, {VECTORS_NAME: vectors_CD})
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
        },
    )
    _commit(bench, CLASS_VECTORS, folder, [VECTORS_FILE, TEACHER_FILE], start)


def make_prompts(bench: Workbench, folder: Path) -> None:
    """Task and styles -> one prompt an image with its seed, and the teacher's vector of its text."""
    import torch

    from clipstill.text import prompt_strategies

    start = time.monotonic()
    section = bench.config.prompts
    strategy, _ = prompt_strategies.resolve(section.strategy)
    prompts: list[Prompt] = strategy(bench.task, styles_of(bench.config), section.images_per_class, bench.config.seed)
    texts = list(dict.fromkeys(prompt.text for prompt in prompts))
    vectors = [bench.teacher.encode_text(part).float().cpu() for part in _chunks(texts, _TEXTS_AT_ONCE)]
    write_text(folder / PROMPTS_FILE, "".join(json.dumps(asdict(p), ensure_ascii=False) + "\n" for p in prompts))
    _write_tensors(folder / TARGETS_FILE, {TARGETS_NAME: torch.cat(vectors)})
    _commit(bench, PROMPTS, folder, [PROMPTS_FILE, TARGETS_FILE], start)


def read_prompts(folder: Path) -> tuple[list[Prompt], Tensor]:
    """The prompts of the stage and targets_ND, one row a prompt.

    Raises:
        ArtifactError: the files are malformed.
    """
    import torch
    from safetensors.torch import load_file

    from clipstill.text.prompts import Prompt

    try:
        lines = (folder / PROMPTS_FILE).read_text(encoding="utf-8").splitlines()
        prompts = [Prompt(**json.loads(line)) for line in lines]
    except (OSError, TypeError, json.JSONDecodeError) as error:
        raise ArtifactError(
            f"{folder / PROMPTS_FILE} cannot be read ({error}). Delete {folder} and run again."
        ) from None
    row = {text: number for number, text in enumerate(dict.fromkeys(prompt.text for prompt in prompts))}
    targets = load_file(folder / TARGETS_FILE)[TARGETS_NAME]
    return prompts, targets[torch.tensor([row[prompt.text] for prompt in prompts])]


def make_surrogate(bench: Workbench, folder: Path) -> None:
    """Prompts -> synthetic images, group by group; groups that are committed are never made again."""
    from clipstill.surrogate.shards import ShardWriter
    from clipstill.synthesis.engine import Synthesiser, group_ranges

    settings = bench.config.synthesis.settings()
    synthesiser = Synthesiser(bench.teacher, bench.generators, bench.class_vectors_CD, settings, bench.device)
    prompts, targets_ND = read_prompts(bench.run.stage(PROMPTS))
    writer = ShardWriter(folder, bench.keys[SURROGATE])
    done = writer.committed()
    groups = group_ranges(len(prompts), settings.group_size, len(bench.generators))
    ready = sum(len(group) for number, group in enumerate(groups) if number in done)
    if ready:
        say(f"surrogate: {ready} of {len(prompts)} images are there already, going on")
    with Progress("synthesis", total=len(prompts), unit="img", done=ready) as bar:
        for number, group in enumerate(groups):
            if number in done:
                continue
            start = time.monotonic()
            members = [prompts[i] for i in group]
            made = synthesiser.group(
                [prompt.seed for prompt in members],
                [prompt.class_id for prompt in members],
                targets_ND[group[0] : group[-1] + 1],
                number,
            )
            records = _records(members, made, settings.image_size)
            writer.write_group(number, made.images_NHW3, records)
            bench.run.event(
                GROUP_EVENT,
                stage=SURROGATE,
                key=bench.keys[SURROGATE],
                group=number,
                images=len(records),
                generator=made.generator,
                seconds=round(time.monotonic() - start, 3),
                history=made.history,
            )
            bar.advance(len(group), loss=sum(made.losses) / len(made.losses))
    writer.finish({"seconds": round(sum(_group_seconds(bench)), 3), "provenance": as_json(synthesiser.provenance)})


def _records(prompts: Sequence[Prompt], made: SynthesisedGroup, image_size: int) -> list[ImageRecord]:
    """What is known of each image of a group."""
    from clipstill.surrogate.records import ImageRecord

    return [
        ImageRecord(
            class_id=prompt.class_id,
            style_id=prompt.style_id,
            index=prompt.index,
            seed=prompt.seed,
            prompt=prompt.text,
            loss=loss,
            score=score,
            image_size=image_size,
        )
        for prompt, loss, score in zip(prompts, made.losses, made.scores, strict=True)
    ]


def _group_seconds(bench: Workbench) -> Iterable[float]:
    """Seconds of each group, the last time it was made, over all processes that worked on the set."""
    return {event["group"]: float(event["seconds"]) for event in group_events(bench)}.values()


def group_events(bench: Workbench) -> list[dict[str, Any]]:
    """What the story says of the groups of this surrogate set."""
    return [
        event
        for event in read_events(bench.run.path)
        if event.get("event") == GROUP_EVENT and event.get("key") == bench.keys[SURROGATE]
    ]


def make_student(bench: Workbench, folder: Path) -> None:
    """Synthetic images -> a trained student."""
    from clipstill.distillation.trainer import distil
    from clipstill.students import load_student
    from clipstill.surrogate.curation import keep_mask
    from clipstill.surrogate.dataset import SurrogateSet

    start = time.monotonic()
    config = bench.config
    work = folder / "work"
    made = SurrogateSet.open(bench.run.stage(SURROGATE))
    chosen = made.keep(keep_mask(made, config.curation.min_score))
    say(f"student: {len(chosen)} of {len(made)} synthetic images teach")
    student = load_student(
        config.student.name, len(bench.task.names), config.student.init, config.student.image_size, config.seed
    )
    result = distil(
        student,
        bench.teacher,
        bench.class_vectors_CD.to(bench.device),
        chosen.images,
        chosen.class_id,
        chosen.style_id,
        config.distillation.settings(config.seed),
        work,
        bench.device,
    )
    _write_tensors(folder / STUDENT_FILE, student.state_dict())
    write_json(
        folder / HISTORY_FILE,
        {
            "history": result.history,
            "best_phase": result.best_phase,
            "best_step": result.best_step,
            "best_agreement": result.best_agreement,
            "train_count": result.train_count,
            "held_out_count": result.held_out_count,
            "images": len(chosen),
            "images_made": len(made),
            "provenance": as_json(student.provenance),
        },
    )
    _commit(bench, STUDENT, folder, [STUDENT_FILE, HISTORY_FILE], start)
    # Checkpoints and cached features served to go on after a kill; the student is safe now.
    shutil.rmtree(work, ignore_errors=True)


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
    )
    bench.student.cpu()  # Where the export expects it.
    write_json(folder / RESULT_FILE, result)
    _commit(bench, EVALUATION, folder, [RESULT_FILE], start)


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
    from clipstill.export.bundle import BundleContent, ExportFacts, write_bundle
    from clipstill.report.card import CardData, model_card
    from clipstill.report.licences import licence_ledger

    provenance = bench.provenance()
    evaluation = read_evaluation(bench)

    def texts(facts: ExportFacts) -> dict[str, str]:
        card = CardData(
            labels=bench.task.names,
            teacher=bench.config.teacher.name,
            student=bench.config.student.name,
            preprocess=bench.student.preprocess,
            provenance=provenance,
            evaluation=evaluation,
            parameters=facts.parameters,
            onnx_bytes=facts.onnx_bytes,
            latency_ms=facts.latency_ms,
            parity_difference=facts.parity.max_difference,
            parity_agreement=facts.parity.top1_agreement,
            run=bench.facts(),
        )
        return {"card.md": model_card(card), "LICENCES.md": licence_ledger(provenance)}

    content = BundleContent(
        student=bench.student,
        labels=bench.task.names,
        class_vectors_CD=bench.class_vectors_CD,
        preprocess=bench.student.preprocess,
        provenance=provenance,
        evaluation=evaluation,
        parity_images_NHW3=_first_photos(bench),
        info=bench.facts(),
    )
    write_bundle(folder, content, texts, bench.keys[BUNDLE], bench.config.export.tolerance)


def read_evaluation(bench: Workbench) -> dict[str, Any] | None:
    """What was measured on the photos of this run, or None where it has none."""
    if bench.photos is None:
        return None
    return dict(read_json(bench.run.stage(EVALUATION) / RESULT_FILE))


def _commit(bench: Workbench, stage: str, folder: Path, files: list[str], start: float) -> None:
    commit_manifest(folder, bench.keys[stage], files, {"seconds": round(time.monotonic() - start, 3)})


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save

    # Cloned, because safetensors refuses tensors that share memory or lie channels-last.
    write_bytes(path, save({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}))


def _chunks(items: Sequence[Item], size: int) -> Iterable[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
