"""Label Studio's JSON export: tasks, with what annotators chose or marked in each.

    [{"data": {"image": "/data/upload/1/1a2b3c4d-a.jpg"},
      "annotations": [{"result": [{"from_name": "animal", "type": "choices",
                                   "value": {"choices": ["cat", "dog"]}}]}]}]

JSON_MIN and CSV are ``json_labels`` and ``table``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ssrseg.console import printable
from ssrseg.data.label_files.addresses import paths_of
from ssrseg.data.label_files.columns import has_image
from ssrseg.data.label_files.rows import LabelRows, Row
from ssrseg.data.text import quoted
from ssrseg.data.walk import SUFFIXES
from ssrseg.errors import LabelsError, counted
from ssrseg.safe_json import JsonError, read_json


def is_label_studio(value: Any) -> bool:
    """True if a value from JSON looks like tasks of Label Studio."""
    tasks = value if isinstance(value, list) else []
    return (
        bool(tasks)
        and all(isinstance(task, dict) for task in tasks)
        and any(
            isinstance(task.get("data"), dict) and ({"annotations", "completions"} & task.keys())
            for task in tasks
        )
    )


def read_label_studio(path: Path, known: Collection[str] = ()) -> LabelRows:
    """Labels by task; what is marked as a region counts as present, too.

    Tasks that nobody has annotated are left out. Where an annotation is marked as ground truth, it
    is the one that counts.

    Raises:
        LabelsError: If it is no such export, or several choices are made for each image.
    """
    del known  # choices are names, each by itself
    try:
        tasks = read_json(path)
    except JsonError as error:
        reason = printable(str(error)[:120])
        raise LabelsError(f"{path} is no JSON ({reason}). Export it anew.") from error
    if not is_label_studio(tasks):
        raise LabelsError(f"{path} holds no tasks of Label Studio. Export them as JSON.")
    asked = dict.fromkeys(
        (control, kind)
        for task in tasks
        for each in _annotations(task)
        for control, kind, _ in _labels(each)
    )
    choices = [name for name, kind in asked if kind == "choices"]
    if len(choices) > 1 or (choices and len(asked) > 1):
        names = " and ".join(quoted(name) for name, _ in asked)
        raise LabelsError(
            f"{path} has labels of several kinds for an image, {names}. Export as CSV, call the"
            ' column of the classes "labels", and remove the others.'
        )
    rows: list[Row] = []
    faults: list[tuple[int, str]] = []
    left = 0
    for number, task in enumerate(tasks, 1):
        place = f"task {task.get('id', number)}"
        found = [
            tuple(dict.fromkeys(word for _, _, words in _labels(each) for word in words))
            for each in _annotations(task)
        ]
        found = [words for words in found if words]
        image = _image(task)
        if not found:
            left += 1
        elif not image:
            faults.append((len(rows), f"{place}: its data name no image file. Remove the task."))
        elif len({frozenset(words) for words in found}) > 1:
            shown = " and ".join(quoted(";".join(words)) for words in found[:3])
            faults.append(
                (
                    len(rows),
                    f"{place}: its annotations differ, {shown}. Delete one, or mark one as ground"
                    " truth.",
                )
            )
        else:
            rows.append(Row(place, image, found[0], also=paths_of(image), loose=True))
    notices: tuple[str, ...] = ()
    if left:
        notices = (
            f"{printable(path.name)}: {left:,} of {counted(len(tasks), 'task', 'tasks')} left out,"
            ' without a label. For an image that shows none of the classes, add the choice "none".',
        )
    return LabelRows(path, tuple(rows), tuple(faults), notices=notices)


def _annotations(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that count: of the truth, if some are marked so, and none that was cancelled."""
    found = task.get("annotations", task.get("completions"))
    each = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    each = [one for one in each if one.get("was_cancelled") is not True]
    return [one for one in each if one.get("ground_truth") is True] or each


def _labels(annotation: dict[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """Name and kind of each control that gave labels, and the labels."""
    results = annotation.get("result")
    for result in results if isinstance(results, list) else []:
        kind, value = (
            (result.get("type"), result.get("value")) if isinstance(result, dict) else ("", None)
        )
        if not isinstance(kind, str) or not isinstance(value, dict):
            continue
        words = value.get(kind)
        if (kind == "choices" or kind.endswith("labels")) and isinstance(words, list):
            control = str(result.get("from_name", ""))
            yield control, kind, [word.strip() for word in words if isinstance(word, str)]


def _image(task: dict[str, Any]) -> str:
    """The address of the image of a task, or ''."""
    data: Any = task.get("data")
    keys = sorted(data, key=lambda key: not has_image([key])) if isinstance(data, dict) else ()
    found = (data[key] for key in keys if isinstance(data[key], str))  # "image" before "thumb"
    return next((each for each in found if paths_of(each)[0].lower().endswith(SUFFIXES)), "")
