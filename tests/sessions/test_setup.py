"""Settings: every source in one order, the value in force and its source, and one walk for each command."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from command_line import lay_out, refused_line, run, succeed

from nacdeploy import profile as profiles
from nacdeploy.base.errors import UsageError
from nacdeploy.exporters import targets
from nacdeploy.profile.settings import KeyRow, Settings, SourceValue, flat
from nacdeploy.sessions import session
from nacdeploy.sessions import setup as settings
from nacdeploy.sessions.options import HINTS, Options, filled
from nacdeploy.sessions.setup import to_apply, wanted
from nacdeploy.strategies.chain import Chain
from nacdeploy.strategies.operators.prune.operator import Prune
from nacdeploy.strategies.steps import letters
from nacdeploy.strategies.steps.checkpoint import Record

STRATEGY = {"chain": "QP", "settings": {"prune": {"ratio": 0.2}, "quantize": {"exclude": ["stem"]}}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the tiny profile, with a strategy file that says other things than the profile."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strategy.json").write_text(json.dumps(STRATEGY))
    return lay_out(tmp_path)


def shown(*arguments: object) -> dict[str, KeyRow]:
    """`show --settings --json`, by key."""
    rows = succeed("show", "--settings", *arguments, "--json").json
    found = [
        KeyRow(r["key"], r["value"], r["source"], tuple(SourceValue(**each) for each in r["instead_of"])) for r in rows
    ]
    return {row.key: row for row in found}


def test_every_key_of_a_profile_has_a_source(folder: Path) -> None:
    found = wanted(Options(profile="tiny.toml", seed=3)).settings
    assert [row.key for row in found.rows()] == list(flat(found.profile))
    sources = {row.key: row.source for row in found.rows()}
    assert (sources["seed"], sources["train.epochs"], sources["prune.scope"]) == (
        "--seed",
        "profile tiny.toml",
        "default",
    )


def test_input_size_of_the_command_line_stands_over_the_profile(folder: Path) -> None:
    row = shown("--input-size", 12)["images.input_size"]
    assert row == KeyRow("images.input_size", 12, "--input-size", (SourceValue("profile tiny.toml", 8),))


def test_settings_say_what_the_profile_alone_says(folder: Path) -> None:
    assert Settings.loaded("tiny.toml").profile == profiles.load("tiny.toml")


def test_strategy_stands_over_the_profile_and_says_so(folder: Path) -> None:
    row = shown("strategy.json")["prune.ratio"]
    assert row == KeyRow("prune.ratio", 0.2, "strategy strategy.json", (SourceValue("profile tiny.toml", 0.1),))


def test_option_stands_over_the_settings_file_and_that_over_the_profile(folder: Path) -> None:
    with Path("nacdeploy.toml").open("a") as file:
        file.write('seed = 3\nmodel = "resnet20"\nbudget = 7\n')
    rows = shown("--seed", 5)
    assert rows["seed"] == KeyRow("seed", 5, "--seed", (SourceValue("nacdeploy.toml", "3"),))
    assert rows["model"] == KeyRow(
        "model", "resnet20", "nacdeploy.toml", (SourceValue("profile tiny.toml", "resnet8"),)
    )
    assert rows["width"] == KeyRow("width", None, "nacdeploy.toml", (SourceValue("profile tiny.toml", 8.0),))
    assert rows["search.budget"] == KeyRow("search.budget", 7, "nacdeploy.toml", (SourceValue("profile tiny.toml", 4),))


@pytest.mark.parametrize("line", ['experience = "elder"', 'experience = ["elder", "older"]'])
def test_settings_file_names_earlier_searches_and_the_command_line_others(line: str, folder: Path) -> None:
    with Path("nacdeploy.toml").open("a") as file:
        file.write(line + "\n")
    named = [str(folder / name) for name in ("elder", "older") if name in line]
    assert shown()["search.experience"] == KeyRow("search.experience", named, "nacdeploy.toml", ())
    row = shown("--experience", "new")["search.experience"]
    assert row == KeyRow(
        "search.experience", [str(folder / "new")], "--experience", (SourceValue("nacdeploy.toml", named),)
    )


def test_option_that_no_command_has_is_refused_in_python_too(folder: Path) -> None:
    with pytest.raises(UsageError, match="unknown option 'sed'; did you mean 'seed'"):
        wanted(Options(sed=3))  # type: ignore[typeddict-unknown-key]


def test_precision_adds_to_what_the_strategy_excludes_and_says_so(folder: Path) -> None:
    measured = {"target": "ort", "machine": "here", "speed": {"value": 1.5, "low": 1.4, "high": 1.6}, "n_timed": 9}
    measured |= {"layers": {"classifier": "float"}, "kinds": {"classifier": "linear"}}
    Path("precision.json").write_text(json.dumps(measured))
    row = shown("strategy.json", "--precision", "precision.json")["quantize.exclude"]
    assert row.value == ["stem", "classifier"]
    assert (row.source, row.instead_of) == (
        "precision precision.json",
        (SourceValue("strategy strategy.json", ["stem"]),),
    )


def test_rules_stand_over_strategy_and_profile(folder: Path) -> None:
    strategy = {"chain": "S", "settings": {"sparsify": {"pattern": "filter", "ratio": 0.3}}}
    Path("strategy.json").write_text(json.dumps(strategy))
    Path("old.rule").write_text(r"stages\.0\..*conv1 element 0.5" + "\n")
    row = shown("strategy.json", "--rules", "old.rule")["sparsify.ratios"]
    assert row.source == "rules old.rule"
    assert row.value["stages.0.0.conv1"] == 0.5


def test_what_is_left_open_is_measured_and_says_so(folder: Path) -> None:
    text = Path("tiny.toml").read_text().replace("multiple = 2\n", "").replace('grid = "ort"\n', "")
    Path("tiny.toml").write_text(text)
    rows = shown("QP")
    assert rows["prune.multiple"].source == rows["quantize.grid"].source == "measured on this machine"
    assert rows["prune.multiple"].value != "target"


def test_run_and_result_show_the_settings_that_they_recorded(home: Path) -> None:
    of_run, of_result = shown("runs/search-1"), shown("runs/transfer-QEF-1")
    assert {row.source for row in of_run.values()} == {"runs/search-1/run.json"}
    assert of_run["search.window"].value == 1
    assert {row.source for row in of_result.values()} == {"runs/transfer-QEF-1/checkpoint/checkpoint.json"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show"], "say what to show"),
        (["show", "QP", "--seed", 3], "--seed goes with --settings"),
        (["show", "--settings", "runs/search-1", "--seed", 3], "has settings of its own: leave --seed away"),
        (["show", "--settings", "QP", "--budget", 3], "is applied, not searched for: leave --budget away"),
        (["show", "--settings", "--precision", "x"], "no strategy is given, such as QPPF"),
        (["show", "--settings", "QX"], "unknown operator 'X' at position 2"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[object], said: str, home: Path) -> None:
    done = run(*arguments)
    assert done.code == 2
    assert said in refused_line(done)


def test_unknown_key_of_a_strategy_is_refused_before_any_work(folder: Path) -> None:
    Path("strategy.json").write_text('{"chain": "P", "settings": {"prune": {"ration": 1}}}')
    with pytest.raises(UsageError, match=r"strategy strategy\.json: unknown key 'prune\.ration'; did you mean 'ratio'"):
        to_apply("strategy.json", Options(profile="tiny.toml"))


class Arrived(BaseException):
    """The first letter is performed."""


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often settings are resolved, a word is read and a chain is checked, until the first letter is performed."""
    counts: Counter[str] = Counter()

    def count(place: Any, name: str, what: str) -> None:
        function = getattr(place, name)

        def called(*arguments: Any, **others: Any) -> Any:
            counts[what] += arguments != ("",)  # which is the chain of a baseline's record
            return function(*arguments, **others)

        monkeypatch.setattr(place, name, called)

    count(session, "settled", "settings resolved")
    count(settings, "settled", "settings resolved")
    count(Chain, "parse", "words read")
    count(letters, "check", "chains checked")
    count(Settings, "loaded", "profiles loaded")
    count(targets, "parse", "targets parsed")
    count(Record, "settings", "records of checkpoints")  # each names the target that it was made for

    def arrived(*arguments: Any) -> Any:
        raise Arrived

    monkeypatch.setattr(Prune, "perform", arrived)
    return counts


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_transfer_and_its_dry_run_resolve_read_and_check_once(
    more: list[str], home: Path, counted: Counter[str]
) -> None:
    with pytest.raises(Arrived):
        run("transfer", "--strategy", "P", *more)
    once = ("settings resolved", "words read", "chains checked", "profiles loaded", "records of checkpoints")
    assert counted == {**dict.fromkeys(once, 1), "targets parsed": 1 + counted["records of checkpoints"]}


def test_resumed_search_resolves_once(home: Path, counted: Counter[str]) -> None:
    """The profile is loaded, and its target parsed, once more than settings need: to notice that it says something else
    now."""
    with pytest.raises(Arrived):
        run("search", "--resume", "runs/search-1")
    assert (counted["settings resolved"], counted["profiles loaded"]) == (1, 1)
    assert counted["targets parsed"] == 1 + counted["profiles loaded"] + counted["records of checkpoints"]


def test_every_shared_option_is_on_the_command_line_of_search(home: Path) -> None:
    text = succeed("search", "--help").out
    assert all(f"--{name.replace('_', '-')}" in text for name in HINTS if name not in ("runs", "settings_file"))


def test_python_callers_may_give_paths_where_the_command_line_gives_texts(folder: Path) -> None:
    request = wanted(Options(profile=folder / "tiny.toml", runs=folder))  # type: ignore[typeddict-item]
    assert request.options["profile"] == str(folder / "tiny.toml")
    assert settings.search_keys({"cache": folder, "budget": 3}) == {"cache": str(folder), "budget": 3}


def test_option_of_none_is_one_left_out() -> None:
    assert filled(Options(**dict.fromkeys(HINTS))) == filled(Options())  # type: ignore[typeddict-item]
