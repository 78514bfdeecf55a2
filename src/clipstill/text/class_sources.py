"""Class names of what other tools made: folders of photos, configurations of Label Studio, features of Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from clipstill.core.errors import TaskError
from clipstill.core.file_names import visible
from clipstill.core.progress import listed

# Folders of a data set or a run that are no classes.
_PARTS = {"train", "val", "valid", "validation", "test", "images", "labels", "annotations", "stages", "bundle"}
_CLASS_TAGS = ("Choice", "Label")


def names_of_folder(folder: Path) -> Sequence[str]:
    """Names of the sub-folders."""
    try:
        names = [entry.name for entry in visible(folder.iterdir()) if entry.is_dir()]
    except OSError as error:
        raise TaskError(f"the folder {folder} cannot be listed ({error.strerror}). Check its permissions.") from None
    if {name.lower() for name in names} <= _PARTS:
        raise TaskError(
            f"{folder} has no sub-folders that are named after classes (found: {listed(names) or 'none'}). Give a "
            "folder with one sub-folder per class, or a file of names, such as a data.yaml."
        )
    return names


def names_of_label_studio(text: str, source: str) -> Sequence[str]:
    """The values of ``Choice`` or ``Label`` in a labelling configuration; where they nest, the innermost."""
    remedy = "Copy it from Label Studio: Settings, Labeling Interface, Code."
    # Only a document type declares entities, which grow without end or name other files; no configuration has one.
    if "<!DOCTYPE" in text:
        raise TaskError(f"{source} has a document type (<!DOCTYPE), which is not read. Remove it.")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise TaskError(f"{source} is not valid XML ({error}). {remedy}") from None
    controls = [
        (tag.get("name", tag.tag), [each.get("value", "") for each in tag.iter() if _is_class(each) and not len(each)])
        for tag in root.iter()
        if not _is_class(tag) and any(map(_is_class, tag))
    ]
    if not controls:
        raise TaskError(f"{source} has no <Choice value=...> and no <Label value=...>. {remedy}")
    return _only(controls, source)


def names_of_features(value: Any, source: str) -> Sequence[str] | None:
    """The names of a ``ClassLabel``, as in ``dataset_info.json``; None for JSON that describes no features."""
    features = [(name, names) for name, names in _class_labels(value) if isinstance(names, list)]
    if features:
        return _only(features, source)
    if isinstance(value, dict) and isinstance(value.get("features"), dict):
        raise TaskError(f"{source} describes a data set without class names: no feature is a ClassLabel with names.")
    return None


def _is_class(tag: ElementTree.Element) -> bool:
    return tag.tag in _CLASS_TAGS


def _class_labels(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        if value.get("_type") == "ClassLabel":
            yield name, value.get("names")
        for key, child in value.items():
            yield from _class_labels(child, key)


def _only(lists: Sequence[tuple[str, list[Any]]], source: str) -> Sequence[str]:
    """The names of the lists, which must be equal."""
    different = {tuple(map(str, names)): name for name, names in lists}
    if len(different) > 1:
        several = listed([f"{name} ({listed(names, most=3)})" for names, name in different.items()])
        raise TaskError(f"{source} has several lists of classes: {several}. Copy the names of one into a .txt.")
    return next(iter(different))
