"""The Markdown of a bundle: model card and licence ledger."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import yaml

from clipstill.core.description import Description, ExportFacts
from clipstill.core.foresight import Foresight
from clipstill.core.protocols import Preprocess, Provenance
from clipstill.report.card import model_card
from clipstill.report.licences import (
    Family,
    family_of,
    licence_ledger,
    most_restrictive,
    spdx,
    spdx_of_all,
    verdict,
    warning,
)

TOWER = Provenance("image tower", "Apache-2.0", "a package", "ab" * 32)
WORDS = Provenance("word list", "MIT", "another package")


def card(
    student: str = "lite0", teacher: str = "embedded-m", software: tuple[Provenance, ...] = (), **changes: Any
) -> str:
    description = Description(
        labels=("dog", "elephant"),
        preprocess=Preprocess(160, (0.5,) * 3, (0.5,) * 3, 0.875),
        provenance=(TOWER,),
        evaluation={
            "n": 20, "classes": 2, "teacher_top1": 0.9, "student_top1": 0.75, "right_and_answered": 0.7,
            "chance": 0.5, "skipped": [],
            "student": {"top5": None, "ece": 0.1, "per_class": [0.7, 0.8]},
            "teacher": {"top5": None, "ece": 0.05, "per_class": [0.9, 0.9]},
        },
        info={"seed": 0, "student": student, "teacher": teacher},
    )  # fmt: skip
    facts = ExportFacts(
        onnx_bytes=13_600_000,
        student_bytes=13_500_000,
        parameters=3_380_000,
        latency_ms=11.8,
        parity={"max_difference": 4e-6, "top1_agreement": 1.0},
        software=software,
    )
    return model_card(dataclasses.replace(description, **changes), facts)


@pytest.mark.parametrize(
    ("licence", "family"),
    [
        ("Apache-2.0", Family.PERMISSIVE), ("Apache License 2.0", Family.PERMISSIVE), ("MIT", Family.PERMISSIVE),
        ("BSD-3-Clause", Family.PERMISSIVE), ("CC0-1.0", Family.PERMISSIVE), ("CC-BY-4.0", Family.PERMISSIVE),
        ("CC BY 4.0", Family.PERMISSIVE), ("public domain", Family.PERMISSIVE),
        ("CC-BY-SA-4.0", Family.SHARE_ALIKE), ("GPL-3.0-or-later", Family.SHARE_ALIKE),
        ("LGPL-2.1-only", Family.SHARE_ALIKE), ("AGPL-3.0", Family.SHARE_ALIKE), ("MPL-2.0", Family.SHARE_ALIKE),
        ("CreativeML OpenRAIL-M", Family.USE_RESTRICTED),
        ("CC-BY-NC-4.0", Family.NON_COMMERCIAL), ("CC-BY-NC-SA-4.0", Family.NON_COMMERCIAL),
        ("PolyForm-Noncommercial-1.0.0", Family.NON_COMMERCIAL),
        ("research only", Family.RESEARCH_ONLY), ("Apple-AMLR", Family.RESEARCH_ONLY),
        ("", Family.UNKNOWN), ("a licence of my own", Family.UNKNOWN), ("MITx", Family.UNKNOWN),
        ("MIT OR GPL-3.0", Family.PERMISSIVE), ("MIT AND CC-BY-SA-4.0", Family.SHARE_ALIKE),
        ("GPL-2.0 WITH Classpath-exception-2.0", Family.SHARE_ALIKE),
        ("MIT AND (Apache-2.0 OR CC-BY-NC-4.0)", Family.NON_COMMERCIAL),
    ],
)  # fmt: skip
def test_licence_belongs_to_its_family(licence: str, family: Family) -> None:
    assert family_of(licence) is family


def test_families_are_ordered_from_free_to_forbidden() -> None:
    order = ["MIT", "CC-BY-SA-4.0", "OpenRAIL-M", "CC-BY-NC-4.0", "research only", "?"]
    assert [family_of(licence) for licence in order] == sorted(Family)


def test_one_non_commercial_part_decides() -> None:
    parts = [TOWER, Provenance("drawings", "CC-BY-NC-4.0", "somewhere"), WORDS]
    family, which = most_restrictive(parts)
    assert (family, which) == (Family.NON_COMMERCIAL, [parts[1]])
    assert verdict(parts) == (
        "Most restrictive licence found: non-commercial, from CC-BY-NC-4.0 (drawings). No commercial use."
    )


def test_each_permissive_licence_is_named_once() -> None:
    licences = ("Apache-2.0", "Apache-2.0 AND CC-BY-3.0 AND MIT", "apache-2.0 and mit", "MIT OR GPL-3.0-only")
    parts = [Provenance(f"part {number}", licence, "x") for number, licence in enumerate(licences)]
    assert "from (MIT OR GPL-3.0-only), Apache-2.0, CC-BY-3.0, MIT. Any use" in verdict(parts)


def test_part_without_a_licence_is_worse_than_any_other() -> None:
    parts = [Provenance("drawings", "research only", "x"), Provenance("found weights", "", "y")]
    assert "unknown, from none (found weights)" in verdict(parts)


@pytest.mark.parametrize(
    ("licence", "expression"),
    [
        ("apache-2.0", "Apache-2.0"), ("Apache License, Version 2.0", "Apache-2.0"),
        ("mit and bsd-3-clause", "MIT AND BSD-3-Clause"),
        ("CC BY-NC 4.0", "CC-BY-NC-4.0"), ("CreativeML OpenRAIL-M", "LicenseRef-CreativeML-OpenRAIL-M"),
        ("Apache-2.0 AND WordNet-3.0", "Apache-2.0 AND LicenseRef-WordNet-3.0"),
        ("MIT AND (Apache-2.0 OR my own)", "MIT AND (Apache-2.0 OR LicenseRef-my-own)"),
        ("", "LicenseRef-unknown"), ("not stated", "LicenseRef-unknown"),
    ],
)  # fmt: skip
def test_licence_is_written_as_spdx_has_it(licence: str, expression: str) -> None:
    assert spdx(licence) == expression


def test_all_licences_together_are_a_valid_expression() -> None:
    from packaging.licenses import canonicalize_license_expression

    parts = [TOWER, WORDS, Provenance("c", "Apache-2.0 AND CC-BY-SA-4.0", "x"), Provenance("d", "MIT OR ISC", "y")]
    expression = spdx_of_all([*parts, Provenance("e", "research only", "z")])
    assert expression == "Apache-2.0 AND CC-BY-SA-4.0 AND LicenseRef-research-only AND MIT AND (MIT OR ISC)"
    assert canonicalize_license_expression(expression) == expression


@pytest.mark.parametrize(
    ("licence", "warned"),
    [("MIT", False), ("GPL-3.0", False), ("CC-BY-NC-4.0", True), ("research only", True), ("", True)],
)
def test_licence_that_forbids_products_is_warned_about(licence: str, warned: bool) -> None:
    assert (warning([TOWER, Provenance("x", licence, "y")]) is not None) is warned


def test_nothing_recorded_is_not_called_free() -> None:
    assert most_restrictive([])[0] is Family.UNKNOWN
    assert verdict([]) == "No weights are recorded, so no licence is known."


def test_ledger_lists_every_part_the_strictest_first() -> None:
    strict = Provenance("art | line", "CC-BY-SA-4.0", "clip art")
    lines = licence_ledger([TOWER, strict, WORDS]).splitlines()
    rows = [line for line in lines if line.startswith("| ") and ("package" in line or "clip art" in line)]
    assert rows[0].startswith("| art \\| line | CC-BY-SA-4.0 | CC-BY-SA-4.0 | share-alike / copyleft |")
    assert len(rows) == 3
    assert "ab" * 32 in rows[1]
    assert any("share-alike / copyleft" in line and "1, decides" in line for line in lines)


def test_card_tells_quality_size_licence_and_that_images_were_synthetic() -> None:
    text = card()
    for part in (
        "license: apache-2.0\n", "SYNTHETIC", "trainedAlgorithmicMedia",
        "| right and answered | 70.0 % | 90.0 % | 50.0 % |",
        "| top-1, with no photo refused | 75.0 % | 90.0 % | 50.0 % |",
        "Weak so far: right and answered 70.0 % (80 % interval 55.8 to 81.2 %), by 20 labelled photos; it takes 50 to "
        "be sure.",
        "| elephant | 80.0 % |", "13.6 MB", "11.8 ms", "short side to 183 px", "160 x 160", "4.0e-06",
        "Most restrictive licence found: permissive", "| seed | 0 |",
    ):  # fmt: skip
        assert part in text, part


@pytest.mark.parametrize(
    ("with_it", "without", "told"),
    [
        (0.045, 0.036, "the scores would be better without this temperature: calibration error 0.036, with it 0.045"),
        (0.036, 0.045, "this temperature makes the scores better: calibration error 0.036, without it 0.045"),
        (0.0361, 0.0362, "this temperature changes nothing: calibration error 0.036 with and without it"),
    ],
)
def test_card_says_whether_the_temperature_suits_the_measured_photos(with_it: float, without: float, told: str) -> None:
    evaluation = {
        "n": 140, "chance": 0.5, "student_top1": 0.9, "right_and_answered": 0.9,
        "student": {"ece": with_it, "ece_uncalibrated": without},
    }  # fmt: skip
    calibration = {
        "foresight": Foresight("names alone", reason="untold").to_json(),
        "temperature_fitted_on": "synthetic images",
    }
    text = card(evaluation=evaluation, calibration=calibration)
    assert f"fitted on synthetic images. On the 140 measured photos {told}." in text
    assert "measured photos this" not in card(evaluation=None, calibration=calibration)


def test_card_is_not_good_of_classes_without_a_photo() -> None:
    student = {"ece": 0.1, "classes": ["dog", "elephant"], "per_class": [1.0, None]}
    evaluation = {"n": 60, "chance": 0.5, "student_top1": 1.0, "right_and_answered": 1.0, "student": student}
    text = card(evaluation=evaluation)
    assert "Good so far: " in text
    assert "Measured on 60 labelled photos in 1 of the 2 classes (none of elephant);" in text


def test_card_without_measurement_says_so() -> None:
    text = card(evaluation=None)
    assert "Not measured" in text
    assert "top-1" not in text


def test_card_of_restricted_parts_names_no_free_licence_to_the_hub() -> None:
    text = card(provenance=(TOWER, Provenance("drawings", "CC-BY-NC-4.0", "x")))
    assert "license: other" in text
    assert "No commercial use." in text


def test_card_of_many_classes_stays_short_at_the_top() -> None:
    text = card(labels=tuple(f"class {index}" for index in range(101)), evaluation=None)
    assert "class 11 and 89 more" in text


def front_matter_of(text: str) -> dict[str, Any]:
    _, matter, _ = text.split("---\n", 2)
    return dict(yaml.safe_load(matter))


def test_front_matter_says_what_was_measured_as_hubs_read_it() -> None:
    matter = front_matter_of(card())
    assert matter["pipeline_tag"] == matter["model-index"][0]["results"][0]["task"]["type"] == "image-classification"
    result = matter["model-index"][0]["results"][0]
    assert [(each["name"], each["value"]) for each in result["metrics"]] == [
        ("top-1 accuracy", 0.75),
        ("expected calibration error", 0.1),
    ]
    assert result["dataset"]["name"] == "20 photos of its user, 2 classes"
    assert "model-index" not in front_matter_of(card(evaluation=None))


def test_class_names_cannot_break_the_front_matter() -> None:
    matter = front_matter_of(card(student="a: [b", teacher="c\n---\nd: e"))
    assert matter["model-index"][0]["name"] == "a: [b of c --- d: e"


def test_several_licences_are_named_beside_other() -> None:
    matter = front_matter_of(card(provenance=(TOWER, WORDS)))
    assert (matter["license"], matter["license_name"]) == ("other", "Apache-2.0 AND MIT")
    assert matter["license_link"] == "LICENCES.md"


def test_software_in_the_bundle_counts_in_ledger_and_card() -> None:
    runtime = Provenance("a runtime for browsers", "GPL-3.0-only", "a package", "cd" * 32)
    ledger = licence_ledger([TOWER], [runtime])
    assert "cd" * 32 in ledger.split("Files of other projects")[1]
    assert "Most restrictive licence found: share-alike" in ledger
    assert "Most restrictive licence found: share-alike" in card(software=(runtime,))


def test_card_warns_of_research_only_parts() -> None:
    assert "**Warning.** Most restrictive licence found: research-only" in card(
        provenance=(TOWER, Provenance("tower", "research only", "x"))
    )
    assert "**Warning.**" not in card()
