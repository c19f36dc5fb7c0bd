"""Time, memory and disk that masks and training will take here, from a few images tried out.

The model of the cost, in seconds:

* ``masks``: every photograph is read (in proportion to its pixels), shrunk to ``data.max_side``,
  cut into superpixels (its pixels then), rectified (its patches) and its mask written (its pixels).
* ``train``: all photographs are read once. Foreground features are pooled from each (its patches),
  once, or at every refresh where they depend on the heads. Then come the steps of CMPA. Where the
  decoder learns from cached features, each photograph is rectified once, and CLIP sees its other
  views. For each crop of the decoder's iterations: loading, unless it is cached its pseudo mask,
  and the decoder's two passes; for each iteration a step of the optimiser.

What ``data.workers`` load meanwhile costs only what they are slower than the encoders; but encoders
on a CPU give them their share of the processors. Each rate is measured on the last of two tries or
more, as the first one warms up. Memory is what the process held, and the part that grows with
patches or crops is scaled to the largest image and the batch.
"""

from __future__ import annotations

import math
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ssrseg.config import Config
from ssrseg.console import without_bars
from ssrseg.data.crops import CropBatch, CropDraws, loading_processes
from ssrseg.data.files import content_digest
from ssrseg.data.images import read_image
from ssrseg.data.photos import (
    MOST_PHOTOS,
    Photo,
    join_photos,
    patches_at_once,
    reading_threads,
)
from ssrseg.data.sample import LabelledImages, Sample
from ssrseg.data.stamped_mask import write_mask
from ssrseg.data.superpixels import SuperpixelCache
from ssrseg.data.transforms import limit_side, limited_size, patch_grid
from ssrseg.data.windows import WindowBatch, WindowDraws
from ssrseg.device import settled_precision
from ssrseg.feature_cache import (
    cache_bytes,
    cache_passes,
    choose_features,
    feature_files,
    make_features,
    window_features,
)
from ssrseg.foreground import ForegroundFeatures
from ssrseg.losses import crop_pairs, draw_pairs, online_masks, proto_loss, seg_loss
from ssrseg.model import SSR
from ssrseg.photo_masks import photo_masks
from ssrseg.processors import processors
from ssrseg.schedule import Schedule, plan, resolved
from ssrseg.trained_parts import new_alignment, new_decoder

Size = tuple[int, int]

_CROPS = 4  # at once, at most
_CAM_BYTES = 4  # two maps in half precision
_REPORT_BYTES = 30_000  # of an image in report.html


@dataclass(frozen=True)
class Cost:
    """What some work takes here.

    Attributes:
        seconds: Wall clock.
        memory: Largest resident memory of the process in bytes; 0 where the system does not say.
        gpu_memory: Largest memory of tensors on the GPU in bytes; 0 without one.
        disk: Bytes in the output folder, cached features included, which go at the end.
    """

    seconds: float
    memory: int
    gpu_memory: int
    disk: int


@dataclass(frozen=True)
class Estimates:
    """What a data set will cost.

    Attributes:
        masks, train: The costs; loading the encoders is in both.
        tried: Images that were tried out.
        settings: With what follows from the number of images and the machine.
    """

    masks: Cost
    train: Cost
    tried: tuple[Sample, ...]
    settings: Config


@dataclass(frozen=True)
class Peak:
    """Memory before some work, and the most while it went on: of the process, and on the GPU."""

    before: int
    most: int
    gpu_before: int = 0
    gpu_most: int = 0


@dataclass(frozen=True)
class PhotoRates:
    """What a photograph costs on its way to a mask.

    Attributes:
        read: Seconds a pixel of the file: digest, decoding, shrinking.
        superpixels: Seconds a pixel of the shrunk photograph.
        rectify: Seconds a patch, in batches as ``masks`` makes them.
        encode: Seconds a patch of CLIP's blocks but the last.
        gather: Seconds a patch of these and the CAM, to pool foreground features.
        write: Seconds a pixel of the file.
        mask: Bytes a pixel of the file.
        patches: Patches that were seen at once when memory was measured.
    """

    read: float
    superpixels: float
    rectify: float
    encode: float
    gather: float
    write: float
    mask: float
    patches: int
    memory: Peak


@dataclass(frozen=True)
class CropRates:
    """What an iteration of training costs.

    Attributes:
        load: Seconds a crop, what is cached being there.
        prepare: Seconds a crop to encode it and make its pseudo mask; 0 where these are cached.
        learn: Seconds a crop through the decoder and back.
        step: Seconds of the optimiser.
        align: Seconds of an iteration of CMPA on pooled pairs.
        weights: Bytes of heads and decoder.
        one, several: Memory with one crop, and with ``crops``.
    """

    load: float
    prepare: float
    learn: float
    step: float
    align: float
    weights: int
    one: Peak
    several: Peak
    crops: int


def estimate(
    data: LabelledImages, sizes: Sequence[Size], config: Config, out: Path, *, device: str = "cpu"
) -> Estimates:
    """Load the encoders, try two of the images, and say what all of them will cost.

    Args:
        data: Images that can be used, at least one.
        sizes: Height and width of each.
        config: Settings of masks and training; encoders that are on this disk.
        out: Where results are going to lie, whose disk has to hold them.
        device: ``cpu`` or ``cuda``.

    Raises:
        SSRError: If the encoders cannot be loaded or give no usable CAM.
    """
    config = resolved(settled_precision(config, device), len(data))
    start = time.perf_counter()
    model = SSR.for_data(config, data, device=device)
    loading = time.perf_counter() - start
    features = choose_features(config, model, data, "labels", out).features
    config = replace(config, optim=replace(config.optim, features=features))
    model = model.with_config(config)
    tried = typical(data.samples, sizes)
    photos = try_photos(model, tried, len(data))
    masks = masks_cost(photos, model, sizes, slots=int(data.labels.sum()) / len(data))
    crops = try_crops(model, data, tried)
    train = train_cost(photos, crops, model, data, sizes, plan(config, "labels"))
    masks, train = (replace(each, seconds=each.seconds + loading) for each in (masks, train))
    return Estimates(masks, train, tried, config)


def try_photos(model: SSR, samples: Sequence[Sample], images: int) -> PhotoRates:
    """Make masks of a few images and time every part.

    Args:
        model: As for ``masks``.
        samples: One or two typical images.
        images: Of how many these are, which bounds a batch.

    Raises:
        SSRError: If an image cannot be used, or the encoders give no usable CAM.
    """
    config, device = model.config, model.device
    superpixels = SuperpixelCache.of(None, config.sgc)
    most = patches_at_once(config.data, device)
    parts = ("read", "superpixels", "rectify", "write", "encode", "gather")
    seconds = dict.fromkeys(parts, 0.0)
    pixels = small_pixels = patches = written = at_once = 0
    with tempfile.TemporaryDirectory() as folder, _peak(device) as peak, torch.no_grad():
        for number, sample in enumerate((samples[0], *samples)):
            clock = _Clock(device)
            content_digest(sample.image)
            photo = read_image(sample.image, config.data.range, config.data.bands)
            small = limit_side(photo, config.data.max_side)
            clock.lap("read")
            ids = superpixels(small) if model.wants_superpixels else None
            clock.lap("superpixels")
            here = _patches((small.shape[0], small.shape[1]), model.patch_size)
            copies = max(1, min(MOST_PHOTOS, most // here, images))
            whole = [Photo(0, photo, small, ids)] * copies
            batch = join_photos(whole, [sample.labels] * copies, model.patch_size, device)
            mask = photo_masks(model, batch)[0].pseudo_mask
            clock.lap("rectify")
            file = Path(folder, f"{number}.png")
            write_mask(file, mask, "")
            clock.lap("write")
            found = model.encode(batch.image)
            clock.lap("encode")
            model.initial_cam(found, batch.present, with_clip=True)
            clock.lap("gather")
            del found
            at_once = max(at_once, here * copies)
            if number:  # the first one has warmed up
                for part, spent in clock.laps.items():
                    once = part in ("read", "superpixels", "write")
                    seconds[part] += spent if once else spent / copies
                pixels += photo.shape[0] * photo.shape[1]
                small_pixels += small.shape[0] * small.shape[1]
                patches += here
                written += file.stat().st_size
    return PhotoRates(
        read=seconds["read"] / pixels,
        superpixels=seconds["superpixels"] / small_pixels,
        rectify=seconds["rectify"] / patches,
        encode=seconds["encode"] / patches,
        gather=(seconds["encode"] + seconds["gather"]) / patches,
        write=seconds["write"] / pixels,
        mask=written / pixels,
        patches=at_once,
        memory=peak[0],
    )


def masks_cost(rates: PhotoRates, model: SSR, sizes: Sequence[Size], *, slots: float) -> Cost:
    """What ``masks`` takes for photographs of these sizes.

    Args:
        sizes: Height and width of each photograph.
        slots: Classes of an image, on average.
    """
    config, patch = model.config, model.patch_size
    small = [limited_size(size, config.data.max_side) for size in sizes]
    pixels, small_pixels = _area(sizes), _area(small)
    patches = [_patches(size, patch) for size in small]
    loading = pixels * rates.read + small_pixels * rates.superpixels
    computing = sum(patches) * rates.rectify + pixels * rates.write
    disk = pixels * rates.mask + _CAM_BYTES * slots * sum(patches)
    disk += _superpixel_bytes(model, small) + _REPORT_BYTES * len(sizes)
    growth = max(1.0, max(patches, default=0) / rates.patches)
    peak = rates.memory
    memory = peak.before + growth * (peak.most - peak.before)
    gpu = peak.gpu_before + growth * (peak.gpu_most - peak.gpu_before)
    return Cost(
        _meanwhile(loading, computing, reading_threads(config.data, model.device), model.device),
        max(round(memory), _most_so_far()) if peak.most else 0,
        round(gpu),
        round(disk),
    )


def try_crops(model: SSR, data: LabelledImages, tried: Sequence[Sample]) -> CropRates:
    """Train a new decoder, and new heads, for a few steps on crops of a few images.

    Nothing of the model is changed, nor the random numbers of the caller.

    Args:
        model: As for training, ``optim.features`` decided; its heads and decoder are left alone.
        data: Training images.
        tried: One or two typical ones, with a label.

    Raises:
        SSRError: If an image cannot be used.
    """
    config, device = model.config, model.device
    most = min(_CROPS, config.optim.micro_batch or config.optim.batch)
    some = replace(data, samples=tuple(tried))
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(), without_bars():
        torch.manual_seed(0)
        model = _untrained(model)
        assert model.decoder is not None
        trained = list(model.decoder.parameters())
        trained += [] if model.alignment is None else list(model.alignment.parameters())
        optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)
        align = 0.0
        if model.alignment is not None and not config.cmpa.aligns_patches:
            align = _try_pairs(model, optimizer, int(data.labels.sum()))
        draws = _draws(model, some, Path(folder))
        peaks = []
        for crops in (1, 1, most):
            clock = _Clock(device)
            batches: Iterator[CropBatch | WindowBatch] = draws.loader(0, crops, crops)
            batch = next(batches).to(device)
            clock.lap("load")
            optimizer.zero_grad(set_to_none=True)
            with _peak(device) as peak:
                _try_batch(model, batch, clock)
                optimizer.step()
                clock.lap("step")
            peaks.append(peak[0])
        laps = clock.laps
    return CropRates(
        load=laps["load"] / most,
        prepare=laps["prepare"] / most,
        learn=laps["learn"] / most,
        step=laps["step"],
        align=align,
        weights=sum(each.numel() * each.element_size() for each in trained),
        one=peaks[1],
        several=peaks[2],
        crops=most,
    )


def _untrained(model: SSR) -> SSR:
    """The same encoders with a decoder, and heads if the settings have them."""
    config, text = model.config, model.text_features
    config = replace(config, affinity=replace(config.affinity, rfm_after=None))
    alignment = None
    if config.cam.mode == "cmpa":
        mean = torch.randn(max(config.cmpa.out, 2), text.shape[1])
        alignment = new_alignment(config.cmpa, text, mean)
    decoder = new_decoder(config.decoder, model.clip, model.n_classes)
    return model.with_config(config, alignment=alignment, decoder=decoder)


def _draws(model: SSR, some: LabelledImages, folder: Path) -> CropDraws | WindowDraws:
    """Crops, or windows of features that are cached now, with superpixels that are there."""
    config, patch = model.config, model.patch_size
    superpixels = SuperpixelCache.of(folder, config.sgc)
    if config.optim.features == "cached":
        make_features(model, some, "labels", folder, superpixels)
        files = list(feature_files(model, some, "labels", folder).values())
        side = max(1, config.data.crop // patch)
        return WindowDraws(files, side, patch, flip=config.data.flip, seed=0, workers=0)
    own = replace(config.data, workers=0)
    draws = CropDraws(some, own, superpixels, 0, patch=patch)
    for draw in range(len(some)):
        draws[draw]
    return draws


def _try_batch(model: SSR, batch: CropBatch | WindowBatch, clock: _Clock) -> None:
    """Both losses of a batch and their gradients, as training has them."""
    if isinstance(batch, WindowBatch):
        clock.lap("prepare")
        loss = seg_loss(model, window_features(batch), batch.mask, batch.inside)
    else:
        literal = model.alignment is not None and model.config.cmpa.aligns_patches
        features = model.encode(batch.image)
        initial = model.initial_cam(features, batch.present, batch.valid, with_clip=literal)
        aligning: Tensor = torch.zeros((), device=model.device)
        if literal and (pairs := crop_pairs(model, initial, batch)).usable.any():
            out = torch.randn(model.n_classes, model.config.cmpa.out, device=model.device)
            aligning = proto_loss(model, pairs, out)
        mask = online_masks(model, batch, initial)
        clock.lap("prepare")
        loss = aligning + seg_loss(model, features, mask)
    loss.backward()
    clock.lap("learn")


def _try_pairs(model: SSR, optimizer: torch.optim.Optimizer, pairs: int) -> float:
    """Seconds of a step of CMPA on as many random pairs as there are, ``optim.pairs`` at most."""
    config, dim = model.config, model.text_features.shape[1]
    count = max(2, min(pairs, config.optim.pairs))
    index = torch.arange(count)
    found = ForegroundFeatures(
        torch.randn(count, dim), index, index % model.n_classes,
        torch.randn(count, dim), torch.randn(count, dim),
    )  # fmt: skip
    labels = torch.nn.functional.one_hot(found.classes, model.n_classes).bool()
    prototypes = torch.randn(model.n_prototypes, config.cmpa.out, device=model.device)
    for _ in range(3):
        clock = _Clock(model.device)
        optimizer.zero_grad(set_to_none=True)
        proto_loss(model, draw_pairs(model, found, labels, 0), prototypes).backward()
        optimizer.step()
        clock.lap("align")
    return clock.laps["align"]


def train_cost(
    photos: PhotoRates,
    crops: CropRates,
    model: SSR,
    data: LabelledImages,
    sizes: Sequence[Size],
    schedule: Schedule,
    *,
    first: int = 0,
    processes: int = 1,
) -> Cost:
    """What ``train`` takes.

    Args:
        photos, crops: What was measured with this model.
        model: ``optim.features`` is decided in its settings.
        data: Training images.
        sizes: Height and width of each.
        schedule: Of the run.
        first: Iterations that are finished.
        processes: That share the work, each on cores of its own; memory is that of one.
    """
    config, device = model.config, model.device
    threads = reading_threads(config.data, device)
    small = [limited_size(size, config.data.max_side) for size in sizes]
    patches = sum(_patches(size, model.patch_size) for size in small) / processes
    read = _area(sizes) * photos.read / processes
    # every file once, by threads
    seconds = read / min(8, os.cpu_count() or 1)
    # CMPA
    align = range(max(first, schedule.align.start), schedule.align.stop)
    again = _meanwhile(read, patches * photos.gather, threads, device)
    seconds += _refreshes(config, align) * again + len(align) * crops.align
    # the decoder
    cutting = _area(small) * photos.superpixels / processes if model.wants_superpixels else 0.0
    iterations = len(range(max(first, schedule.crops.start), schedule.crops.stop))
    share = config.optim.batch // processes
    drawn = iterations * share
    disk = _superpixel_bytes(model, small) + 4 * crops.weights  # two moments, and the final model
    loading = drawn * crops.load
    if config.optim.features == "cached":
        disk += cache_bytes(config, model, sizes)
        if iterations and first <= schedule.segment.start:
            views = photos.rectify + (cache_passes(config) - 1) * photos.encode
            seconds += _meanwhile(read + cutting, patches * views, threads, device)
    elif not first:
        loading += cutting * min(1.0, drawn * processes / max(1, len(data)))
    computing = drawn * (crops.prepare + crops.learn) + iterations * crops.step
    loaders = loading_processes(config.data.workers, pin=device.type == "cuda")
    seconds += _meanwhile(loading, computing, loaders, device)
    features = 0  # one row for each pair, two for each image
    if len(schedule.align):
        features = 4 * model.text_features.shape[1] * (int(data.labels.sum()) + 2 * len(data))
    at_once = min(config.optim.micro_batch or config.optim.batch, share)
    one, several = crops.one, crops.several
    memory = _extrapolated(one.most, several.most, crops.crops, at_once) + features
    return Cost(
        seconds,
        max(memory, _most_so_far()) if several.most else 0,
        _extrapolated(one.gpu_most, several.gpu_most, crops.crops, at_once),
        disk + features,
    )


def _refreshes(config: Config, align: range) -> int:
    """Passes over the training set for foreground features."""
    if config.cmpa.aligns_patches or config.cmpa.cam_source == "cmpa":
        return sum(each % config.cmpa.update_every == 0 for each in align)
    return int(len(align) > 0 and align.start == 0)


def typical(samples: Sequence[Sample], sizes: Sequence[Size]) -> tuple[Sample, ...]:
    """Two images to try: a third and two thirds up the list by size, of those with a label."""
    ranked = sorted(
        zip(samples, sizes, strict=True), key=lambda each: (each[1][0] * each[1][1], each[0].name)
    )
    usable = [sample for sample, _ in ranked if sample.labels] or [each for each, _ in ranked]
    return tuple(dict.fromkeys(usable[len(usable) * third // 3] for third in (1, 2)))


def in_words(cost: Cost) -> str:
    """``about 2 h 10 min, 2.8 GB of memory, 31 MB of disk``."""
    parts = [f"about {duration(cost.seconds)}"]
    if cost.memory:
        parts.append(f"{amount(cost.memory)} of memory")
    if cost.gpu_memory:
        parts.append(f"{amount(cost.gpu_memory)} of GPU memory")
    return ", ".join([*parts, f"{amount(cost.disk)} of disk"])


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``, ``2 h 10 min``, ``3 days``: as exact as an estimate is."""
    if seconds < 90:
        return f"{max(1, _rounded(seconds)):.0f} s"
    minutes = _rounded(seconds / 60)
    if minutes < 90:
        return f"{minutes:.0f} min"
    if seconds < 10 * 3600:
        hours, tens = divmod(10 * round(seconds / 600), 60)
        return f"{hours} h {tens} min" if tens else f"{hours} h"
    if seconds < 36 * 3600:
        return f"{seconds / 3600:.0f} h"
    return f"{_rounded(seconds / 86400):.2g} days"


def amount(count: int) -> str:
    """``31 MB``, ``2.8 GB``: two digits."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            value = _rounded(count / size)
            return f"{value:.1f} {unit}" if value < 10 else f"{value:.0f} {unit}"
    return f"{max(1, round(count / 1000))} kB"


def _rounded(value: float) -> float:
    """To two digits."""
    return 0.0 if value <= 0 else round(value, 1 - math.floor(math.log10(value)))


def _meanwhile(loading: float, computing: float, workers: int, device: torch.device) -> float:
    """Seconds of both, if ``workers`` load while the device computes."""
    if not workers:
        return loading + computing
    shared = loading / processors() if device.type == "cpu" else 0.0
    return max(loading / workers, computing + shared)


def _area(sizes: Iterable[Size]) -> int:
    return sum(height * width for height, width in sizes)


def _patches(size: Size, patch: int) -> int:
    return math.prod(patch_grid(size, patch))


def _superpixel_bytes(model: SSR, small: Sequence[Size]) -> int:
    return 2 * _area(small) + 128 * len(small) if model.wants_superpixels else 0


def _extrapolated(one: int, several: int, crops: int, at_once: int) -> int:
    """Memory with ``at_once`` crops, from that with 1 and with ``crops``."""
    each = max(0, several - one) / max(1, crops - 1)
    return round(max(one, several) + each * (at_once - crops))


class _Clock:
    """Seconds of the parts of some work, a GPU's included."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.laps: dict[str, float] = {}
        self._last = self._now()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def lap(self, part: str) -> None:
        """A part ends here."""
        now = self._now()
        self.laps[part] = now - self._last
        self._last = now


@contextmanager
def _peak(device: torch.device) -> Iterator[list[Peak]]:
    """Watch memory; the list holds the result behind the block."""
    found: list[Peak] = []
    before = most = _resident()
    done = threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, _resident())

    cuda = device.type == "cuda"
    gpu_before = torch.cuda.memory_allocated(device) if cuda else 0
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()
        gpu = torch.cuda.max_memory_allocated(device) if cuda else 0
        found.append(Peak(before, max(most, _resident()), gpu_before, gpu))


def _resident() -> int:
    """Memory of this process in bytes now, or the most so far where only that is known; or 0."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return _most_so_far()


def _most_so_far() -> int:
    try:
        import resource  # not on Windows
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
