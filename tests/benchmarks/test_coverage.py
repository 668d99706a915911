"""The coverage benchmark: which networks are on its list, what a killed child is recorded as, what the report says."""

import argparse
import fnmatch
from pathlib import Path

import pytest

from benchmarks.foreign import command, listing, report, rows
from benchmarks.foreign.listing import Entry, Listing
from benchmarks.foreign.rows import COLUMNS, Row
from benchmarks.foreign.watching import Limits, columns_of

NETWORKS = (
    Entry("torchvision", "", "resnet18", 32, 11_000_000),
    Entry("torchvision", "", "vgg11", 32, 129_000_000),
    Entry("timm", "beit", "beit_base", 0, 0, "answers at no size"),
)
LISTED = Listing({"timm": "1.0"}, NETWORKS)


def test_list_holds_every_torchvision_name_and_the_large_ones_last() -> None:
    from torchvision import models

    networks = listing.read().networks
    assert {e.name for e in networks if e.library == "torchvision"} >= set(models.list_models(module=models))
    large = [entry.n_parameters > listing.LARGE for entry in networks]
    assert large == sorted(large)
    assert len({entry.model for entry in networks}) == len(networks)


def test_chosen_takes_the_smallest_and_one_of_another_family() -> None:
    counts = {"resnet18": 30, "resnet10t": 10, "resnet14t": 20, "seresnet50": 90, "gigantic": None}
    assert listing.chosen(counts) == ["resnet10t", "seresnet50"]
    assert listing.chosen({"vgg11": 3, "vgg13": 4}) == ["vgg11", "vgg13"]
    assert listing.chosen({"volo_d1": 3}) == ["volo_d1"]


def test_own_size_goes_first_only_where_it_is_small() -> None:
    assert listing._sizes(112)[0] == 112
    assert listing._sizes(224)[:2] == (32, 48)


def test_rows_of_a_file_are_the_last_ones_whatever_a_kill_left(tmp_path: Path) -> None:
    rows.append(tmp_path, [Row("timm:a", "Q", "wrong"), Row("timm:a", "Q", "right", figures={"db": 30.0})])
    with (tmp_path / rows.RESULTS).open("a") as file:
        file.write('{"model": "timm:a", "col')
    assert rows.read(tmp_path) == {("timm:a", "Q"): Row("timm:a", "Q", "right", figures={"db": 30.0})}


@pytest.mark.parametrize(
    ("limits", "outcome"),
    [(Limits(100, 100, 0.001), "memory"), (Limits(100, 0.0, 100), "timeout"), (Limits(0.0, 100, 100), "timeout")],
)
def test_a_child_beyond_its_limits_is_said_so_in_every_column(tmp_path: Path, limits: Limits, outcome: str) -> None:
    found = [*columns_of(NETWORKS[0], ["built", "P", "Q"], "ort", limits, tmp_path / "log.txt")]
    assert [(row.column, row.outcome) for row in found] == [(c, outcome) for c in ("built", "P", "Q")]


def test_a_network_that_cannot_be_built_is_not_right_in_any_column(tmp_path: Path) -> None:
    unknown = Entry("torchvision", "", "resnet19", 32, 1)
    found = [*columns_of(unknown, ["built", "Q"], "ort", Limits(200, 200, 100), tmp_path / "log.txt")]
    assert [(row.column, row.outcome) for row in found] == [("built", "refused"), ("Q", "refused")]
    assert "resnet19" in found[0].reason


def test_networks_are_chosen_by_library_pattern_and_sample() -> None:
    def chosen(**given: object) -> list[str]:
        return [
            e.name
            for e in command.chosen(argparse.Namespace(**{"library": None, "only": None, "sample": None} | given))
        ]

    assert all(fnmatch.fnmatch(name, "resnet*") for name in chosen(only=["resnet*"]))
    assert len(chosen(sample=12)) == 12
    assert chosen(library="torchvision", only=["torchvision:vgg11"]) == ["vgg11"]
    with pytest.raises(SystemExit, match="no network"):
        chosen(only=["resnet19"])


def test_report_counts_right_of_run_and_says_what_is_untried() -> None:
    known = [Row("torchvision:resnet18", column, "right", seconds=1.0, peak_mib=500.0) for column in COLUMNS]
    known += [Row("timm:beit_base", "Q", "unexpected", "boom"), Row("timm:beit_base", "P", "wrong", "10 dB")]
    text = report.text(LISTED, {(row.model, row.column): row for row in known}, "a machine")
    assert "### torchvision: 2 networks in the list, 1 run, 1 untried" in text
    assert "| Q | 1 | 1 (100 %) | 0 | 0 | 0 | 0 |" in text
    assert "| Q | 1 | 0 (0 %) | 0 | 0 | 0 | 1 |" in text
    assert "| P | 1 | 0 (0 %) | 0 | 0 | 1 | 0 |" in text
    assert f"| torchvision:vgg11 | 32 | 129.0 |{' untried |' * len(COLUMNS)} - | - |" in text
    assert "- timm:beit_base Q: unexpected after 0 s: boom" in text
    assert "P, Q, `PQ` + export + build: 1/1 (100 %) right; goal 95 %" in text
