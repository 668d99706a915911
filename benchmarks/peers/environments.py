"""The peers' own virtual environments: made with pip on first use, so that no peer changes nacdeploy's packages."""

import json
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = {"modelopt": ("nvidia-modelopt[onnx]",), "openvino": ("openvino", "nncf")}
_DISTRIBUTIONS = {
    "modelopt": ("nvidia-modelopt", "onnxruntime-gpu"),
    "openvino": ("openvino", "nncf"),
    "own": ("onnxruntime-gpu", "onnxruntime", "torch", "torch-pruning"),
}
_ASK_VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        pass
print(json.dumps(found))
"""


def python_of(name: str, folder: Path) -> Path:
    """The interpreter of a peer's environment under `folder`; "own" is the one that runs this script."""
    if name == "own":
        return Path(sys.executable)
    place = folder / f"env-{name}"
    python, stamp = (place / "bin" / "python").absolute(), place / ".complete"
    if not stamp.is_file():
        print(f"installing {', '.join(PACKAGES[name])} into {place}", file=sys.stderr)
        if not python.is_file():
            venv.create(place, with_pip=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PACKAGES[name]], check=True)
        stamp.touch()
    return python


def run_script(name: str, folder: Path, script: str, *arguments: str) -> None:
    """Run a script of this directory by a peer's interpreter; what it prints goes to a log beside the environments.

    Raises:
        RuntimeError: it fails; the log says why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{name}-{Path(script).stem}.log"
    with log.open("w", encoding="utf-8") as file:
        command = [str(python_of(name, folder)), str(HERE / script), *arguments]
        if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, check=False).returncode:
            raise RuntimeError(f"{script} fails in the environment of '{name}': see {log}")


def versions(name: str, folder: Path) -> dict[str, str]:
    """The versions of the packages that matter in an environment."""
    command = [str(python_of(name, folder)), "-c", _ASK_VERSIONS, *_DISTRIBUTIONS[name]]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
