"""MobileNetV2 and DeiT-tiny, where plain INT8 often loses on a CPU: nacdeploy's export against FP32, quantize_static
and modelopt. nacdeploy chooses the precision of each layer group by time. The networks are trained for two epochs:
latency is what is asked, accuracy only shows that they work.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import nacdeploy
from benchmarks.peers import quantisers, results, timing
from benchmarks.peers.results import Goal, Row
from benchmarks.peers.timing import Subject
from nacdeploy import task as tasks
from nacdeploy.base import latency, records
from nacdeploy.cli.render import RichProgress
from nacdeploy.results.outcome import RESULT_FILE, Result
from nacdeploy.sessions.options import Options
from nacdeploy.sessions.setup import wanted
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.strategies.settle import calibration_images

FOLDER = Path("bench-run") / "peers"
PROFILE = Path(__file__).with_name("guarded.toml")
MODELS = ("mobilenet_v2", "deit_tiny")
FP32, OURS = "FP32 ONNX Runtime", "nacdeploy `Q`, precision by measured time"


def main() -> None:
    progress, tables = RichProgress(), [f"machine: {latency.machine()}; 1 thread, batch 1"]
    found: dict[str, list[Row]] = {}
    for model in MODELS:
        rows = found[model] = _rows(model, progress)
        goals = _goals(rows)
        tables += [f"{model}, 32 px", results.markdown(rows, rows[0]), results.goal_table(goals)]
    text = "\n\n".join(tables)
    print(text)
    records.write_text(FOLDER / "guarded.md", text + "\n")
    plain = {model: [records.to_data(row) for row in rows] for model, rows in found.items()}
    records.write_json(FOLDER / "guarded.json", {"machine": latency.machine(), "rows": plain})


def _rows(model: str, progress: RichProgress) -> list[Row]:
    place = FOLDER / "guarded" / model
    profile = wanted(Options(model=model, profile=str(PROFILE))).settings.profile
    data = tasks.make(profile.model, profile.data, profile).data
    fp32, ours = _artifacts(model, place, progress)
    place.mkdir(parents=True, exist_ok=True)
    few = calibration_images(data, profile.of(QuantizeTable).n_calibration)
    calibration = timing.written(place / "calibration.npy", data, few)
    test = timing.written(place / "test.npy", data, data.test)
    settings = (*quantisers.STATIC, *quantisers.MODELOPT)
    quantised = quantisers.quantised(settings, fp32, calibration.path, place / "quantised", FOLDER)
    subjects = [Subject(FP32, "fp32", fp32), *quantised, Subject(OURS, "nacdeploy", ours)]
    rows = timing.measured(subjects, FOLDER, test)
    return [replace(row, test_accuracy=row.validation_accuracy) for row in rows]  # nothing is chosen here


def _artifacts(model: str, place: Path, progress: RichProgress) -> tuple[Path, Path]:
    """The FP32 network and its chain Q as nacdeploy exports them, the way a user would."""
    runs, found = place / "runs", place / "q"
    if not found.is_dir():
        options = Options(model=model, profile=str(PROFILE), runs=runs, wandb=False)
        nacdeploy.transfer(strategy="Q", out=found, progress=progress, **options)
    sources: dict[str, Path | str] = {
        "fp32": records.read(Result, found / RESULT_FILE).baseline_checkpoint,
        "int8": found,
    }
    for name, source in sources.items():
        shutil.rmtree(place / name, ignore_errors=True)  # exported anew by the code at hand
        out, autotune = place / name, name == "int8"
        nacdeploy.export(
            source=source, target="ort", out=out, autotune=autotune, runs=runs, wandb=False, progress=progress
        )
    return place / "fp32" / "model.onnx", place / "int8" / "model.onnx"


def _goals(rows: list[Row]) -> list[Goal]:
    """Never slower than FP32 within the interval, and faster than quantize_static at its best."""
    ours = next(row for row in rows if row.name == OURS)
    static = max((row for row in rows if "quantize_static" in row.name), key=lambda row: row.speed.value)
    ratio = results.quotient(ours.speed, static.speed)
    return [
        Goal(f"{OURS} not slower than FP32", results.text(ours.speed), ours.speed.high >= 1.0),
        Goal(f"{OURS} faster than {static.name}", results.text(ratio), ratio.value > 1.0),
    ]


if __name__ == "__main__":
    main()
