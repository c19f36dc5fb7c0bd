"""What ``ssrseg check`` prints: classes with their prompts, findings, what the work will cost."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from ssrseg.config import Config
from ssrseg.console import CheckResult, echo, print_table, show
from ssrseg.data.sample import LabelledImages
from ssrseg.data.write_labels import write_classes_yaml, write_labels_csv
from ssrseg.data_check import DataCheck, check_data, findings
from ssrseg.errors import OutputError, SSRError, counted
from ssrseg.estimate import Cost, Estimates, amount, duration, estimate
from ssrseg.loading import encoders_on_disk
from ssrseg.networks.vocabulary import build_vocabulary


def print_check(
    data: LabelledImages, where: Path, config: Config, device: str, *, whole: LabelledImages
) -> int:
    """Check, estimate, print; the exit code: 1 if something is to be mended.

    Args:
        where: The folder or file that ``data`` come from.
        device: ``cpu`` or ``cuda``.
        whole: All labelled images of the folder, of which ``data`` may be a split.
    """
    images, classes = counted(len(data), "image", "images"), len(data.classes)
    echo(f"{where}: {data.source}; {images}, {counted(classes, 'class', 'classes')}")
    encoders = encoders_on_disk(config)
    found = check_data(data, config, encoders.patch, everything=whole)
    results, costs = findings(found), None
    if encoders.missing:
        missing = " and ".join(encoders.missing)
        results.append(
            CheckResult(
                "encoders",
                f"{missing} not on this disk, and nothing is fetched now: no times, and patches"
                f" are taken for {encoders.patch} x {encoders.patch} pixels",
                grave=False,
            )
        )
    elif (seen_whole := [each for each in found.usable if not each.tiles]) and not found.fault:
        sizes = [each.size for each in seen_whole]
        usable = replace(data, samples=tuple(each.sample for each in seen_whole))
        try:
            costs = estimate(usable, sizes, encoders.config, Path.cwd(), device=device)
            results += _room(costs, device)
        except SSRError as error:
            results.append(CheckResult("encoders", "nothing can be computed", str(error)))
    _print_classes(found)
    code = show(results)
    if costs is not None:
        _print_costs(costs, data.root, device)
    return code


def write_clean(data: LabelledImages, config: Config, path: Path) -> None:
    """Write the labels, and a classes.yaml beside them with what CLIP is asked.

    Raises:
        OutputError: If one of the files is there, or cannot be written.
        DataError: If the images do not lie below.
    """
    refuse_to_replace(path)
    texts = build_vocabulary(data.classes, config.prompts.set, data.prompts, data.background)
    words = texts.phrases[len(data.classes) :]
    prompts = dict(zip(data.classes, texts.phrases, strict=False))
    write_labels_csv(data, path)
    write_classes_yaml(_yaml(path), data.classes, prompts=prompts, background=words)
    echo(
        f"\nWritten: {path}, and {_yaml(path)} with prompts and background words, which you may"
        " edit."
    )


def refuse_to_replace(path: Path) -> None:
    """Raise OutputError if ``write_clean`` would replace a file, or leave classes listed twice."""
    for file in (path, _yaml(path)):
        if file.exists():
            raise OutputError(
                f"{file} is there already, and --write replaces nothing. Move it away, or choose"
                " another folder that holds the images."
            )
    listed = path.with_name("classes.txt")
    if listed.exists():
        raise OutputError(
            f"{listed} lists the classes, and a classes.yaml beside it would be a second list."
            " Move it away: --write puts the same names in the same order into classes.yaml."
        )


def _yaml(path: Path) -> Path:
    return path.with_name("classes.yaml")


def _print_classes(found: DataCheck) -> None:
    asked = found.vocabulary.phrases if found.vocabulary else [""] * len(found.counts)
    total = max(1, len(found.data))
    rows = [
        (name, f"{count:,}", f"{100 * count / total:.0f} %", text)
        for (name, count), text in zip(found.counts.items(), asked, strict=False)
    ]
    if found.without_class:
        share = f"{100 * found.without_class / total:.0f} %"
        rows.append(("none of them", f"{found.without_class:,}", share, ""))
    echo("")
    print_table(("class", "images", "share", "CLIP is asked for"), rows)
    if found.vocabulary:
        words = found.vocabulary.phrases[len(found.vocabulary.classes) :]
        echo(f"\nBackground words: {', '.join(words) or 'none'}")
    echo("")


def _room(costs: Estimates, device: str) -> list[CheckResult]:
    """Whether memory and disk are enough, as far as the system says."""
    found = []
    free, needed = shutil.disk_usage(Path.cwd()).free, costs.masks.disk + costs.train.disk
    cure = "" if needed < free else "Make room, or write to another disk (--out)."
    found.append(CheckResult("free disk here", amount(free), cure))
    memory, wanted = _memory(), max(costs.masks.memory, costs.train.memory)
    if memory and wanted:
        cure = "" if wanted < memory else _CURE
        found.append(CheckResult("memory", f"{amount(memory)} in this machine", cure))
    if device != "cpu":
        memory = torch.cuda.get_device_properties(device).total_memory
        wanted = max(costs.masks.gpu_memory, costs.train.gpu_memory)
        cure = "" if wanted < memory else _CURE
        found.append(CheckResult("GPU memory", amount(memory), cure))
    return found


_CURE = (
    "It is less than masks or training will take: --set optim.micro_batch=4 (training), --set"
    " data.patches=256 or data.max_side=480 (masks)."
)


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        return 0


def _print_costs(costs: Estimates, root: Path, device: str) -> None:
    where = torch.cuda.get_device_name(device) if device != "cpu" else "CPU"
    threads = f", {counted(torch.get_num_threads(), 'thread', 'threads')}" if where == "CPU" else ""
    tried = " and ".join(
        each.image.relative_to(root).as_posix() if each.image.is_relative_to(root) else each.name
        for each in costs.tried
    )
    echo(f"\nWhat it will take here ({where}{threads}), measured on {tried}:")
    gpu = costs.train.gpu_memory > 0
    head = ("", "time", "memory", *(["GPU memory"] if gpu else []), "disk")
    rows = [
        (name, duration(cost.seconds), *_sizes(cost, gpu))
        for name, cost in (("ssrseg masks", costs.masks), ("ssrseg train", costs.train))
    ]
    print_table(head, rows)
    optim = costs.settings.optim
    echo(
        f"Training: {optim.iterations:,} iterations of {optim.batch} crops (optim.iterations); it"
        " can be stopped and goes on from there."
    )


def _sizes(cost: Cost, gpu: bool) -> list[str]:
    memory = amount(cost.memory) if cost.memory else "unknown"
    return [memory, *([amount(cost.gpu_memory)] if gpu else []), amount(cost.disk)]
