"""encode and decode: what comes back is what was there, and nothing half-written stays."""

import json
from pathlib import Path

import pytest
from command_line import files, run, succeed

from nacdeploy.commands.encode import _parameter
from nacdeploy.network.network import Network
from nacdeploy.strategies.steps import checkpoint, letters


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def coded(home: Path) -> Path:
    """A result folder of C after Q."""
    return Path(succeed("transfer", "--strategy", "QC", "--out", "coded", "--json").json["checkpoint"]).parent


def test_checkpoint_comes_back_byte_for_byte(coded: Path) -> None:
    encoded = succeed("encode", coded, "-o", "model.nac", "--json").json
    assert encoded["n_bytes"] == Path("model.nac").stat().st_size < encoded["n_bytes_before"]
    labels = [row for row in encoded["rows"] if row["name"].endswith("/labels")]
    assert len(labels) >= 8
    assert all(row["bits_per_element"] < 5.5 for row in labels if row["n_bytes_before"] > 1000)
    succeed("decode", "model.nac", "-o", "restored")
    assert contents(Path("restored")) == contents(coded / "checkpoint")
    assert checkpoint.load(Path("restored"))[0].key == checkpoint.load(coded / "checkpoint")[0].key


def test_artifact_comes_back_byte_for_byte(home: Path) -> None:
    artifact = next(Path("runs").glob("export-*"))
    said = succeed("encode", artifact, "-o", "model.nac").out
    assert "container: model.nac" in said
    assert "through zstd (level 19)" in said
    succeed("decode", "model.nac", "-o", "restored")
    assert contents(Path("restored")) == contents(artifact)
    succeed("verify", "restored")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda data: data[:-10], "cut off"),
        (lambda data: data[:9], "no container"),
        (lambda data: b"", "no container"),
        (lambda data: data[:-40] + bytes(40), "damaged"),
        (lambda data: data[:7] + b"\x09" + data[8:], "version 9"),
    ],
    ids=["cut off", "beginning", "empty", "altered", "version"],
)
def test_damaged_container_is_one_line_and_leaves_nothing(damage: object, said: str, home: Path) -> None:
    succeed("encode", next(Path("runs").glob("export-*")), "-o", "model.nac")
    Path("model.nac").write_bytes(damage(Path("model.nac").read_bytes()))  # type: ignore[operator]
    before = files()
    outcome = run("decode", "model.nac", "-o", "restored")
    assert outcome.code == 1
    assert outcome.err.count("error:") == 1
    assert said in outcome.err
    assert files() == before


def test_rules_say_how_tensors_are_coded(coded: Path) -> None:
    Path("old.rule").write_text(
        "stem.*weight vanilla 0 0 4\nstages.* huffman 0 0 0\nnothing huffman 0 0 0\nbroken line x\n"
    )
    encoded = succeed("encode", coded, "-o", "model.nac", "--rules", "old.rule", "--json").json
    methods = {_parameter(r["name"]): (r["method"], r["run_bits"]) for r in encoded["rows"] if "labels" in r["name"]}
    assert methods["stages.0.0.conv1.weight"] == ("huffman", 0)
    assert any("line 3: 'nothing' is the first match of no tensor" in line for line in encoded["ignored"])
    assert any("line 4" in line for line in encoded["ignored"])
    succeed("decode", "model.nac", "-o", "restored")
    assert contents(Path("restored")) == contents(coded / "checkpoint")


def test_tensor_that_has_no_codes_is_refused(home: Path) -> None:
    Path("old.rule").write_text(".*classifier.weight fixed_point 4 0 0\n")
    source = next(Path("runs").glob("baselines/*"))
    before = files()
    outcome = run("encode", source, "-o", "model.nac", "--rules", "old.rule")
    assert outcome.code == 1
    assert "classifier.weight' is not on the fixed-point grid" in outcome.err
    assert files() == before


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("encode", "gone", "-o", "x.nac"), 2, "gone does not exist"),
        (("encode", "tiny.toml", "-o", "runs"), 1, "is a folder; name the file"),
        (("decode", "gone.nac", "-o", "x"), 1, "cannot be read"),
        (("decode", "tiny.toml", "-o", "x"), 1, "no container"),
        (("encode", "tiny.toml", "-o", "x.nac", "--rules", "gone.rule"), 2, "not a readable rule file"),
    ],
)
def test_wrong_usage_is_one_line(arguments: tuple[str, ...], code: int, said: str, home: Path) -> None:
    outcome = run(*arguments)
    assert outcome.code == code
    assert said in outcome.err
    assert not Path("x.nac").exists()


def test_existing_folder_is_not_written_over(home: Path) -> None:
    succeed("encode", "tiny.toml", "-o", "x.nac")
    outcome = run("decode", "x.nac", "-o", "runs")
    assert outcome.code == 1
    assert "exists already" in outcome.err


def test_transfer_takes_rules_by_layer(home: Path) -> None:
    Path("old.rule").write_text(
        "stages.* k-means 3 linear\nstem.0.weight fixed_point 6 0\ntoo few columns for it to be one\n"
    )
    outcome = succeed("transfer", "--strategy", "C", "--rules", "old.rule", "--out", "ruled", "--json")
    record = checkpoint.read_record(Path("ruled") / "checkpoint")
    books = record.steps[0]["decision"]["books"]
    assert (books["stem.0"]["method"], books["stages.0.0.conv1"]["n_values"]) == ("fixed_point", 7)
    assert "classifier" not in books
    assert "line 3: 8 columns" in outcome.err


def zeros(name: str, network: Network) -> int:
    kept = network.masks.get(name)
    assert kept is not None
    return int((~kept).sum())


def test_transfer_takes_two_granularities_stage_by_stage(home: Path) -> None:
    """conv1 of the first stage has 576 elements: 172.8 and 288.6 of them; conv2 of the last has 32 filters: 9.6 and
    16.032 of 288 elements each."""
    Path("old.rule").write_text(
        "module\\.stages\\.0\\.0\\.conv1\\.weight element 0.3,0.501\nstages.2.0.conv2 filter 0.3, 0.501\nstem.0 0.25\n"
    )
    outcome = succeed("transfer", "--strategy", "SS", "--rules", "old.rule", "--out", "ruled", "--json")
    assert "rules for P, which is not in 'SS': ignored" in outcome.err
    state, record = checkpoint.load(Path("ruled") / "checkpoint")
    masked = {name: zeros(name, state.network) for name in state.network.masks.layers}
    assert masked == {"stages.0.0.conv1": 289, "stages.2.0.conv2": 17 * 288}
    first, second = (letters.make(step.link, record.settings()).explain(step.decision) for step in state.steps)
    assert first.startswith("element (share 0.3) in 1 layer and filter (share 0.3) in 1 layer, ")
    assert second.startswith("element (share 0.501) in 1 layer and filter (share 0.501) in 1 layer, ")
    succeed("export", "--from", "ruled", "--out", "made")
    rows = {row["layer"]: row for row in json.loads(Path("made/lowering.json").read_text())}
    shown = {name: rows[name]["zero_fraction"] for name in masked}
    assert shown == pytest.approx({"stages.0.0.conv1": 289 / 576, "stages.2.0.conv2": 17 / 32})


def test_one_s_takes_the_last_stage_and_says_so(home: Path) -> None:
    Path("old.rule").write_text("stages.0.0.conv1 element 0.3,0.501\nstages.2.0.conv2 filter 0.25\n")
    Path("tiny.toml").write_text(f'{Path("tiny.toml").read_text()}\n[sparsify]\nexclude = ["stages.2"]\n')
    outcome = succeed("transfer", "--strategy", "S", "--rules", "old.rule", "--out", "ruled", "--json")
    assert "old.rule has 2 stages of pruning: the last is taken; another S would take one more" in outcome.err
    state, _ = checkpoint.load(Path("ruled") / "checkpoint")
    assert {name: zeros(name, state.network) for name in state.network.masks.layers} == {"stages.0.0.conv1": 289}
