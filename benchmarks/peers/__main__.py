"""make bench-peers: one trained network, compressed by nacdeploy and by its peers, scored and timed in one run.

Everything that is trained, quantised or installed lies under bench-run/peers/ and is reused; a run that was killed goes
on where it was. Chains, pruning ratios and the width of the dense network are chosen on validation images and by time;
the test split is scored once, at the end.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from benchmarks.peers import quantisers, results, timing, trained
from benchmarks.peers.environments import versions
from benchmarks.peers.results import Row
from benchmarks.peers.timing import Subject
from nacdeploy.base import latency, records
from nacdeploy.cli.render import RichProgress
from nacdeploy.commands.train import train
from nacdeploy.exporters.onnx_graph.trace import to_onnx
from nacdeploy.sessions.options import Options
from nacdeploy.sessions.session import Session, open_session
from nacdeploy.sessions.setup import wanted
from nacdeploy.strategies.operators.quantize.settings import QuantizeTable
from nacdeploy.strategies.settle import calibration_images

FOLDER = Path("bench-run") / "peers"
PROFILE = Path(__file__).with_name("fashion.toml")
FP32, PTQ = "FP32 ONNX Runtime", "nacdeploy `Q`"
# Every opponent is given as many epochs as the chains train.
CHAINS = tuple(f"P(ratio={ratio})QF(epochs=16)" for ratio in (0.75, 0.79))
N_EPOCHS = 16
RATIOS = (0.6, 0.65, 0.67, 0.75)
DENSE_WIDTHS = range(5, 17)


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    progress = RichProgress()
    session = _session(progress)
    data = session.task.data
    validation = timing.written(FOLDER / "validation.npy", data, data.validation)
    test = timing.written(FOLDER / "test.npy", data, data.test)
    subjects = [*_untrained(session, progress), *_trained(session, progress)]
    chosen = _chosen(subjects, validation)
    subjects += _opponents(chosen, session, validation, progress)
    rows = timing.measured(subjects, FOLDER, validation)
    _report(_scored(rows, subjects, chosen.name, test), chosen.name)


def _session(progress: RichProgress) -> Session:
    baseline = FOLDER / "baseline"
    if not baseline.is_dir():
        train(profile=str(PROFILE), out=baseline, runs=FOLDER / "runs", wandb=False, progress=progress)
    options = Options(profile=str(PROFILE), checkpoint=str(baseline), runs=FOLDER / "runs", wandb=False)
    return open_session(wanted(options, "PQF"), progress)


def _untrained(session: Session, progress: RichProgress) -> list[Subject]:
    """The FP32 network in both runtimes, and what quantises it without training."""
    fp32 = FOLDER / "fp32.onnx"
    fp32.write_bytes(to_onnx(session.baseline.network, session.profile.export.opset).model)
    n_images = session.profile.of(QuantizeTable).n_calibration
    images = calibration_images(session.task.data, n_images)
    calibration = timing.written(FOLDER / "calibration.npy", session.task.data, images)
    settings = (*quantisers.STATIC, *quantisers.MODELOPT, *quantisers.NNCF)
    quantised = quantisers.quantised(settings, fp32, calibration.path, FOLDER / "quantised", FOLDER)
    chain_q = trained.chain("Q", session, FOLDER / "trained" / "Q", progress)
    return [
        Subject(FP32, "fp32", fp32),
        *quantisers.openvino_fp32(fp32),
        *quantised,
        Subject(PTQ, "ptq", chain_q),
    ]


def _trained(session: Session, progress: RichProgress) -> list[Subject]:
    """nacdeploy's candidates, and the sweep of torch-pruning alone."""
    found = []
    for word in CHAINS:
        path = trained.chain(word, session, FOLDER / "trained" / word, progress)
        found.append(Subject(f"nacdeploy `{word}`", "nacdeploy", path, n_epochs=N_EPOCHS))
    for ratio in RATIOS:
        name = f"torch-pruning {ratio:g}"
        path = trained.torch_pruning_alone(ratio, N_EPOCHS, session, FOLDER / "trained" / name, progress)
        found.append(Subject(name, "pruned", path, n_epochs=N_EPOCHS))
    return found


def _chosen(subjects: Sequence[Subject], validation: timing.Images) -> Subject:
    """The fastest chain within the drop on validation; without one, the most accurate."""
    rows = timing.measured([s for s in subjects if s.name == FP32 or s.kind == "nacdeploy"], FOLDER, validation)
    chains = [row for row in rows if row.kind == "nacdeploy"]
    row = results.fastest(rows, "nacdeploy", rows[0]) or max(chains, key=lambda r: r.validation_accuracy)
    return next(s for s in subjects if s.name == row.name)


def _opponents(chosen: Subject, session: Session, validation: timing.Images, progress: RichProgress) -> list[Subject]:
    """The baseline trained on, and a dense network of the chosen chain's latency trained from scratch."""
    more = trained.control(N_EPOCHS, session, FOLDER / "trained" / "control", progress)
    width = _width_of_latency(chosen, session, validation)
    n_epochs = session.profile.train.epochs + N_EPOCHS
    small = trained.dense(width, n_epochs, session, FOLDER / "trained" / f"dense-{width}", progress)
    return [
        Subject(f"control: FP32, {N_EPOCHS} epochs more", "control", more, n_epochs=N_EPOCHS),
        Subject(f"dense FP32 of width {width} from scratch", "dense", small, n_epochs=n_epochs),
    ]


def _width_of_latency(chosen: Subject, session: Session, validation: timing.Images) -> int:
    """The widest dense network of the latency of `chosen`, kept once it was found."""
    kept = FOLDER / "trained" / "dense-width.json"
    if not kept.is_file():
        place = FOLDER / "trained" / "widths"
        place.mkdir(parents=True, exist_ok=True)
        subjects = [chosen]
        for width in DENSE_WIDTHS:
            path = place / f"{width}.onnx"
            path.write_bytes(to_onnx(trained.narrow(width, session), session.profile.export.opset).model)
            subjects.append(Subject(str(width), "dense", path.absolute()))
        with timing.loaded(subjects, FOLDER, validation.first) as workers:
            ratios = timing.compare(workers, chosen.name, n_rounds=20).ratios
        records.write_json(kept, results.width_of_latency({w: ratios[str(w)].value for w in DENSE_WIDTHS}))
    return int(records.read_json(kept))


def _scored(rows: Sequence[Row], subjects: Sequence[Subject], chosen: str, test: timing.Images) -> list[Row]:
    """The rows with the test accuracy of those that count: all but the candidates that validation left behind."""
    pruned = results.fastest(rows, "pruned", rows[0])
    counted = {chosen, pruned.name if pruned else ""}
    wanted = [s for s in subjects if s.kind not in ("nacdeploy", "pruned") or s.name in counted]
    return timing.scored(rows, wanted, FOLDER, test)


def _report(rows: Sequence[Row], chosen: str) -> None:
    by_name = {row.name: row for row in rows}
    found = results.goals(rows, rows[0], by_name[chosen], by_name[PTQ])
    packages = {name: versions(name, FOLDER) for name in ("own", "modelopt", "openvino")}
    listed = ", ".join(dict.fromkeys(f"{p} {v}" for package in packages.values() for p, v in package.items()))
    text = "\n\n".join(
        [
            f"machine: {latency.machine()}; 1 thread, batch 1; {listed}",
            results.markdown(rows, rows[0]),
            "Candidates, chosen on validation:",
            results.sweep(rows, rows[0]),
            results.goal_table(found),
        ]
    )
    print(text)
    records.write_text(FOLDER / "table.md", text + "\n")
    plain = {"rows": [records.to_data(row) for row in rows], "goals": [records.to_data(goal) for goal in found]}
    records.write_json(FOLDER / "table.json", {"machine": latency.machine(), "packages": packages, **plain})


if __name__ == "__main__":
    main()
