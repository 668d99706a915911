"""The examples with trainers of other packages, in an environment on top of this one, which stays as it is."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from command_line import lay_out

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("lightning", "transformers", "accelerate")
COMMAND = "from nacdeploy.cli.main import main; main()"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment that sees the packages of this one and has its own beside them."""
    folder = tmp_path_factory.mktemp("trainers") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "shared.pth").write_text(f"import site; site.addsitedir({sysconfig.get_paths()['purelib']!r})\n")
    made = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(made), "install", "--quiet", *PACKAGES]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lightning_training", "hf_trainer"])
@pytest.mark.parametrize("word", ["QF(epochs=2)", "S(pattern=element,ratio=0.5)F(epochs=2,minutes=60)"])
def test_example_with_a_trainer_of_another_package_trains_what_is_compressed(
    name: str, word: str, python: Path, tmp_path: Path
) -> None:
    lay_out(tmp_path)
    shutil.copy(ROOT / "examples" / f"{name}.py", tmp_path)
    transfer = [
        str(python),
        "-c",
        COMMAND,
        "transfer",
        "--task",
        f"{name}.py:digits",
        "--strategy",
        word,
        "--out",
        "one",
    ]
    around = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(transfer, cwd=tmp_path, capture_output=True, text=True, env=around)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "one" / "result.json").read_text())
    assert result["figures"]["accuracy"] > 0.85
    steps = json.loads((tmp_path / "one" / "checkpoint" / "checkpoint.json").read_text())["steps"]
    assert steps[-1]["n_epochs"] == 2
