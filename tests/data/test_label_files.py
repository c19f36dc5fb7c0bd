"""Label files of other programs, written as these programs write them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from make_tiny import tiny_voc

from ssrseg.data.open import open_labelled
from ssrseg.errors import DataError, LabelsError

EXPECTED = {"a.jpg": ["cat", "dog"], "b.jpg": ["dog"], "c.jpg": []}


def images(root: Path, *paths: str) -> Path:
    """Files that are called like images; each has a content of its own."""
    for path in paths or EXPECTED:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    return root


def shown(root: Path, split: str | None = None) -> dict[str, list[str]]:
    """Names of classes by path of the image below the folder."""
    data = open_labelled(root, split=split)
    return {
        sample.image.relative_to(data.root).as_posix(): [data.classes[n] for n in sample.labels]
        for sample in data.samples
    }


def notices(root: Path) -> str:
    return "\n".join(open_labelled(root).notices)


def refused(root: Path, split: str | None = None) -> str:
    with pytest.raises((DataError, LabelsError)) as caught:
        open_labelled(root, split=split)
    message = str(caught.value)
    assert all(line.isprintable() for line in message.split("\n"))
    return message.replace(str(root), "D")


# ---------------------------------------------------------------- tables

TABLES = {
    "labels.csv": "image,labels\na.jpg,cat;dog\nb.jpg,dog\nc.jpg,none\n",
    "tags.csv": 'Filename,Tags\na.jpg,"cat,dog"\nb.jpg,dog\nc.jpg,none\n',
    "bars.csv": "File Name;Category\na.jpg;cat | dog\nb.jpg;dog\nc.jpg;none\n",
    "labels.tsv": "path\tclasses\na.jpg\tcat, dog\nb.jpg\tdog\nc.jpg\tnone\n",
    "wide.csv": "id,image,comment,label,width\n"
    "1,a.jpg,good,cat;dog,9\n2,b.jpg,,dog,9\n3,c.jpg,,none,9\n",
    "two.csv": "image,label1,label2\na.jpg,cat,dog\nb.jpg,dog,\nc.jpg,none,\n",
    "ids.csv": "image,label,class_name\na.jpg,1,cat;dog\nb.jpg,2,dog\nc.jpg,0,none\n",
    "first.csv": "labels;file\ncat,dog;a.jpg\ndog;b.jpg\nnone;c.jpg\n",
    "stems.csv": "image_id,tags\na,cat;dog\nb,dog\nc,none\n",
    "lists.csv": "image,labels\na.jpg,\"['cat', 'dog']\"\nb.jpg,['dog']\nc.jpg,['none']\n",
    "json.csv": 'image,labels\na.jpg,"[""cat"", ""dog""]"\nb.jpg,"[""dog""]"\nc.jpg,none\n',
    "excel.csv": "sep=;\nimage;labels\na.jpg;cat,dog\nb.jpg;dog\nc.jpg;none\n",
    "onehot.csv": "image,cat,dog\na.jpg,1,1\nb.jpg,0,1\nc.jpg,0,0\n",
    "_classes.csv": "filename, cat, dog\na.jpg, 1, 1\nb.jpg, 0, 1\nc.jpg, 0, 0\n",
    "words.csv": "image;cat;dog\na.jpg;yes;Yes\nb.jpg;no;YES\nc.jpg;no;no\n",
    "excel-words.csv": "image;cat;dog\na.jpg;TRUE;TRUE\nb.jpg;FALSE;TRUE\nc.jpg;FALSE;FALSE\n",
    "crosses.csv": "image;cat;dog\nc.jpg;;\na.jpg;x;X\nb.jpg;;x\n",
    "floats.csv": "image,cat,dog,width\na.jpg,1.0,1.0,640\nb.jpg,0.0,1.0,640\nc.jpg,0.0,0.0,640\n",
    "german.csv": "Dateiname;Tags;Bearbeiter\na.jpg;cat,dog;me\nb.jpg;dog;me\nc.jpg;none;you\n",
    "index.csv": ",image,cat,dog\n0,a.jpg,1,1\n1,b.jpg,0,1\n2,c.jpg,0,0\n",
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path: Path, name: str, encoding: str) -> None:
    images(tmp_path)
    (tmp_path / name).write_text(TABLES[name], encoding, newline="\r\n")
    assert shown(tmp_path) == EXPECTED
    assert shown(tmp_path / name) == EXPECTED
    assert open_labelled(tmp_path).classes == ("cat", "dog")


def test_where_labels_come_from_is_said(tmp_path: Path) -> None:
    images(tmp_path / "table").joinpath("tags.csv").write_text(TABLES["tags.csv"])
    assert open_labelled(tmp_path / "table").source == "tags.csv, a table"
    assert open_labelled(tmp_path / "table" / "tags.csv").source == "tags.csv, a table"
    (tmp_path / "table" / "tags.csv").rename(tmp_path / "table" / "labels.csv")
    assert open_labelled(tmp_path / "table").source == "labels.csv"
    folders = images(tmp_path / "folders", "cat/a.jpg", "dog/b.jpg")
    assert open_labelled(folders).source == "one folder per class"
    assert open_labelled(tiny_voc(tmp_path / "voc")).source == "VOC's Annotations"


def test_columns_that_are_passed_over_are_named(tmp_path: Path) -> None:
    images(tmp_path).joinpath("t.csv").write_text(TABLES["wide.csv"])
    said = notices(tmp_path)
    assert 't.csv: the columns "id", "comment", "width" are passed over.' in said
    (tmp_path / "t.csv").write_text(TABLES["tags.csv"])
    assert 't.csv: labels in a cell are separated by ",", as in "cat,dog".' in notices(tmp_path)


def test_columns_of_marks_keep_their_order(tmp_path: Path) -> None:
    images(tmp_path).joinpath("t.csv").write_text("image,dog,cat\na.jpg,1,0\nb.jpg,0,0\n")
    data = open_labelled(tmp_path)
    assert data.classes == ("dog", "cat")
    said = notices(tmp_path)
    assert "Class ids follow the order in t.csv: dog = 1, cat = 2." in said
    assert 't.csv: the columns of yes and no are classes: "dog", "cat".' in said
    assert "t.csv: 1 image shows none of the classes, by a row without a mark." in said
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert open_labelled(tmp_path).classes == ("cat", "dog")
    (tmp_path / "classes.txt").write_text("cat\nfish\n")
    assert 'line 2: class "dog" is not in classes.txt (2 names).' in refused(tmp_path)


def test_roboflows_unlabeled_column_marks_no_class(tmp_path: Path) -> None:
    text = "filename, Unlabeled, cat, dog\na.jpg, 0, 1, 1\nb.jpg, 0, 0, 1\nc.jpg, 1, 0, 0\n"
    images(tmp_path).joinpath("_classes.csv").write_text(text)
    assert shown(tmp_path) == {"a.jpg": ["cat", "dog"], "b.jpg": ["dog"]}
    assert '1 image left out, which "Unlabeled" marks.' in notices(tmp_path)


def test_a_column_for_none(tmp_path: Path) -> None:
    text = "image,cat,dog,none\na.jpg,1,1,0\nb.jpg,0,1,0\nc.jpg,0,0,1\n"
    images(tmp_path).joinpath("t.csv").write_text(text)
    assert shown(tmp_path) == EXPECTED
    assert open_labelled(tmp_path).classes == ("cat", "dog")
    (tmp_path / "t.csv").write_text(text.replace("0,1,0", "0,1,1"))
    assert refused(tmp_path) == (
        'D/t.csv line 3: "none" stands beside other labels (dog;none). Remove one or the other.'
    )


def test_a_split_column(tmp_path: Path) -> None:
    text = "image,labels,split\na.jpg,cat;dog,train\nb.jpg,dog,val\nc.jpg,none,train\n"
    images(tmp_path).joinpath("labels.csv").write_text(text)
    assert shown(tmp_path) == EXPECTED
    assert "splits are used: train 2, val 1. --split NAME takes one." in notices(tmp_path)
    assert shown(tmp_path, "val") == {"b.jpg": ["dog"]}
    assert "The splits are: train, val." in refused(tmp_path, "test")


def test_a_row_for_each_box_is_merged(tmp_path: Path) -> None:
    text = (  # Roboflow's and TensorFlow's
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,9,9,dog,1,1,2,2\n"
        "a.jpg,9,9,cat,1,1,3,3\nb.jpg,9,9,dog,1,1,2,2\n"
    )
    images(tmp_path, "train/a.jpg", "train/b.jpg")
    (tmp_path / "train/_annotations.csv").write_text(text)
    assert shown(tmp_path) == {"train/a.jpg": ["cat", "dog"], "train/b.jpg": ["dog"]}
    assert shown(tmp_path, "train") == shown(tmp_path)


def test_images_in_another_folder_than_the_table(tmp_path: Path) -> None:
    images(tmp_path, "2024/May/a.jpg", "2024/b.JPG")
    (tmp_path / "tags.csv").write_text("image,tags\na.jpg,cat\n2024/b.jpg,dog\n")
    assert shown(tmp_path) == {"2024/May/a.jpg": ["cat"], "2024/b.JPG": ["dog"]}
    assert "1 image was found by the end of the path, in another folder below" in notices(tmp_path)
    images(tmp_path, "2025/a.jpg")
    assert refused(tmp_path) == (
        'D/tags.csv line 2: image "a.jpg" may be "2024/May/a.jpg" or "2025/a.jpg". Write the path'
        " below D."
    )


# ---------------------------------------------------------------- one of several


def test_two_label_files_are_refused(tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / "tags.csv").write_text(TABLES["labels.csv"])
    (tmp_path / "more.json").write_text('{"a.jpg": ["bird"]}')
    (tmp_path / "measures.csv").write_text("length,width\n1,2\n")  # no labels
    assert refused(tmp_path) == (
        "D holds 2 label files, and they may say different things: more.json (JSON), tags.csv (a"
        " table). Name the one to be read, as in --data D/more.json, or move the others away."
    )
    assert shown(tmp_path / "more.json") == {"a.jpg": ["bird"]}
    assert shown(tmp_path / "tags.csv") == EXPECTED


def test_labels_csv_wins_and_others_are_named(tmp_path: Path) -> None:
    images(tmp_path).joinpath("labels.csv").write_text(TABLES["labels.csv"])
    (tmp_path / "more.json").write_text('{"a.jpg": ["bird"]}')
    assert shown(tmp_path) == EXPECTED
    said = "more.json has labels, too (JSON), and is passed over for labels.csv; --data"
    assert said in notices(tmp_path)
    shutil.rmtree(tmp_path)
    voc = tiny_voc(tmp_path)
    (voc / "tags.csv").write_text("image,tags\n2007_000001.jpg,cow\n")
    assert "tags.csv has labels, too (a table), and is passed over for Annotations" in notices(voc)
    assert shown(voc / "tags.csv") == {"JPEGImages/2007_000001.jpg": ["cow"]}


def test_a_table_that_is_not_understood_is_named_with_line_and_cure(tmp_path: Path) -> None:
    images(tmp_path).joinpath("pflanzen.csv").write_text("Foto;Art\na.jpg;Distel\n")
    assert refused(tmp_path) == (
        'D/pflanzen.csv line 1 has no column of labels ("Art" may be anything). Call that of the'
        ' labels "labels", or write a column of 0 and 1 for each class.'
    )
    (tmp_path / "pflanzen.csv").write_text("Ort;Art\nGarten;Distel\n")
    assert refused(tmp_path) == (
        'D/pflanzen.csv line 1 should be the header "image,labels" but reads "Ort;Art". Replace it'
        " by the header."
    )


@pytest.mark.parametrize(
    ("file", "cure"),
    [("Tags.xlsx", 'as CSV there (Excel calls it "CSV UTF-8").'), ("export.zip", "Unpack it")],
)
def test_files_that_labels_have_to_be_taken_out_of(tmp_path: Path, file: str, cure: str) -> None:
    images(tmp_path).joinpath(file).touch()
    assert refused(tmp_path).startswith(f"D/{file} is a") and cure in refused(tmp_path)
    assert cure in refused(tmp_path / file)
    (tmp_path / "labels.csv").write_text(TABLES["labels.csv"])
    assert shown(tmp_path) == EXPECTED


def test_a_label_file_in_a_folder_of_its_own(tmp_path: Path) -> None:
    images(tmp_path, "photos/a.jpg", "photos/b.jpg", "photos/c.jpg", "labels/tags.csv")
    (tmp_path / "labels/tags.csv").write_text(TABLES["tags.csv"])
    expected = {f"photos/{name}": words for name, words in EXPECTED.items()}
    assert shown(tmp_path / "labels/tags.csv") == expected


def test_files_named_after_splits(tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / "train.csv").write_text("image,labels\na.jpg,cat;dog\n")
    (tmp_path / "val.csv").write_text("image,labels\nb.jpg,dog\nc.jpg,none\n")
    assert shown(tmp_path) == EXPECTED
    assert shown(tmp_path, "train") == {"a.jpg": ["cat", "dog"]}
    (tmp_path / "val.csv").write_text("image,labels\nb.jpg,\nd.jpg,dog\n")
    assert refused(tmp_path).splitlines()[1:] == [
        '  val.csv line 2: "b.jpg" has no label. Name its classes, remove the line, or write'
        ' "none" if the image shows none of the classes.',
        '  val.csv line 3: image "d.jpg" does not exist in D. Did you mean "c.jpg"?',
    ]


# ---------------------------------------------------------------- JSON

JSON: dict[str, Any] = {
    "map.json": {"a.jpg": ["cat", "dog"], "b.jpg": "dog", "c.jpg": ["none"]},
    "texts.json": {"a.jpg": "cat;dog", "b.jpg": "dog", "c.jpg": "none"},
    "marks.json": {"a.jpg": {"cat": 1, "dog": True}, "b.jpg": {"cat": 0, "dog": 1},
                   "c.jpg": "none"},
    "inner.json": {"a.jpg": {"tags": ["cat", "dog"]}, "b.jpg": {"tags": ["dog"]},
                   "c.jpg": {"tags": ["none"]}},
    "list.json": [{"image": "a.jpg", "labels": ["cat", "dog"]}, {"image": "b.jpg", "labels": "dog"},
                  {"image": "c.jpg", "labels": ["none"]}],
    "keys.json": [{"Path": "a.jpg", "Tags": "cat, dog", "w": 3}, {"Path": "b.jpg", "Tags": "dog"},
                  {"Path": "c.jpg", "Tags": "none"}],
    "hot.json": [{"file": "a.jpg", "cat": 1, "dog": 1}, {"file": "b.jpg", "cat": 0, "dog": 1},
                 {"file": "c.jpg", "cat": 0, "dog": 0}],
}  # fmt: skip


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", JSON)
def test_json(tmp_path: Path, name: str, encoding: str) -> None:
    images(tmp_path).joinpath(name).write_text(json.dumps(JSON[name]), encoding)
    assert shown(tmp_path) == shown(tmp_path / name) == EXPECTED


@pytest.mark.parametrize("name", ["list.json", "keys.json", "hot.json"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    lines = "\n".join(map(json.dumps, JSON[name]))
    images(tmp_path).joinpath("labels.jsonl").write_text(lines + "\n\n")
    assert shown(tmp_path) == EXPECTED


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("t.json", '{"a.jpg": []}', 'D/t.json "a.jpg": "a.jpg" has no label.'),
        ("t.json", '{"a.jpg": null}', 'D/t.json "a.jpg": "a.jpg" has no label.'),
        ("t.json", '{"a.jpg": ["cat"], "a.jpg": ["dog"]}', '"a.jpg" is there twice'),
        ("t.json", '{"d.jpg": ["cat"]}', 'D/t.json "d.jpg": image "d.jpg" does not exist in D'),
        ("t.json", '{"a.jpg": [3]}', 'D/t.json "a.jpg": "3" is a number or a sign'),
        ("t.json", '{"a.jpg": [["cat"]]}', "brackets or quotation marks"),
        ("t.json", '{"a.jpg": ' + '{"label": ' * 400 + '"cat"' + "}" * 401, "letters. Write a"),
        ("t.json", '[{"image": "a.jpg", "labels": ["cat"]}, 7]', "entry 2: no object with an"),
        ("t.json", '[{"image": "a.jpg", "labels": "cat"}, {"image": "b.jpg"}]', "entry 2: "),
        ("t.jsonl", '{"image": "a.jpg", "label": "cat"}\n{"image": ', "t.jsonl line 2: no JSON"),
    ],
)  # fmt: skip
def test_json_that_cannot_be(tmp_path: Path, file: str, text: str, message: str) -> None:
    images(tmp_path).joinpath(file).write_text(text)
    assert message in refused(tmp_path)


# ---------------------------------------------------------------- Hugging Face


def test_image_folders_of_hugging_face(tmp_path: Path) -> None:
    images(tmp_path, "train/a.jpg", "train/b.jpg", "test/c.jpg")
    (tmp_path / "train/metadata.jsonl").write_text(
        '{"file_name": "a.jpg", "objects": {"bbox": [[1, 2]], "categories": ["dog", "cat"]}}\n'
        '{"file_name": "b.jpg", "objects": {"bbox": [], "categories": ["dog"]}}\n'
    )
    (tmp_path / "test/metadata.jsonl").write_text('{"file_name": "c.jpg", "label": "none"}\n')
    expected = {f"{'test' if n == 'c.jpg' else 'train'}/{n}": w for n, w in EXPECTED.items()}
    assert shown(tmp_path) == dict(sorted(expected.items()))
    assert shown(tmp_path, "test") == {"test/c.jpg": []}


def test_metadata_csv_of_hugging_face(tmp_path: Path) -> None:
    images(tmp_path, "train/1/a.jpg", "train/b.jpg")
    (tmp_path / "metadata.csv").write_text("file_name,label\ntrain/1/a.jpg,cat\ntrain/b.jpg,dog\n")
    assert shown(tmp_path) == {"train/1/a.jpg": ["cat"], "train/b.jpg": ["dog"]}


# ---------------------------------------------------------------- Label Studio


def task(image: str, *labels: Any, number: int = 1, **more: Any) -> dict[str, Any]:
    """A task; each of ``labels`` is an annotation, as (control, kind, words) or just the words."""
    return {
        "id": number,
        "annotations": [
            {"id": n, "was_cancelled": False, "ground_truth": False, "result": [
                {"from_name": control, "to_name": "image", "type": kind, "origin": "manual",
                 "value": {kind: words}}
                for control, kind, words in (each if isinstance(each[0], tuple)
                                             else [("animal", "choices", each)])
            ]}
            for n, each in enumerate(labels)
        ],
        "predictions": [{"result": [{"type": "choices", "value": {"choices": ["bird"]}}]}],
        "data": {"image": image}, "file_upload": image.rpartition("/")[2],
    } | more  # fmt: skip


@pytest.mark.parametrize(
    "address",
    [
        "/data/upload/1/1a2b3c4d-{}",
        "/data/upload/1a2b3c4d-{}?x=1",
        "/data/local-files/?d=somewhere/else/{}",
        "https://studio.example/data/local-files/?d=photos%2F{}",
        "s3://bucket/day%201/{}",
        "https://example.org/images/{}?Expires=1",
        "/srv/me/photos/{}",
        "C:\\photos\\{}",
        "{}",
    ],
)
def test_label_studio(tmp_path: Path, address: str) -> None:
    images(tmp_path, "photos/a.jpg", "photos/b.jpg", "photos/c.jpg")
    tasks = [
        task(address.format("a.jpg"), ["dog", "cat"]),
        task(address.format("b.jpg"), ["dog"], ["dog"], number=2),
        task(address.format("c.jpg"), ["none"], number=3),
        task(address.format("d.jpg"), number=4),
    ]
    (tmp_path / "project-1-at-2024.json").write_text(json.dumps(tasks))
    assert shown(tmp_path) == {f"photos/{name}": words for name, words in EXPECTED.items()}
    assert "1 of 4 tasks left out, without a label" in notices(tmp_path)


def test_label_studios_export_for_coco_without_its_images(tmp_path: Path) -> None:
    """Names have what Label Studio put before them, and the images are the user's own."""
    images(tmp_path, "photos/a.jpg", "photos/b.jpg")
    table: dict[str, Any] = {
        "images": [{"id": 0, "file_name": "images/1a2b3c4d-a.jpg", "width": 9, "height": 9},
                   {"id": 1, "file_name": "..\\..\\photos\\1a2b3c4d-b.jpg"}],
        "categories": [{"id": 0, "name": "cat"}, {"id": 1, "name": "dog"}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 1, "bbox": [1, 1, 2, 2]}],
        "info": {"contributor": "Label Studio"},
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(table | {"images": table["images"][:1]}))
    assert shown(tmp_path) == {"photos/a.jpg": ["dog"]}
    (tmp_path / "result.json").write_text(json.dumps(table | {"info": {}}))
    assert 'has an empty part, "." or ".." in it' in refused(tmp_path)
    table["annotations"].append({"id": 1, "image_id": 1, "category_id": 0})
    for name in (
        "/data/upload/1/1a2b3c4d-b.jpg",
        "../../home/ann/.local/share/label-studio/media/upload/1/1a2b3c4d-b.jpg",  # 1.23
        "../../home/ann/photos/b.jpg",  # of local files
    ):
        table["images"][1]["file_name"] = name
        (tmp_path / "result.json").write_text(json.dumps(table))
        assert shown(tmp_path) == {"photos/a.jpg": ["dog"], "photos/b.jpg": ["cat"]}


def test_names_as_label_studio_keeps_them(tmp_path: Path) -> None:
    images(tmp_path, "My photo (1).jpg", "other.jpg")
    (tmp_path / "p.json").write_text(
        json.dumps([task("/data/upload/3/0a1b2c3d-My_photo_1.jpg", ["cat"])])
    )
    assert shown(tmp_path) == {"My photo (1).jpg": ["cat"]}


def test_of_two_images_the_one_in_the_same_folder_is_meant(tmp_path: Path) -> None:
    images(tmp_path, "day1/a.jpg", "day2/a.jpg")
    file = tmp_path / "p.json"
    file.write_text(json.dumps([task("/data/local-files/?d=photos/day2/a.jpg", ["cat"])]))
    assert shown(tmp_path) == {"day2/a.jpg": ["cat"]}
    file.write_text(json.dumps([task("/data/upload/1/0a1b2c3d-a.jpg", ["cat"])]))
    assert 'may be "day1/a.jpg" or "day2/a.jpg"' in refused(tmp_path)


def test_regions_of_label_studio_count_as_present(tmp_path: Path) -> None:
    regions = [("box", "rectanglelabels", ["dog"]), ("brush", "brushlabels", ["cat"])]
    images(tmp_path).joinpath("p.json").write_text(json.dumps([task("a.jpg", regions)]))
    assert shown(tmp_path) == {"a.jpg": ["cat", "dog"]}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([task("a.jpg", ["cat"], ["dog"], number=7)],
         'D/p.json task 7: its annotations differ, "cat" and "dog". Delete one, or mark one'),
        ([task("a.jpg", [("animal", "choices", ["cat"]), ("quality", "choices", ["sharp"])])],
         'labels of several kinds for an image, "animal" and "quality". Export as CSV'),
        ([task("text", ["cat"], number=3)], "D/p.json task 3: its data name no image file."),
        ([task("a.jpg")], "D/p.json labels no image. Label some, and export them again."),
        ([task("/data/upload/1/1a2b3c4d-d.jpg", ["cat"])],
         'image "/data/upload/1/1a2b3c4d-d.jpg" does not exist in D.'),
    ],
)  # fmt: skip
def test_label_studio_that_cannot_be(tmp_path: Path, tasks: Any, message: str) -> None:
    images(tmp_path).joinpath("p.json").write_text(json.dumps(tasks))
    assert message in refused(tmp_path)


def test_the_annotation_that_is_marked_as_true_counts(tmp_path: Path) -> None:
    both = task("a.jpg", ["cat"], ["dog"], ["bird"])
    both["annotations"][1]["ground_truth"] = True
    images(tmp_path).joinpath("p.json").write_text(json.dumps([both]))
    assert shown(tmp_path) == {"a.jpg": ["dog"]}
    both["annotations"][1] |= {"ground_truth": False, "was_cancelled": True}
    both["annotations"][2]["was_cancelled"] = True
    (tmp_path / "p.json").write_text(json.dumps([both]))
    assert shown(tmp_path) == {"a.jpg": ["cat"]}


MINIMAL = [
    {"image": "/data/upload/1/1a2b3c4d-a.jpg", "id": 1, "animal": {"choices": ["cat", "dog"]},
     "annotator": 1, "annotation_id": 1, "created_at": "2024", "updated_at": "2024",
     "lead_time": 3.5},
    {"image": "/data/upload/1/1a2b3c4d-b.jpg", "id": 2, "animal": "dog", "annotator": 1,
     "annotation_id": 2, "created_at": "2024", "updated_at": "2024", "lead_time": 3.5},
    {"image": "/data/upload/1/1a2b3c4d-c.jpg", "id": 3, "animal": "none", "annotator": 1,
     "annotation_id": 3, "created_at": "2024", "updated_at": "2024", "lead_time": 3.5},
]  # fmt: skip


def test_label_studios_short_exports(tmp_path: Path) -> None:
    file = images(tmp_path) / "p.json"
    file.write_text(json.dumps(MINIMAL))
    assert shown(tmp_path) == EXPECTED
    file.unlink()
    text = "annotation_id,annotator,animal,created_at,id,image,lead_time,updated_at\n" + "".join(
        f"{n},1,{cell},2024,{n},/data/upload/1/1a2b3c4d-{name}.jpg,3.5,2024\n"
        for n, (name, cell) in enumerate(
            [("a", '"{""choices"":[""cat"",""dog""]}"'), ("b", "dog"), ("c", "none")]
        )
    )
    (tmp_path / "project-1.csv").write_text(text)
    assert shown(tmp_path) == EXPECTED


# ---------------------------------------------------------------- CVAT

CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta><task><id>1</id><labels>
    <label><name>dog</name><color>#fa3253</color><type>any</type><attributes></attributes></label>
    <label><name>cat</name><color>#fa3253</color><type>any</type><attributes></attributes></label>
  </labels></task></meta>
  <image id="0" name="a.jpg" subset="Train" width="9" height="9">
    <tag label="cat" source="manual"></tag><tag label="dog" source="manual"></tag>
  </image>
  <image id="1" name="b.jpg" width="9" height="9">
    <box label="dog" source="manual" occluded="0" xtl="1" ytl="1" xbr="3" ybr="3" z_order="0"></box>
    <mask label="dog" rle="1, 2" left="0" top="0" width="2" height="2"></mask>
  </image>
  <image id="2" name="c.jpg" width="9" height="9">
  </image>
</annotations>
"""


def test_cvat(tmp_path: Path) -> None:
    images(tmp_path, "images/a.jpg", "images/b.jpg", "images/c.jpg")
    (tmp_path / "annotations.xml").write_text(CVAT)
    assert shown(tmp_path) == {"images/a.jpg": ["dog", "cat"], "images/b.jpg": ["dog"]}
    assert open_labelled(tmp_path).classes == ("dog", "cat")
    assert "annotations.xml: 1 of 3 images left out, without a tag or a shape" in notices(tmp_path)
    assert shown(tmp_path, "Train") == {"images/a.jpg": ["dog", "cat"]}
    text = CVAT.replace('height="9">\n  </image>', 'height="9"><tag label="none"/></image>')
    (tmp_path / "annotations.xml").write_text(
        text.replace("<name>cat", "<name>none</name></label><label><name>cat")
    )
    assert shown(tmp_path)["images/c.jpg"] == []
    assert open_labelled(tmp_path).classes == ("dog", "cat")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CVAT[:600], "D/annotations.xml is not valid XML ("),
        ("<annotations><track id='0'/></annotations>", "holds tracks of a video, but labels of"),
        ("<annotations></annotations>", "holds no <image> in <annotations>"),
        (CVAT.replace('tag label="cat"', "tag"), 'image 0 ("a.jpg"): a mark has no label.'),
        (CVAT.replace('tag label="cat"', 'tag label="cow"'), 'image 0: class "cow" is not in the'),
    ],
)  # fmt: skip
def test_cvat_that_cannot_be(tmp_path: Path, text: str, message: str) -> None:
    images(tmp_path).joinpath("annotations.xml").write_text(text)
    assert message in refused(tmp_path)


# ---------------------------------------------------------------- YOLO


def yolo(root: Path, yaml: str, **labels: str) -> Path:
    """images/train/a.jpg ... and the text files of labels; ``__`` stands for "/"."""
    images(root, "images/train/a.jpg", "images/train/b.jpg", "images/val/c.jpg")
    root.joinpath("data.yaml").write_text(yaml)
    texts = {"train/a": "1 .5 .5 .1 .1\n0 .2 .2 .1 .1\n", "train/b": "1 0 0 0 1 1 1 .5 .5\n"}
    texts |= {"val/c": ""} | {name.replace("__", "/"): text for name, text in labels.items()}
    for name, text in texts.items():
        (root / f"labels/{name}.txt").parent.mkdir(parents=True, exist_ok=True)
        (root / f"labels/{name}.txt").write_text(text)
    return root


IN_YOLO = {
    "images/train/a.jpg": ["cat", "dog"],
    "images/train/b.jpg": ["dog"],
    "images/val/c.jpg": [],
}


@pytest.mark.parametrize(
    "yaml",
    [
        "names: [cat, dog]\ntrain: images/train\nval: images/val\n",
        "names:\n  0: cat\n  1: dog\nnc: 2\ntrain: images/train\nval: images/val\n",
        "path: ../datasets/pets\ntrain: images/train\nval: images/val\ntest:\nnames: [cat, dog]\n",
        "path: /srv/me/pets\ntrain: [images/train]\nval: images/val\nnames: [cat, dog]\n",
        "train: ../images/train\nval: ../images/val\nnames: ['cat', 'dog']\nroboflow: {v: 1}\n",
        "train: /srv/me/pets/images/train/\nval: ./images/val\nnames: [cat, dog]\n",
        "names: [cat, dog]\n",
    ],
)
def test_yolo(tmp_path: Path, yaml: str) -> None:
    yolo(tmp_path, yaml)
    assert shown(tmp_path) == shown(tmp_path / "data.yaml") == IN_YOLO
    assert open_labelled(tmp_path).classes == ("cat", "dog")
    assert "1 image shows none of the classes, by an empty file of labels." in notices(tmp_path)


def test_splits_of_yolo(tmp_path: Path) -> None:
    yolo(tmp_path, "names: [cat, dog]\ntrain: images/train\nval: images/val\ntest: images/test\n")
    assert shown(tmp_path, "val") == {"images/val/c.jpg": []}
    assert 'data.yaml: test is "images/test", which is not below' in notices(tmp_path)
    (tmp_path / "labels/train/b.txt").unlink()
    assert list(shown(tmp_path, "train")) == ["images/train/a.jpg"]
    assert "1 of 3 images left out, without a file of labels." in notices(tmp_path)


def test_lists_of_yolo(tmp_path: Path) -> None:
    yolo(tmp_path, "names: [cat, dog]\ntrain: train.txt\nval: images/val\n")
    (tmp_path / "train.txt").write_text("data/images/train/b.jpg\n./images/train/a.jpg\n")
    assert list(shown(tmp_path, "train")) == ["images/train/b.jpg", "images/train/a.jpg"]


def test_roboflows_folders_of_yolo(tmp_path: Path) -> None:
    images(tmp_path, "train/images/a.jpg", "valid/images/b.jpg")
    for name, text in (("train/labels/a", "0 0 0 1 1\n1 0 0 1 1"), ("valid/labels/b", "1 0 0 1 1")):
        (tmp_path / name).parent.mkdir()
        (tmp_path / f"{name}.txt").write_text(text)
    (tmp_path / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['cat', 'dog']\n"
    )
    assert shown(tmp_path) == {"train/images/a.jpg": ["cat", "dog"], "valid/images/b.jpg": ["dog"]}
    assert list(shown(tmp_path, "val")) == ["valid/images/b.jpg"]


def test_label_studios_export_for_yolo(tmp_path: Path) -> None:
    yolo(tmp_path, "")
    (tmp_path / "data.yaml").unlink()
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "notes.json").write_text('{"categories": [{"id": 0, "name": "cat"}], "info": {}}')
    assert shown(tmp_path) == IN_YOLO
    assert shown(tmp_path, "val") == {"images/val/c.jpg": []}


def test_label_studios_export_for_yolo_without_its_images(tmp_path: Path) -> None:
    images(tmp_path, "images/My photo (1).jpg", "images/b.jpg", "images/c.jpg")
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "labels").mkdir()
    for name, text in (("0a1b2c3d-My_photo_1", "0 .5 .5 .1 .1\n"), ("1a2b3c4d-b", "1 0 0 1 1\n")):
        (tmp_path / "labels" / f"{name}.txt").write_text(text)
    assert shown(tmp_path) == {"images/My photo (1).jpg": ["cat"], "images/b.jpg": ["dog"]}
    (tmp_path / "labels" / "2a2b3c4d-b.txt").write_text("0 0 0 1 1\n")
    assert "1a2b3c4d-b.txt and 2a2b3c4d-b.txt are both of images/b.jpg. Keep one." in refused(
        tmp_path
    )


def test_labelimgs_files_beside_the_images(tmp_path: Path) -> None:
    images(tmp_path)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    assert "is no data folder" in refused(tmp_path)
    for name, text in (("a", "0 .5 .5 .1 .1\n1 .5 .5 .1 .1\n"), ("b", "1 .5 .5 .1 .1"), ("c", "")):
        (tmp_path / f"{name}.txt").write_text(text)
    assert shown(tmp_path) == EXPECTED


@pytest.mark.parametrize(
    ("labels", "yaml", "message"),
    [
        ({"train__a": "1 0 0 1 1\ncat 0 0 1 1\n"}, "names: [cat, dog]",
         'D/data.yaml labels/train/a.txt line 2: "cat 0 0 1 1" does not begin with the number'),
        ({"train__a": "2 0 0 1 1\n"}, "names: [cat, dog]",
         "labels/train/a.txt line 1: class 2, but the names go from 0 to 1."),
        ({}, "names: {1: cat, 2: dog}", "or one name for each number from 0, is expected"),
        ({}, "names: [cat, '1']", 'class 2: "1" is a number or a sign'),
        ({}, "names: [cat, dog]\ntrain: [pictures]", "D/data.yaml: no image is where it says."),
    ],
)  # fmt: skip
def test_yolo_that_cannot_be(
    tmp_path: Path, labels: dict[str, str], yaml: str, message: str
) -> None:
    assert message in refused(yolo(tmp_path, yaml, **labels))


def test_yolo_without_any_labels(tmp_path: Path) -> None:
    yolo(tmp_path, "names: [cat, dog]\ntrain: images/train\n")
    shutil.rmtree(tmp_path / "labels")
    assert refused(tmp_path) == (
        "D/data.yaml: none of 2 images has labels. Those of images/train/a.jpg belong in"
        " labels/train/a.txt."
    )


# ---------------------------------------------------------------- a folder per class


def test_a_folder_per_class(tmp_path: Path) -> None:
    images(tmp_path, "cat/a.jpg", "dog/b.jpg", "none/c.jpg", "cat,dog/d.jpg")
    assert shown(tmp_path) == {
        "cat/a.jpg": ["cat"], "cat,dog/d.jpg": ["cat", "dog"], "dog/b.jpg": ["dog"],
        "none/c.jpg": [],
    }  # fmt: skip
    assert "one folder per class; labels are the names of the folders." in notices(tmp_path)
    names = [sample.name for sample in open_labelled(tmp_path).samples]
    assert names == ["cat,dog/d", "cat/a", "dog/b", "none/c"]


def test_results_among_the_folders_are_no_class(tmp_path: Path) -> None:
    images(tmp_path, "cat/a.jpg", "dog/b.jpg", "out/overlays/a.png", "out/masks/a.png")
    for name in ("manifest.csv", "classes.txt"):
        (tmp_path / "out" / name).touch()
    assert shown(tmp_path) == {"cat/a.jpg": ["cat"], "dog/b.jpg": ["dog"]}
    (tmp_path / "t.csv").write_text("image,labels\na,cat\nb,dog\n")
    assert shown(tmp_path) == {"cat/a.jpg": ["cat"], "dog/b.jpg": ["dog"]}


def test_folders_of_splits(tmp_path: Path) -> None:
    images(tmp_path, "train/cat/a.jpg", "train/dog/b.jpg", "test/cat/c.jpg")
    assert shown(tmp_path) == {
        "test/cat/c.jpg": ["cat"], "train/cat/a.jpg": ["cat"], "train/dog/b.jpg": ["dog"],
    }  # fmt: skip
    assert shown(tmp_path, "test") == {"test/cat/c.jpg": ["cat"]}
    assert "all splits are used: test 1, train 2" in notices(tmp_path)


def test_a_copy_in_several_folders_is_an_image_of_several_classes(tmp_path: Path) -> None:
    images(tmp_path, "cat/a.jpg", "dog/b.jpg", "dog/d.jpg")
    shutil.copy(tmp_path / "cat/a.jpg", tmp_path / "dog/again.jpg")
    assert shown(tmp_path) == {
        "cat/a.jpg": ["cat", "dog"], "dog/b.jpg": ["dog"], "dog/d.jpg": ["dog"],
    }  # fmt: skip
    assert "1 copy of images in other folders: each image is used once" in notices(tmp_path)


def test_folders_within_each_other(tmp_path: Path) -> None:
    images(tmp_path, "cat/a.jpg", "dog/b.jpg", "cat/dog/c.jpg")
    assert shown(tmp_path)["cat/dog/c.jpg"] == ["cat", "dog"]
    images(tmp_path, "cat/young/d.jpg")
    assert refused(tmp_path).startswith(
        'D: "cat/young/d.jpg" lies in 2 folders, and it cannot be told which are classes. Call a'
        ' folder of images of two classes "cat,dog". Or write labels.csv: the header'
    )


@pytest.mark.parametrize(
    "paths",
    [
        ["photos/a.jpg"],
        ["cat/a.jpg"],
        ["cat/a.jpg", "dog/b.jpg", "c.jpg"],
        ["images/a.jpg", "masks/a.png"],
        ["train/a.jpg", "val/b.jpg"],
    ],
)
def test_folders_that_are_no_classes(tmp_path: Path, paths: list[str]) -> None:
    images(tmp_path, *paths)
    assert "is no data folder" in refused(tmp_path)


def test_a_sign_in_a_name_separates_no_classes(tmp_path: Path) -> None:
    images(tmp_path, "salt & pepper/a.jpg", "C+/b.jpg", "dog;cat/c.jpg")
    assert open_labelled(tmp_path).classes == ("C+", "cat", "dog", "salt & pepper")


def test_classes_of_a_list_and_folders(tmp_path: Path) -> None:
    images(tmp_path, "a, b/a.jpg", "dog/b.jpg")
    (tmp_path / "classes.txt").write_text("dog\na, b\n")
    data = open_labelled(tmp_path)
    assert data.classes == ("dog", "a, b")
    assert [sample.labels for sample in data.samples] == [(1,), (0,)]
    (tmp_path / "classes.txt").write_text("dog\n")
    assert refused(tmp_path).splitlines()[1:] == [
        '  a, b/a.jpg: class "a" is not in classes.txt (1 names).',
        '  a, b/a.jpg: class "b" is not in classes.txt (1 names).',
    ]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tags.csv", "Bild;Klassen\nday1/a.jpg;cat\nday2/b.jpg;dog\n"),
        ("tags.csv", "Tags of 2024\nImage;Tags\nday1/a.jpg;cat\n"),
        ("labels.json", '{"day1/a.jpg": ["cat"], '),
        ("tags.xlsx", "PK"),
        ("day1/tags.csv", "image,labels\na.jpg,cat\n"),
        ("day1/a.json", '{"shapes": [{"label": "cat"}]}'),
    ],
)
def test_labels_that_are_not_understood_make_folders_no_classes(
    tmp_path: Path, file: str, content: str
) -> None:
    images(tmp_path, "day1/a.jpg", "day2/b.jpg")
    (tmp_path / file).write_text(content)
    assert refused(tmp_path).startswith(
        "D has folders that may be classes, and a file that may hold the labels, "
        f"{file}. If it does, give it (--data D/{file})"
    )
    (tmp_path / "classes.txt").write_text("day2\nday1\n")
    assert shown(tmp_path) == {"day1/a.jpg": ["day1"], "day2/b.jpg": ["day2"]}


@pytest.mark.parametrize("values", ["0 2 3", "0 0.97 0.99"])
def test_a_column_of_counts_or_scores_beside_marks_is_refused(tmp_path: Path, values: str) -> None:
    images(tmp_path)
    rows = [f"{n}.jpg,{on},{v}" for n, on, v in zip("abc", "100", values.split(), strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["image,cat,dog", *rows]))
    assert 'line 3: the column "dog" has "' in refused(tmp_path)


def _uploaded(name: str, **more: str) -> str:
    result = [{"from_name": "c", "type": "choices", "value": {"choices": ["cat"]}}]
    data = {**more, "image": name}
    return json.dumps([{"id": 1, "data": data, "annotations": [{"result": result}]}])


def test_an_uploaded_name_that_two_images_may_have(tmp_path: Path) -> None:
    images(tmp_path, "IMG (1).jpg", "IMG_1.jpg")
    (tmp_path / "p.json").write_text(_uploaded("/data/upload/1/1a2b3c4d-IMG_1.jpg"))
    assert 'may be "IMG (1).jpg" or "IMG_1.jpg"' in refused(tmp_path)
    (tmp_path / "p.json").write_text(_uploaded("/data/local-files/?d=photos/IMG_1.jpg"))
    assert shown(tmp_path) == {"IMG_1.jpg": ["cat"]}


def test_the_image_of_a_task_comes_before_its_thumbnail(tmp_path: Path) -> None:
    images(tmp_path, "t/a.jpg", "a.jpg")
    (tmp_path / "p.json").write_text(_uploaded("a.jpg", thumb="t/a.jpg"))
    assert shown(tmp_path) == {"a.jpg": ["cat"]}


@pytest.mark.parametrize(
    "table",
    [
        "folder,filename,label\n.,a.jpg,cat\nday1,a.jpg,dog\n",
        "path,filename,label\na.jpg,a.jpg,cat\nday1/a.jpg,a.jpg,dog\n",
    ],
)
def test_a_column_of_folders_belongs_to_the_image(tmp_path: Path, table: str) -> None:
    images(tmp_path, "a.jpg", "day1/a.jpg")
    (tmp_path / "tags.csv").write_text(table)
    assert shown(tmp_path) == {"a.jpg": ["cat"], "day1/a.jpg": ["dog"]}


def test_one_path_in_two_usual_folders_is_ambiguous(tmp_path: Path) -> None:
    images(tmp_path, "images/a.jpg", "JPEGImages/a.jpg")
    (tmp_path / "tags.csv").write_text("image,label\na.jpg,cat\n")
    assert 'may be "JPEGImages/a.jpg" or "images/a.jpg"' in refused(tmp_path)


def test_labels_that_openimages_marks_as_not_there_are_refused(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    (tmp_path / "tags.csv").write_text("ImageID,LabelName,Confidence\na,cat,1\na,dog,0\n")
    assert 'has 0 in the column "Confidence"' in refused(tmp_path)
