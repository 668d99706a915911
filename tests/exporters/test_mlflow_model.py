"""An exported artifact in MLflow's registry: read back and answering as the artifact itself, without nacdeploy."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nacdeploy
from tests.command_line import change, lay_out, succeed

pytest.importorskip("mlflow")

ANSWER = """
import sys
import numpy as np
from mlflow import pyfunc, set_registry_uri, set_tracking_uri
from mlflow.exceptions import MlflowException
set_tracking_uri("runs/mlflow"); set_registry_uri("runs/mlflow")
model = pyfunc.load_model(sys.argv[1])
signature = model.metadata.signature
assert [each.name for each in signature.inputs.inputs] == ["images"], signature
found = model.predict({"images": np.load("images.npy")})
assert set(found) == set(signature.outputs.input_names())
np.savez("found.npz", **found)
try:
    model.predict({"images": np.load("images.npy")[:, :, :-1]})
except MlflowException as error:
    print("refused", str(error).splitlines()[0])
print(sorted({"nacdeploy", "torch"} & set(sys.modules)))
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return lay_out(tmp_path)


@pytest.mark.parametrize(("chain", "form"), [("Q", "whole"), ("QE", "whole"), ("QE", "segments")])
def test_a_registered_artifact_answers_as_the_artifact(home: Path, chain: str, form: str) -> None:
    change("export", exits=form)
    succeed("transfer", "--strategy", chain)
    done = succeed("export", "--mlflow", "--out", "artifact")
    assert "MLflow: models:/resnet8-digits-ort/1 in " in done.err
    images = np.random.default_rng(0).standard_normal((5, 1, 8, 8)).astype(np.float32)
    np.save("images.npy", images)
    program = [sys.executable, "-c", ANSWER, f"models:/resnet8-digits-ort@{chain}"]
    environment = {**os.environ, "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    answer = subprocess.run(program, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    refused, imported = answer.stdout.splitlines()
    assert refused.startswith("refused") and imported == "[]"
    expected, found = nacdeploy.load("artifact").run(images), np.load("found.npz")
    np.testing.assert_array_equal(found[found.files[0]], expected.outputs)
    if chain == "QE":
        np.testing.assert_array_equal(found["exit"], expected.exits)


def test_trackers_are_off_unless_the_settings_file_says_otherwise(home: Path) -> None:
    succeed("transfer", "--strategy", "Q")
    assert not (home / "runs" / "mlflow").exists()
    (home / "nacdeploy.toml").write_text('profile = "tiny.toml"\nwandb = false\nmlflow = true\n')
    succeed("export", "--target", "onnx", "--no-mlflow")
    assert not (home / "runs" / "mlflow").exists()
    succeed("export", "--target", "onnx")
    assert (home / "runs" / "mlflow").is_dir()
