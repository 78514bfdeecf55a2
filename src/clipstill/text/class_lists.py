"""Reads lists of classes as people have them: lines, numbered lines, tables, YAML, JSON and Python lists."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipstill.core.errors import TaskError
from clipstill.core.files import parse_json, read_text
from clipstill.core.names import UNSEEN, class_key
from clipstill.core.progress import listed, say
from clipstill.text.class_sources import names_of_features, names_of_folder, names_of_label_studio

FILE_SUFFIXES = (".txt", ".names", ".csv", ".tsv", ".yaml", ".yml", ".json", ".xml")
_YAML_FORM = "Write one '- name' per line, or 'name: description' lines."
# Keys whose value is the list of classes, as in YOLO's data.yaml.
_LISTS = ("names", "classes", "class_names", "labels")
# Columns of a table, best first; the others are of no use here, but tell a header from a class.
_NAMES = ("class_name", "classname", "name", "class", "label", "category")
_NUMBERS = ("id", "index", "idx", "no", "number", "class_id", "label_id")
_COLUMNS = {*_NAMES, *_NUMBERS, "description", "wnid", "synset"}
_BRACKETS = ("[]", "{}", "()")
_BULLETS = "-*+•‣◦▪●○·–—"
# What stands around all names of a copied list, but is no part of them; a mark around some of them is.
_AROUND = tuple(
    (re.compile(pattern), what)
    for pattern, what in (
        (r"^n\d{8}\s+(?=\S)", "the WordNet ids before the names"),
        (rf"^[{_BULLETS}]\s+(?:\[[ xX]?\]\s+)?(?=\S)|^[-–](?=[^\W\d])", "the bullets of the lines"),
        (r"^\(?[A-Za-z]\)\s+(?=\S)|^[①-⓿❶-➓]\s*(?=\S)", "the letters or numbers that count the lines"),
        (r"(?<=\S)\s+\(\d{1,3}(?:[.,]\d{3})*\)$", "the numbers in brackets behind the names"),
        (r"(?<=[^\W\dA-Z_]{3})\.$|(?<=\S)/$", "the signs at the ends of the names"),
    )
)
# A comma of a decimal number or of thousands, such as "0,5 l bottle".
_COMMA_OF_NUMBER = re.compile(r"(?:^|,)\s*(\d+,\d+\s*[^\W\d][^,]*)")
# "1. dog", "0: dog", "0 -> dog", "0 dog" and "dog: 0", "dog=0": number, mark and name. "16:9 photo" is no such line.
_NUMBER_FIRST = re.compile(
    r"(?P<number>\d{1,6})(?P<mark>\.\s+|\s*(?:[):,|=]|[-=]>)\s*|\s+[-\u2013]\s+|\t\s*|\s+)"
    r"(?P<name>(?:\d+\.)?[^\W\d].*|[^\w\s].*)"
)
_NUMBER_LAST = re.compile(
    r"(?!\d+\s*[:,])(?P<name>.*[^\s:,|=>-])(?P<mark>\s*(?:[:,|=]|[-=]>)\s*|\s*\t|\s+)(?P<number>\d{1,6})"
)
# Numbers with only a space beside them count the classes in so many lines; in fewer, if they begin with 0.
_SURELY_COUNTED = 5
# Code, JSON or a table in which lines of classes are expected.
_NO_NAME = re.compile(
    r"""[\[{|].*|[\]})]*[,;]?|[-*•‣◦▪●–—]\s.*|.*(?:[,;\[{]|[=:]\s*[\[{(].*)|(["']).*\1|[“‘„«].*[”’“»]|//.*"""
    # A mark of a footnote, a letter as a web page writes it, half a bracket.
    r"""|.*\w\[\d{1,3}\]|.*&#?\w{2,8};.*|[^():]*\w\s*\([^():]*\w[^():]*"""
    # A heading and its rule, the end of a list that goes on, two names, marks of Markdown, lines of `tree` and `ls -l`.
    r"""|[^:]+:|[=~*_.…]{2,}|…|etc\.?|[^:]*[^\W\d],[^\W\d].*|\*\*.*|`.*`|[├└│].*|[dl-](?:[r-][w-][xsStT-]){3}\S*\s.*"""
)


class Entry(NamedTuple):
    """One class as the user wrote it."""

    name: str
    description: str
    place: str  # Such as ``"line 4"`` or ``"position 4"``.


def entry_of(text: str, place: str) -> Entry:
    """Name and description of ``name: description``; a colon without a space belongs to the name ("16:9 photo")."""
    name, _, description = f"{text.strip()} ".partition(": ")
    return Entry(_squeeze(name), _squeeze(description), place)


def entries_of_text(text: str, where: str = "") -> list[Entry]:
    """Classes of a text: a list in brackets, lines, or names with commas or semicolons between them.

    Args:
        text: The user's text.
        where: Name of the file for messages, such as `` of classes.txt``; empty for an argument.
    """
    text = text.strip()
    if not text:
        return []
    if text.startswith("<View"):
        return _entries_of_names(names_of_label_studio(text, _source(where)))
    if "\n" in text or text[0] + text[-1] in _BRACKETS:
        return _entries_of_lines(text, where)
    if re.match(r"[\[{]|\w+ *= *[\[{(]", text):
        _check_name(text, f"the text{where}")
    pieces = [(piece, f"position {place}") for place, piece in enumerate(_pieces(_without_and(text, where)), 1)]
    for piece, place in pieces:
        if piece.strip():
            _check_name(piece.strip(), f"{place}{where}")
    return _unnumbered(pieces, where)


def entries_of_file(path: Path) -> list[Entry]:
    """Classes of a file, by its suffix and what is in it; of a folder, its sub-folders."""
    if path.is_dir():
        return _entries_of_names(names_of_folder(path))
    suffix, where = path.suffix.lower(), f" of {path}"
    if suffix not in FILE_SUFFIXES:
        raise TaskError(
            f"{path} is no file of class names. Give a .txt (one name per line), a .yaml or .json (a list or a "
            "mapping), a .csv (with a column 'name'), Label Studio's .xml, or a folder with one sub-folder per class."
        )
    try:
        text = read_text(path)
    except FileNotFoundError:
        raise TaskError(
            f'the file of class names {path} does not exist. Check the path, or name the classes: "dog,cat".'
        ) from None
    except OSError as error:
        raise TaskError(f"the file of class names {path} cannot be read ({error}). Save it as UTF-8 text.") from None
    if suffix == ".json":
        try:
            value = parse_json(text)  # Most of it is YAML too, also where it is broken.
        except ValueError as error:
            raise TaskError(f'{path} is not valid JSON ({error}). Write a list: ["dog", "cat"].') from None
        names = names_of_features(value, str(path))
        if names is not None:
            return _entries_of_names(names)
    if suffix in (".yaml", ".yml", ".json"):
        return _entries_of_yaml(text, where)
    if suffix in (".csv", ".tsv"):
        return _entries_of_table(text, where)
    if suffix == ".xml":
        return _entries_of_names(names_of_label_studio(text, str(path)))
    return _entries_of_lines(text, where)


def _entries_of_names(names: Sequence[str]) -> list[Entry]:
    return [Entry(_squeeze(name), "", f"position {number}") for number, name in enumerate(names, 1)]


def _squeeze(text: str) -> str:
    return " ".join(re.sub(f"[{UNSEEN}]", "", text).split())


def _without_and(text: str, where: str) -> str:
    """``dog, cat, horse`` of the sentence ``dog, cat, and horse``."""
    without = re.sub(r"([,;]\s*)(?:and|or)\s+(?=[^,;]+$)", r"\1", text)
    if without == text or ": " in text:
        return text
    say(f"{_source(where)}: the 'and' or 'or' before the last name is left out")
    return without


def _pieces(text: str) -> list[str]:
    """The classes of ``dog, crane: a large, grey wading bird,cat``, where commas may be part of descriptions."""
    if ";" in text:
        return text.split(";")
    if number := _COMMA_OF_NUMBER.search(text):
        raise TaskError(f"'{number[1]}' is one class or two. Separate classes by semicolons, or write one per line.")
    pieces: list[str] = []
    # Where some commas have no space behind them, those separate classes.
    tight = re.search(r",\S", text) is not None
    for piece in text.split(","):
        if not pieces or ": " not in pieces[-1] or ": " in piece or not piece.startswith(" "):
            pieces.append(piece)
        elif tight:
            pieces[-1] += f",{piece}"
        else:
            raise TaskError(
                f"'{pieces[-1].strip()},{piece}': is '{piece.strip()}' a class, or does it belong to the description? "
                "Separate classes by semicolons, or write one per line of a file."
            )
    return pieces


def _entries_of_lines(text: str, where: str) -> list[Entry]:
    brackets = text.strip()[:1] + text.strip()[-1:]
    if brackets in _BRACKETS:
        return _entries_of_yaml(f"[{text.strip()[1:-1]}]" if brackets == "()" else text, where)
    if re.search(rf"^(?:{'|'.join(_LISTS)})\s*:\s*(?:[\[{{].*)?$", text, re.M):
        return _entries_of_yaml(text, where)
    lines = [
        (stripped, f"line {number}")
        for number, line in enumerate(text.splitlines(), 1)
        if (stripped := re.sub(r"^\s*#.*|\s#(?!\d).*", "", line).strip())
    ]
    if not lines:
        return []
    if len(lines) == 1:
        return entries_of_text(lines[0][0], where)
    if _header(lines[0][0], least=2):
        return _entries_of_table(text, where)
    for mark, what in _AROUND:
        without = [(mark.sub("", line, count=1), place) for line, place in lines]
        changed = all(new != old for new, old in zip(without, lines, strict=True))
        if changed and len({class_key(line) for line, _ in without}) == len(lines):
            say(f"{_source(where)}: {what} are left out")
            lines = without
    for line, place in lines:
        _check_name(line, f"{place}{where}")
    return _unnumbered(lines, where)


def _check_name(line: str, place: str) -> None:
    if _NO_NAME.fullmatch(line):
        raise TaskError(
            f"{place} is not one class: {line[:60]}. Write one 'name' or 'name: description' per line, without quotes, "
            'brackets, commas and other marks around it; or a list: ["dog", "cat"].'
        )


def _unnumbered(lines: Sequence[tuple[str, str]], where: str) -> list[Entry]:
    """Classes of texts and their places, without the numbers that merely count them."""
    for form in (_NUMBER_FIRST, _NUMBER_LAST):
        matches = [match for line, _ in lines if (match := form.fullmatch(line.strip()))]
        if len(matches) < len(lines) or len(lines) < 2:
            continue
        marked = all(match["mark"].strip(" ") for match in matches)
        pairs = [
            (int(match["number"]), entry_of(match["name"], place))
            for match, (_, place) in zip(matches, lines, strict=True)
        ]
        counted = len(pairs) >= _SURELY_COUNTED or min(pairs)[0] == 0
        if marked or (counted and _counts([number for number, _ in pairs])):
            found = _in_order(pairs, where)
            if found:
                return found
    return [entry_of(line, place) for line, place in lines]


def _counts(numbers: Sequence[int]) -> bool:
    return sorted(numbers) in (list(range(len(numbers))), list(range(1, len(numbers) + 1)))


def _in_order(pairs: Sequence[tuple[int, Entry]], where: str) -> list[Entry]:
    """Classes in the order of their numbers; none if the names alone are not distinct ("1 euro", "2 euro")."""
    if len({class_key(entry.name) for _, entry in pairs}) < len(pairs):
        return []
    numbers = [number for number, _ in pairs]
    if not _counts(numbers):
        raise TaskError(
            f"the classes{where or ' given'} are numbered {', '.join(map(str, numbers[:4]))}, ..., which is not 0, 1, "
            "2, ... or 1, 2, 3, ... without gaps. Number them so, or leave the numbers out."
        )
    say(f"{_source(where)}: the numbers of the classes are read as their order and left out of the names")
    return [entry for _, entry in sorted(pairs, key=lambda pair: pair[0])]


def _source(where: str) -> str:
    return where.removeprefix(" of ") or "the list of class names"


def _cells(line: str) -> list[str]:
    return [cell.strip(" \"'").lower().replace(" ", "_") for cell in re.split(r"[,;\t]", line.rstrip("\r\n"))]


def _header(line: str, least: int) -> list[str]:
    """The columns of a table by its first line; none if it is no header."""
    cells = _cells(line)
    enough = len(cells) >= least or cells[0] in _NAMES[:4]  # "label" may be a thing, "name" is none.
    return cells if enough and {*cells} <= _COLUMNS and {*cells} & {*_NAMES} else []


def _entries_of_table(text: str, where: str) -> list[Entry]:
    lines = text.strip().splitlines(keepends=True)  # Cells in quotes may hold several.
    columns = _header(lines[0], least=1) if lines else ["name"]
    name = next((name for name in _NAMES if name in columns), None)
    if name is None:
        strange = listed([f"'{cell}'" for cell in _cells(lines[0]) if cell not in _COLUMNS])
        raise TaskError(
            f"the first line{where} is no header with a column 'name'{strange and f' (not known: {strange})'}. "
            "Write 'name,description' there, and one class in each line below; or give a .txt with one name per line."
        )
    separator = re.search(r"[,;\t]", lines[0]) if lines else None
    reader = csv.DictReader(
        *(lines[1:], columns),
        restkey="",
        restval="",
        delimiter=separator[0] if separator else ",",
        skipinitialspace=True,
        strict=True,  # A quote that nothing closes would join the lines below.
    )
    entries = []
    try:
        rows = [(reader.line_num + 1, row) for row in reader if any(row.values())]  # Spreadsheets add empty ones.
    except csv.Error as error:
        raise TaskError(f"the table{where} cannot be read ({error}). Check its quotes.") from None
    for line, row in rows:
        place = f"line {line}"
        if "" in row:
            raise TaskError(f"{place}{where} has more cells than the header. Put quotes around a text with commas.")
        entries.append(Entry(_squeeze(row[name]), _squeeze(row.get("description", "")), place))
    numbers = [row[column] for column in columns if column in _NUMBERS for _, row in rows]
    if len(numbers) == len(entries) and all(re.fullmatch(r"\d{1,6}", number) for number in numbers):
        pairs = list(zip(map(int, numbers), entries, strict=True))
        if _counts([number for number, _ in pairs]):
            return _in_order(pairs, where) or entries
    return entries


def _entries_of_yaml(text: str, where: str) -> list[Entry]:
    # Unlike safe_load, the nodes have their lines, keep both of two equal keys, and leave `no` and `007` as text.
    import yaml

    source = _source(where)
    try:
        # JSON may be indented by tabs, which YAML does not allow.
        root = yaml.compose(text.expandtabs(1), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark is not None else ""
        raise TaskError(f"{source} is not valid YAML{line}, or nested too deeply. {_YAML_FORM}") from None
    if isinstance(root, yaml.MappingNode):
        by_key = {getattr(key, "value", None): value for key, value in root.value}
        inner = [by_key[key] for key in _LISTS if isinstance(by_key.get(key), yaml.CollectionNode)]
        if not inner and ("nc" in by_key or {"train", "val"} <= {*by_key}):
            raise TaskError(f"{source} describes a data set and has no list 'names'. {_YAML_FORM}")
        root = inner[0] if inner else root
    if root is not None and not isinstance(root, yaml.CollectionNode):
        raise TaskError(f"{source} holds neither a list nor a mapping. {_YAML_FORM}")
    return _ordered(list(_entries_of_node(root, where)) if root is not None else [], where)


def entries_of_mapping(classes: Mapping[Any, Any]) -> list[Entry]:
    """Classes of a mapping from name to description, from name to number or from number to name."""
    entries = []
    for number, (name, value) in enumerate(classes.items(), 1):
        text = "" if value is None else value
        if any(isinstance(each, bool) or not isinstance(each, str | int) for each in (name, text)):
            raise TaskError(f"{{{name!r}: {text!r}}} is no class with its description. Give texts: {{'dog': 'a pet'}}.")
        entries.append(Entry(_squeeze(str(name)), _squeeze(str(text)), f"position {number}"))
    return _ordered(entries, "")


def _ordered(entries: list[Entry], where: str) -> list[Entry]:
    """Classes in the order of the numbers that are their names or descriptions; as they are where those are texts."""
    if len(entries) > 1 and all(re.fullmatch(r"\d{1,6}", entry.name) and entry.description for entry in entries):
        pairs = [(int(entry.name), entry_of(entry.description, entry.place)) for entry in entries]
        return _in_order(pairs, where) or entries
    if len(entries) > 1 and all(re.fullmatch(r"\d{1,6}", entry.description) for entry in entries):
        return _in_order([(int(entry.description), entry._replace(description="")) for entry in entries], where)
    return entries


def _entries_of_node(root: Any, where: str) -> Iterator[Entry]:
    import yaml

    mappings = [item for item in root.value if isinstance(item, yaml.MappingNode)]
    # Equal keys are fields of objects, [{"name": "dog"}, {"name": "cat"}], and no names.
    objects = len(mappings) > 1 and len({key.value for item in mappings for key, _ in item.value[:1]}) == 1
    for item in root.value:
        entry = item.value[0] if not objects and item in mappings and len(item.value) == 1 else item
        name, description = entry if isinstance(entry, tuple) else (entry, None)
        place = f"line {name.start_mark.line + 1}"
        if description is None and root.flow_style and isinstance(root, yaml.SequenceNode):
            yield entry_of(_scalar(name, where), place)  # JSON and Python have no other way to write a description.
            continue
        yield Entry(_scalar(name, where), "" if description is None else _scalar(description, where), place)


def _scalar(node: Any, where: str) -> str:
    import yaml

    if not isinstance(node, yaml.ScalarNode):
        raise TaskError(f"line {node.start_mark.line + 1}{where} is nested. {_YAML_FORM}")
    is_null = node.tag == "tag:yaml.org,2002:null" and node.style is None and node.value in ("", "~")
    # JSON writes an emoji as two halves of a surrogate pair, which are joined here.
    text: str = node.value.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
    return "" if is_null else _squeeze(text)
