"""Lists of classes as people have them: read as what they are, or refused with the form expected."""

from __future__ import annotations

import json
import os
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipstill
from clipstill.text.task import parse_task
from input_tables import refused, table, unchanged

BOTH = ("dog", "cat")


class Pets(str, Enum):  # noqa: UP042 - its members print otherwise
    """Class names as code holds them."""

    DOG = "dog"
    CAT = "cat"


URL = "https://example.org/zoo.zip"
CLASS_LABEL = '{"names": ["dog", "cat"], "_type": "ClassLabel"}'
XML_BOMB = '<!DOCTYPE v [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]>'
YAML_BOMB = "a: &a [x, x]\nb: &b [*a, *a]\n"
PAGE = "<!DOCTYPE html>\n<html><body>404</body></html>\n"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"

PARTS = "no sub-folders that are named after classes"


def features(**labels: list[str]) -> str:
    """A description of a data set as Hugging Face writes it; each list is the names of a feature."""
    named = {name: {"num_classes": len(given), "names": given, "_type": "ClassLabel"} for name, given in labels.items()}
    return json.dumps({"features": {"image": {"_type": "Image"}, **named}, "splits": {"train": {"name": "train"}}})


def view(*tags: str) -> str:
    """A labelling configuration of Label Studio."""
    return f"<View>{''.join(tags)}</View>"


def choices(name: str, *values: str) -> str:
    """One question of a labelling configuration."""
    return f'<Choices name="{name}">{"".join(f"<Choice value={value!r}/>" for value in values)}</Choices>'


# A pair is a file's name and its content, or a folder's name and its sub-folders. A tuple of names is expected to be
# read; a text is part of the one line.
LISTS: dict[str, tuple[Any, tuple[str, ...] | str]] = {
    # An argument.
    "commas": ("dog,cat", BOTH),
    "spaces around names": (" dog ,sea   horse, Cat", ("dog", "sea horse", "Cat")),
    "semicolons": ("dog; cat", BOTH),
    "lines": ("dog\ncat\n", BOTH),
    "lines of windows": ("dog\r\ncat\r\n", BOTH),
    "JSON": ('["dog", "cat"]', BOTH),
    "YAML": ("[dog, cat]", BOTH),
    "braces": ("{dog, cat}", BOTH),
    "a Python tuple": ("(dog,cat)", BOTH),
    "numbers and colons": ("0: dog, 1: cat", BOTH),
    "numbers and dots": ("1. dog, 2. cat", BOTH),
    "ratios": ("16:9,4:3", ("16:9", "4:3")),
    "words that YAML turns": ("no,yes", ("no", "yes")),
    "names of nothing": ("None,null", ("None", "null")),
    "numbers alone": ("1,2,3", ("1", "2", "3")),
    "programming languages": ("C++,C#", ("C++", "C#")),
    "emoji": ("\U0001f600,\U0001f601", ("\U0001f600", "\U0001f601")),
    "a mark of byte order": ("\ufeffdog,cat", BOTH),
    "spaces without width": ("d\u200bog,cat\u2060", BOTH),
    "a colon and a comma in a description": ("crane: a bird: big,dog", ("crane", "dog")),
    "a sentence": ("dog, cat, and horse", ("dog", "cat", "horse")),
    "sizes": ("10 mm bolt, 12 mm bolt", ("10 mm bolt", "12 mm bolt")),
    "apostrophes, ampersands and inches": (
        "rock 'n' roll, R&D, 7\" record, Caf\xe9 & Bar",
        ("rock 'n' roll", "R&D", '7" record', "Caf\xe9 & Bar"),
    ),
    "spaces of a web page": ("sea\xa0lion, dog", ("sea lion", "dog")),
    "names with their authors": (
        "Parus major (Linnaeus, 1758); Pica pica",
        ("Parus major (Linnaeus, 1758)", "Pica pica"),
    ),
    "commas of authors": ("Parus major (Linnaeus, 1758), Pica pica", "not one class: Parus major (Linnaeus"),
    "a decimal comma": ("0,5 l bottle,1 l bottle", "'0,5 l bottle' is one class or two"),
    "commas of thousands": ("1,000 rupees,500 rupees", "'1,000 rupees' is one class or two"),
    "commas of Chinese": ("\u72d7\u3001\u732b", "only class"),
    "slashes between": ("dog/cat/horse", "only class"),
    "nothing": ("", "no class"),
    "spaces": ("   ", "no class"),
    "one class": ("dog", "only class"),
    "bars between": ("dog | cat | horse", "with commas between them"),
    "a new line that the shell left": (r"dog\ncat\nhorse", "with commas between them"),
    "a list that goes on": ("dog, cat, horse, ...", "position 4 is not one class"),
    "commas and semicolons": ("dog,cat;horse", "position 1 is not one class"),
    "one class, and": ("dog and cat", "only class"),
    "twice": ("dog,cat,dog", "appears twice"),
    "twice in another case": ("dog,cat,Dog", "appears twice"),
    "twice with other spaces": ("sea lion,dog,sea  lion", "appears twice"),
    "twice with an underscore": ("sea lion,dog,Sea_Lion", "appears twice"),
    "twice with a space of no width": ("dog\u200b,dog", "appears twice"),
    "twice composed and decomposed": ("caf\xe9,cafe\u0301", "appears twice"),
    "twice as a ligature": ("\ufb01sh,fish", "appears twice"),
    "a gap": ("dog,,cat", "position 2 is empty"),
    "a gap of spaces": ("dog, ,cat", "position 2 is empty"),
    "a comma at the end": ("dog,cat,", "position 3 is empty"),
    "hyphens alone": ("-,--", "position 1 is empty"),
    "a description alone": (": a,b", "position 1 is empty"),
    "quotes that the shell left": ('"dog","cat"', "without quotes"),
    "quotes of Python": ("'dog','cat'", "without quotes"),
    "an open bracket": ("[dog,cat", "not one class"),
    "a comma of a class or of a description": ("crane: a large, grey bird, dog", "is 'grey bird' a class"),
    "too long": ("a" * 201 + ",b", "201 characters"),
    "a null byte": ("dog\0,cat", "control character"),
    "half a pair of surrogates": ("dog\ud800,cat", "control character"),
    "a file that is not there": ("gone.txt", "gone.txt does not exist"),
    "a pattern that the shell left": ("*.txt", "*.txt does not exist"),
    "an address": ("https://example.org/classes.txt", "https://example.org/classes.txt is no path"),
    # From Python.
    "a list": (["dog", "cat"], BOTH),
    "a generator": (iter(["dog", "cat"]), BOTH),
    "numbers of digits": (range(3), ("0", "1", "2")),
    "a mapping to descriptions": ({"dog": "a pet", "cat": ""}, BOTH),
    "a mapping from names to numbers": ({"cat": 1, "dog": 0}, BOTH),
    "a mapping from numbers to names": ({1: "cat", 0: "dog"}, BOTH),
    "a mapping to nothing": ({"dog": None, "cat": None}, BOTH),
    "a mapping to mappings": ({"dog": {"a": 1}, "cat": {}}, "is no class with its description"),
    "an array": (np.array(["dog", "cat"]), BOTH),
    "an array of pairs": (np.array([["dog", "a"], ["cat", "b"]]), "got ndarray"),
    "words of an enum": (Pets, BOTH),
    "members of an enum": (Enum("Numbers", ["dog", "cat"]), "which is no text"),
    "pairs": ([("dog", "a pet"), ("cat", "a pet")], "position 1 is ('dog', 'a pet')"),
    "folders": ([Path("train/dog"), Path("train/cat")], "which is no text"),
    "words of truth": ([True, False], "position 1 is True"),
    "a set, which has no order": ({"dog", "cat"}, "got set"),
    "bytes": (b"dog,cat", "got bytes"),
    "None": (None, "got NoneType"),
    "None among names": (["dog", None], "position 2 is None"),
    "not a number among names": (["dog", float("nan")], "position 2 is nan"),
    "a list in a list": (["dog", ["cat"]], "position 2 is ['cat']"),
    "a text of all names in a list": (["dog,cat"], "only class"),
    "an empty list": ([], "no class"),
    # Text files.
    "dots": (("classes.txt", "1. dog\n2. cat\n"), BOTH),
    "brackets after numbers": (("classes.txt", "1) dog\n2) cat\n"), BOTH),
    "colons": (("classes.txt", "0: dog\n1: cat\n"), BOTH),
    "shuffled": (("classes.txt", "1: cat\n0: dog\n"), BOTH),
    "of a teachable machine": (("labels.txt", "0 dog\n1 cat\n"), BOTH),
    "numbers behind": (("classes.txt", "dog,0\ncat,1\n"), BOTH),
    "hyphens between": (("classes.txt", "1 - dog\n2 - cat\n"), BOTH),
    "tabs": (("classes.txt", "dog\t0\ncat\t1\n"), BOTH),
    "bullets": (("classes.txt", "- dog\n- cat\n"), BOTH),
    "one line": (("classes.txt", "dog, cat\n"), BOTH),
    "WordNet ids": (("classes.txt", "n02084071 dog\nn02121808 cat\n"), BOTH),
    "a header": (("classes.txt", "id,name\n0,dog\n1,cat\n"), BOTH),
    "Python": (("classes.txt", "['dog', 'cat']"), BOTH),
    "a Python tuple in a file": (("classes.txt", "('dog', 'cat',)"), BOTH),
    "YOLO's lists in a text": (("data.txt", "nc: 2\nnames: ['dog', 'cat']\n"), BOTH),
    "darknet": (("darknet.names", "dog\ncat\n"), BOTH),
    "a mark of byte order and comments": (("classes.txt", "\ufeff# animals\n\ndog  # a pet\ncat\n"), BOTH),
    "lines of an old Mac": (("classes.txt", "dog\rcat\r"), BOTH),
    "a large suffix": (("CLASSES.TXT", "dog\ncat\n"), BOTH),
    "counted things": (
        ("classes.txt", "1 person\n2 people\n3 or more people"),
        ("1 person", "2 people", "3 or more people"),
    ),
    "values of coins": (("classes.txt", "1 euro\n2 euro"), ("1 euro", "2 euro")),
    "values of notes": (("classes.txt", "1 dollar\n5 dollars"), ("1 dollar", "5 dollars")),
    "classes that are called so": (("classes.txt", "Class 1\nClass 2"), ("Class 1", "Class 2")),
    "ratios in lines": (("classes.txt", "1:1 photo\n2:3 photo"), ("1:1 photo", "2:3 photo")),
    "commas of synonyms": (
        ("classes.txt", "tench, Tinca tinca\ngoldfish, Carassius auratus"),
        ("tench, Tinca tinca", "goldfish, Carassius auratus"),
    ),
    "markup and all scripts": (
        ("classes.txt", "<script>alert(1)</script>\nمی\u200cخواهم\n👩\u200d🚒\nnaïve café\nO'Brien & Söhne"),
        ("<script>alert(1)</script>", "می\u200cخواهم", "👩\u200d🚒", "naïve café", "O'Brien & Söhne"),
    ),
    "a column of a spreadsheet": (("classes.txt", "Class\ndog\ncat\n"), BOTH),
    "letters that count": (("classes.txt", "a) dog\nb) cat\n"), BOTH),
    "numbers in circles": (("classes.txt", "\u2460 dog\n\u2461 cat\n"), BOTH),
    "bullets of a word processor": (("classes.txt", "\u2013 dog\n\u2013 cat\n"), BOTH),
    "bullets without a space": (("classes.txt", "-dog\n-cat\n"), BOTH),
    "a list of folders": (("classes.txt", "dog/\ncat/\n"), BOTH),
    "full stops": (("classes.txt", "dog.\ncat.\n"), BOTH),
    "abbreviations": (("classes.txt", "Washington D.C.\nAcme Inc.\n"), ("Washington D.C.", "Acme Inc.")),
    "abbreviated species": (("classes.txt", "A. thaliana\nB. subtilis\n"), ("A. thaliana", "B. subtilis")),
    "numbers of photos": (("classes.txt", "dog (120)\ncat (1,285)\n"), BOTH),
    "years": (("classes.txt", "Golf (1974)\nPolo (2017)\n"), ("Golf (1974)", "Polo (2017)")),
    "numbers that tell classes apart": (("classes.txt", "crane (1)\ncrane (2)\n"), ("crane (1)", "crane (2)")),
    "footnotes": (("classes.txt", "dog[1]\ncat\n"), "line 1 of"),
    "letters of a web page": (("classes.txt", "salt &amp; pepper\ndog\n"), "line 1 of"),
    "a table of Markdown": (("classes.txt", "| id | name |\n|----|------|\n| 0 | dog |\n"), "line 1 of"),
    "a list to tick off": (("classes.txt", "- [ ] dog\n- [x] cat\n"), BOTH),
    "arrows": (("classes.txt", "0 -> dog\n1 -> cat\n"), BOTH),
    "signs of equality": (("classes.txt", "dog=0\ncat=1\n"), BOTH),
    "bars": (("classes.txt", "0|dog\n1|cat\n"), BOTH),
    "digits of Arabic": (("classes.txt", "\u0661. dog\n\u0662. cat\n"), BOTH),
    "pages": (("classes.txt", "dog\x0ccat\x0c"), BOTH),
    "sizes of screws": (("classes.txt", "screw #8\nnail  # of steel\n"), ("screw #8", "nail")),
    "quotes of a word processor": (("classes.txt", "\u201cdog\u201d\n\u201ccat\u201d\n"), "line 1 of"),
    "a heading": (("classes.txt", "Classes:\ndog\ncat\n"), "line 1 of"),
    "a heading with a rule": (("classes.txt", "Animals\n=======\ndog\ncat\n"), "line 2 of"),
    "a tree of folders": (("classes.txt", ".\n\u251c\u2500\u2500 dog\n\u2514\u2500\u2500 cat\n"), "line 2 of"),
    "a listing of folders": (
        (
            "classes.txt",
            "total 8\ndrwxr-xr-x 2 me me 4096 Jan  1 10:00 dog\ndrwxr-xr-x 2 me me 4096 Jan  1 10:00 cat\n",
        ),
        "line 2 of",
    ),
    "bold names": (("classes.txt", "**Dog**: a pet\n**Cat**: a small pet\n"), "line 1 of"),
    "comments of C": (("classes.txt", "// pets\ndog\ncat\n"), "line 1 of"),
    "comments alone": (("classes.txt", "# all\n# comments\n"), "no class is named in"),
    "twice in a file": (("classes.txt", "dog\n# pets\ncat\nDOG\n"), "lines 1 and 4 of"),
    "numbers with a gap": (("classes.txt", "0: dog\n2: cat\n"), "numbered 0, 2, ..."),
    "a number twice": (("classes.txt", "0: dog\n0: cat\n"), "numbered 0, 0, ..."),
    "quotes": (("classes.txt", '"dog"\n"cat"\n'), "line 1 of"),
    "code": (("classes.txt", "names = [\n'dog',\n]"), "line 1 of"),
    "code in one line": (("classes.txt", 'names = ["dog", "cat"]'), "not one class"),
    "commas at the ends": (("classes.txt", "dog,\ncat\n"), "line 1 of"),
    "a bullet among others": (("classes.txt", "dog\n- cat\n"), "line 2 of"),
    "a rule between": (("classes.txt", "dog\n---\ncat\n"), "line 2 of"),
    "an escape": (("classes.txt", "dog\x1b[31m\ncat\n"), "line 1"),
    "a mark of direction": (("classes.txt", "dog\ncat\u202e\n"), "line 2"),
    "the end of a DOS file": (("classes.txt", "dog\ncat\n\x1a"), "line 3"),
    "a long name": (("classes.txt", "dog\n" + "x" * 201 + "\n"), "201 characters"),
    "a long description": (("classes.txt", "dog: " + "x" * 2001 + "\ncat\n"), "2001 characters"),
    "latin 1": (("classes.txt", "dog\ncaf\xe9\n".encode("latin-1")), "line 2 is not UTF-8"),
    "UTF-16": (("classes.txt", "dog\ncat\n".encode("utf-16")), "line 1 is not UTF-8"),
    "a pointer of Git LFS": (("classes.txt", LFS), "a pointer of Git LFS in place of the file"),
    "a web page": (("classes.txt", PAGE), "a web page in place of the file"),
    "a document": (("classes.docx", "dog\ncat\n"), "Give a .txt"),
    # Tables.
    "a column": (("classes.csv", "name\ndog\ncat\n"), BOTH),
    "a column of labels with descriptions": (("classes.csv", "label,description\ndog,a pet\ncat,\n"), BOTH),
    "a table of Excel": (("classes.csv", "Class Name;Index\ndog;0\ncat;1\n"), BOTH),
    "a table with tabs": (("classes.tsv", "name\tdescription\ndog\ta\ncat\tb\n"), BOTH),
    "blank lines in a table": (("classes.csv", "\ufeffname\r\n\r\ndog\r\ncat\r\n"), BOTH),
    "numbers of photos in a table": (("classes.csv", "class,count\ndog,120\ncat,85\n"), "(not known: 'count')"),
    "two lines in a cell": (
        ("classes.csv", 'name,description\n"sea\nlion","big\nand wet"\ncat,\n'),
        ("sea lion", "cat"),
    ),
    "numbers in another order": (("classes.csv", "id,name\n1,cat\n0,dog\n"), BOTH),
    "numbers with gaps in a table": (("classes.csv", "id,name\n17,dog\n90,cat\n"), BOTH),
    "empty rows of a spreadsheet": (("classes.csv", "name;description\r\ndog;a\r\ncat;\r\n;\r\n;\r\n"), BOTH),
    "a column of colours": (("classes.csv", "name,color\ndog,red\ncat,blue\n"), "(not known: 'color')"),
    "a separator of Excel": (("classes.csv", "sep=;\nname;description\ndog;a\ncat;b\n"), "no header"),
    "a quoted comma": (("classes.csv", 'name\n"dog, big"\ncat\n'), ("dog, big", "cat")),
    "a formula": (("classes.csv", "name\n=cmd|'/c calc'!A0\ncat\n"), ("=cmd|'/c calc'!A0", "cat")),
    "no header": (("classes.csv", "dog\ncat\n"), "no header with a column 'name'"),
    "a header of photos": (("classes.csv", "filename,label\na.jpg,dog\n"), "no header with a column 'name'"),
    "too many cells": (("classes.csv", "name,description\ncrane,a large, grey bird\n"), "line 2 of"),
    "an empty cell": (("classes.csv", "name,description\n,pet\ncat,x\n"), "line 2 of"),
    "a quote that nothing closes": (("classes.csv", 'name\ncow\n"dog\ncat\n'), "Check its quotes"),
    "a cell without end": (("classes.csv", "name\n" + "a" * 200_000 + "\ncat\n"), "larger than field limit"),
    # YAML and JSON.
    "a YAML list of odd words": (("classes.yaml", "- no\n- 007\n- 1e3\n"), ("no", "007", "1e3")),
    "a YAML mapping": (("classes.yml", "no:\n007: ''\ncrane: a bird\n"), ("no", "007", "crane")),
    "a YAML date": (("classes.yaml", "- 2026-01-31\n- cat\n"), ("2026-01-31", "cat")),
    "YOLO's list": (("data.yaml", "path: ../zoo\ntrain: images\nnc: 2\nnames: [dog, cat]\n"), BOTH),
    "YOLO's mapping": (("data.yaml", "train: images\nnames:\n  0: dog\n  1: cat\n"), BOTH),
    "a JSON list with tabs": (("classes.json", '[\n\t"dog",\n\t"cat"\n]'), BOTH),
    "positions": (("classes.json", '{"0": "dog", "1": "cat"}'), BOTH),
    "indices": (("classes.json", '{"cat": 1, "dog": 0}'), BOTH),
    "a list inside JSON": (("classes.json", '{"labels": ["dog", "cat"], "x": 1}'), BOTH),
    "an emoji of JSON": (("classes.json", '["\\ud83d\\ude00", "cat"]'), ("\U0001f600", "cat")),
    "an empty YAML": (("classes.yaml", "# nothing\n"), "no class is named in"),
    "a YAML list without spaces": (("classes.yaml", "-dog\n-cat\n"), "neither a list nor a mapping"),
    "a name for a person in YAML": (("classes.yaml", "- @home\n- dog\n"), "(line 1)"),
    "a YAML scalar": (("classes.yaml", "dog\n"), "neither a list nor a mapping"),
    "a YAML number": (("classes.yaml", "3"), "neither a list nor a mapping"),
    "broken YAML": (("classes.yaml", "- dog\n- cat\n]\n"), "(line 3)"),
    "a list in a YAML list": (("classes.yaml", "- dog\n- [a, b]\n"), "line 2"),
    "a bell in YAML": (("classes.yaml", '- dog\n- "cat\\x07"\n'), "line 2"),
    "half a pair in YAML": (("classes.yaml", '- "\\ud800"\n- cat\n'), "control character"),
    "deep YAML": (("classes.yaml", "[" * 1000), "nested"),
    "YAML that runs code": (("classes.yaml", "!!python/object/apply:os.system ['exit 1']"), "only class"),
    "YAML that grows": (("classes.yaml", YAML_BOMB), "nested"),
    "a YAML mapping with a gap": (("data.yaml", "names: {0: dog, 3: cat}"), "numbered 0, 3, ..."),
    "YOLO without names": (("data.yaml", "train: images\nval: images\n"), "no list 'names'"),
    "YOLO with a text of names": (("data.yaml", "nc: 2\nnames: dog, cat\n"), "no list 'names'"),
    "objects of JSON": (("classes.json", '[{"id": 0, "name": "dog"}]'), "nested"),
    "objects of one field": (("classes.json", '[{"name": "dog"}, {"name": "cat"}]'), "nested"),
    "an index of ImageNet": (("classes.json", '{"0": ["n02084071", "dog"]}'), "nested"),
    "comments of JSON": (("classes.json", '["dog", // a pet\n"cat"]'), "line 1"),
    "lines of JSON": (("classes.json", '{"name": "dog"}\n{"name": "cat"}\n'), "line 2"),
    "UTF-16 of JSON": (("classes.json", '["dog", "cat"]'.encode("utf-16")), "not UTF-8"),
    "categories of COCO": (("classes.json", '{"categories": [{"id": 0, "name": "dog"}]}'), "nested"),
    "two documents of YAML": (("classes.yaml", "- dog\n- cat\n---\n- cow\n"), "(line 3)"),
    "JSON cut short": (("classes.json", '["dog"'), "line 1"),
    "a data set of Ultralytics": (
        (
            "zoo.yaml",
            f"path: zoo # root\ntrain: a\nval: b\ntest: # none\n\nnames:\n  0: dog\n  1: cat\n\ndownload: {URL}\n",
        ),
        BOTH,
    ),
    "a data set of Roboflow": (
        (
            "data.yaml",
            f"train: ../train/images\nval: ../valid/images\n\nnc: 2\nnames: ['dog', 'cat']\nroboflow:\n  url: {URL}",
        ),
        BOTH,
    ),
    "a data set of Hugging Face": (("dataset_info.json", features(label=["dog", "cat"])), BOTH),
    "commas in a ClassLabel": (
        ("dataset_info.json", features(label=["tench, Tinca tinca", "0: cat"])),
        ("tench, Tinca tinca", "0: cat"),
    ),
    "configurations of one data set": (
        (
            "dataset_infos.json",
            f'{{"full": {features(label=["dog", "cat"])}, "tiny": {features(label=["dog", "cat"])}}}',
        ),
        BOTH,
    ),
    "a list of ClassLabels": (
        ("dataset_info.json", features().replace('"Image"}', f'"Sequence", "feature": {CLASS_LABEL}}}')),
        BOTH,
    ),
    "fine and coarse ClassLabels": (
        ("dataset_info.json", features(fine=["dog", "cat"], coarse=["pet", "beast"])),
        "several lists of classes: fine (dog, cat), coarse (pet, beast). Copy the names of one into a .txt",
    ),
    "a data set without ClassLabels": (("dataset_info.json", features()), "no feature is a ClassLabel"),
    "a class twice in a ClassLabel": (("dataset_info.json", features(label=["dog", "dog"])), "(positions 1 and 2 of"),
    "a ClassLabel that is empty": (("dataset_info.json", features(label=[])), "no class is named in"),
    "a null byte of JSON": (("classes.json", '["dog\\u0000", "cat"]'), "control character"),
    # Configurations of Label Studio.
    "choices": (
        ("config.xml", view('<Image name="i" value="$i"/>', choices("what", "dog", "cat"), '<Header value="Pets"/>')),
        BOTH,
    ),
    "choices in the text field": (view(choices("what", "dog", "cat")), BOTH),
    "labels of boxes": (
        (
            "config.xml",
            view(
                '<RectangleLabels name="l" toName="i"><Label value="dog" background="red"/>\n',
                '<Label value="cat"/></RectangleLabels>',
            ),
        ),
        BOTH,
    ),
    "labels of boxes and outlines": (
        ("config.xml", view(choices("boxes", "dog", "cat"), choices("outlines", "dog", "cat"))),
        BOTH,
    ),
    "a taxonomy": (
        (
            "config.xml",
            view(
                '<Taxonomy name="t"><Choice value="pet"><Choice value="dog"/></Choice>',
                '<Choice value="cat"/></Taxonomy>',
            ),
        ),
        BOTH,
    ),
    "letters of XML": (
        ("config.xml", '<?xml version="1.0" encoding="latin-1"?>' + view(choices("a", "R&amp;D", "caf\xe9"))),
        ("R&D", "caf\xe9"),
    ),
    "choices of two questions": (
        ("config.xml", view(choices("what", "dog", "cat"), choices("quality", "good", "bad"))),
        "several lists of classes: what (dog, cat), quality (good, bad)",
    ),
    "choices that tasks name": (
        ("config.xml", view('<Choices name="c" value="$options"/>')),
        "no <Choice value=...> and no <Label value=...>. Copy it from Label Studio",
    ),
    "a choice without a value": (("config.xml", view(choices("c", "", "cat"))), "the class name at position 1 of"),
    "a choice twice": (("config.xml", view(choices("c", "dog", "Dog"))), "(positions 1 and 2 of"),
    "XML cut short": (("config.xml", '<View>\n<Choices name="c">'), "is not valid XML (no element found: line 2"),
    "boxes of Pascal VOC": (("a.xml", "<annotation><name>dog</name></annotation>"), "no <Choice value=...>"),
    "XML that grows": (("config.xml", f"{XML_BOMB}<View>&b;</View>"), "has a document type"),
    "XML that names a file": (
        ("config.xml", f'<!DOCTYPE v [<!ENTITY x SYSTEM "file:///etc/passwd">]>{view(choices("c", "&x;", "a"))}'),
        "has a document type",
    ),
    "deep XML": (("config.xml", "<View>" * 100_000), "is not valid XML"),
    # Folders.
    "folders of photos": (("photos", ("dog", "cat", ".cache", "__MACOSX", "dog/summer")), ("cat", "dog")),
    "folders of a data set": (("photos", ("n02084071_dog", "sea_horse")), ("n02084071_dog", "sea_horse")),
    "a folder named as a file of names": (("zoo.names", ("dog", "cat")), ("cat", "dog")),
    "one folder": (("photos", ("dog",)), "is the only class of"),
    "two folders of one class": (("photos", ("dog", "Dog")), "appears twice (positions 1 and 2 of"),
    "no folders": (("photos", ()), f"{PARTS} (found: none)"),
    "folders of splits": (("photos", ("train/dog", "train/cat", "val/dog")), f"{PARTS} (found: train, val)"),
    "folders of YOLO": (("photos", ("images", "labels")), "such as a data.yaml"),
    "a run": (("zoo", ("stages/images", "bundle")), f"{PARTS} (found: bundle, stages)"),
    "a folder that is not there": ("photos/train", "No file or folder is called so"),
}


@table(LISTS)
def test_a_list_of_classes(given: Any, expected: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if isinstance(given, tuple):
        content, given = given[1], tmp_path / given[0]
        if isinstance(content, tuple):
            for folder in ("", *content):
                (given / folder).mkdir(parents=True, exist_ok=True)
        else:
            given.write_bytes(content if isinstance(content, bytes) else content.encode())
    if isinstance(expected, tuple) and isinstance(given, Path):
        assert parse_task(str(given)).names == parse_task(given).names == expected
    elif isinstance(expected, tuple):
        assert parse_task(given).names == expected
    elif isinstance(given, str | Path) and "\0" not in str(given):
        assert expected in refused(capsys, tmp_path, "run", "--out", tmp_path / "out", "--classes", given)
    else:
        with unchanged(tmp_path), pytest.raises(clipstill.ClipstillError) as caught:
            clipstill.distil(classes=given, out=tmp_path / "out")
        assert expected in str(caught.value)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a broken link", "a link to itself", "a device behind a link"])
def test_what_is_no_file_is_no_list_of_classes(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "classes.txt"
    {
        "a pipe": lambda: os.mkfifo(path),
        "a folder": path.mkdir,
        "a broken link": lambda: path.symlink_to("gone"),
        "a link to itself": lambda: path.symlink_to(path),
        "a device behind a link": lambda: path.symlink_to("/dev/zero"),
    }[kind]()
    assert str(path) in refused(capsys, tmp_path, "run", "--out", tmp_path / "out", "--classes", path)
