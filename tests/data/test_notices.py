from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader

from ssrseg.data.images import read_image
from ssrseg.data.notices import note_once, say_again


def test_once_for_each_kind(capsys):
    say_again()
    for number in range(3):
        note_once("one", f"first {number}")
        note_once("other", f"second {number}")
    assert capsys.readouterr().err == "Note: first 0\nNote: second 0\n"
    say_again()
    note_once("one", "third")
    assert capsys.readouterr().err == "Note: third\n"


def test_once_for_all_workers_and_threads(tmp_path, capfd):
    paths = [tmp_path / f"{n}.png" for n in range(12)]
    for path in paths:
        Image.fromarray(np.arange(4096, dtype=np.uint16).reshape(64, 64)).save(path)
    say_again()
    loader = DataLoader(paths, batch_size=None, collate_fn=read_image, num_workers=1)
    assert len(list(loader)) == 12
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_image, paths))
    assert capfd.readouterr().err.count("read as 12 bits") == 1
