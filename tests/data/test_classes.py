"""Labels as outputs of a network that tells more classes apart than the data have."""

import json

import pytest
import torch

from nacdeploy import data
from nacdeploy.base.errors import UsageError
from nacdeploy.data.classes import on_outputs
from nacdeploy.data.sets import ImageSet, Splits
from nacdeploy.profile.tables.training import DataTable

NAMES = ["ant", "bee", "cat", "dog", "eel"]


def _splits(*class_names):
    """Each class once in every split."""
    labels = torch.arange(len(class_names))
    part = ImageSet(torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8), labels)
    return Splits(part, part, part, class_names, "here")


def _labels(splits):
    return [split.labels.tolist() for split in (splits.train, splits.validation, splits.test)]


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("txt", "\n".join(NAMES)),
        ("txt", "\ufeff" + "\r\n".join(NAMES) + "\r\n\r\n"),
        ("json", json.dumps(NAMES)),
        ("json", json.dumps({str(i): name for i, name in enumerate(NAMES)})),
        ("json", json.dumps({name: i for i, name in enumerate(NAMES)})),
        ("json", "\ufeff" + json.dumps({str(i): [f"n{i:08}", name] for i, name in enumerate(NAMES)})),
    ],
)
def test_file_names_the_outputs(tmp_path, suffix, text):
    path = tmp_path / f"classes.{suffix}"
    path.write_text(text, encoding="utf-8", newline="")
    mapped = on_outputs(_splits("dog", "bee"), str(path), None)
    assert _labels(mapped) == [[3, 1]] * 3
    assert len(mapped.class_names) == 5


def test_line_may_begin_with_the_number_of_wordnet(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("n01440764 tench, Tinca tinca\nn01443537 goldfish\nn01484850 great white shark\n")
    mapped = on_outputs(_splits("n01484850", "n01440764"), str(path), None)
    assert _labels(mapped)[0] == [2, 0]
    assert mapped.class_names[1] == "n01443537 goldfish"


def test_folders_are_called_by_their_index():
    mapped = on_outputs(_splits("0281", "7"), "index", 1000)
    assert _labels(mapped)[0] == [281, 7]
    assert (len(mapped.class_names), mapped.class_names[281]) == (1000, "0281")


def test_outputs_beyond_the_file_are_shown_by_their_number(tmp_path):
    path = tmp_path / "some.json"
    path.write_text('{"ant": 4, "bee": 1}')
    mapped = on_outputs(_splits("ant", "bee"), str(path), 6)
    assert (_labels(mapped)[0], mapped.class_names) == ([4, 1], ("0", "bee", "2", "3", "ant", "5"))


def test_name_of_two_outputs_is_no_folder_and_no_obstacle(tmp_path):
    path = tmp_path / "imagenet.txt"
    path.write_text("crane\ncat\ncrane\ndog\n")
    assert _labels(on_outputs(_splits("cat", "dog"), str(path), None))[0] == [1, 3]
    with pytest.raises(UsageError, match="has no class 'crane'"):
        on_outputs(_splits("cat", "crane"), str(path), None)


@pytest.mark.parametrize(
    ("classes", "n_classes", "names", "message"),
    [
        ("index", 10, ("1", "cat"), "takes classes called by a number, and 'cat' is none"),
        ("index", None, ("1", "2"), r"set images\.n_classes"),
        ("index", 2, ("1", "2"), "'2' is 2; outputs go from 0 to 1"),
        ("index", 9, ("1", "01"), "gives all classes of the data the same output"),
        ("names.txt", None, ("cat", "dgo"), "has no class 'dgo'; did you mean 'dog'"),
        ("names.txt", 2, ("ant", "bee"), "outputs go from 0 to 1"),
        ("gap.json", None, ("ant", "eel"), r"names no class 1; set images\.n_classes to the network's outputs"),
        ("other.json", None, ("ant", "bee"), "gives no class names; its JSON is"),
        ("empty.txt", None, ("ant", "bee"), "names no class; it holds one name per line"),
        ("missing.txt", None, ("ant", "bee"), r"missing\.txt is not a readable text file"),
        ("missing.json", None, ("ant", "bee"), r"missing\.json does not exist"),
    ],
)
def test_on_outputs_fails_when_the_outputs_are_not_clear(tmp_path, monkeypatch, classes, n_classes, names, message):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "names.txt": "\n".join(NAMES),
        "gap.json": '{"ant": 0, "eel": 4}',
        "other.json": '{"ant": "insect"}',
        "empty.txt": "\n",
    }.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=message):
        on_outputs(_splits(*names), classes, n_classes)


def test_load_puts_labels_on_outputs_and_reduces_as_ever(tmp_path):
    path = tmp_path / "outputs.txt"
    path.write_text("\n".join(["none", *map(str, range(10)), "letter"]))
    plain = data.load("digits", DataTable(n_train=100, n_validation=50, n_test=50))
    loaded = data.load("digits", DataTable(n_train=100, n_validation=50, n_test=50, classes=str(path)))
    assert loaded.n_outputs == 12
    assert torch.equal(loaded.train.images, plain.train.images)
    assert torch.equal(loaded.train.labels, plain.train.labels + 1)
    assert loaded.fingerprint != plain.fingerprint
