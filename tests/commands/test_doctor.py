"""What `nacdeploy doctor` reports: versions, pip lines, conflicts, and which targets work."""

import importlib.metadata
from pathlib import Path

import pytest

from nacdeploy.base import records
from nacdeploy.commands import doctor
from nacdeploy.commands.doctor import Report, conflicts, inspect
from nacdeploy.exporters.targets.tensorrt import doctor as tensorrt_doctor
from nacdeploy.exporters.targets.torch_trt import doctor as torch_trt_doctor

GPU = ("NVIDIA L4 (SM89)",)


@pytest.fixture(scope="module")
def report() -> Report:
    return inspect()


def test_inspect_reports_the_installed_versions(report: Report) -> None:
    versions = {component.name: component.version for component in report.components}
    assert versions["torch"] == importlib.metadata.version("torch")
    assert all(versions[component.name] for component in report.components if component.required)


def test_each_component_has_a_pip_line_and_extras_name_theirs(report: Report) -> None:
    lines = {component.name: component.pip for component in report.components}
    assert lines["torch"] == "pip install torch"
    assert lines["tensorrt"] == "pip install 'nacdeploy[trt]'"
    assert lines["torch-tensorrt"] == "pip install 'nacdeploy[torch-trt]'"


def test_components_name_the_declared_dependencies(report: Report) -> None:
    pyproject = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    assert all(f'"{component.name}' in pyproject for component in report.components)


def test_targets_ort_and_onnx_work_here(report: Report) -> None:
    works = {target.name: target.works for target in report.targets}
    assert works["onnx"] and works["ort"]
    assert set(works) == {"onnx", "ort", "trt", "trt-rtx", "torch-trt", "openvino"}


def test_gpus_are_those_of_torch(report: Report) -> None:
    import torch

    assert bool(report.gpus) == torch.cuda.is_available()


def test_report_survives_json(report: Report) -> None:
    assert records.from_data(Report, records.to_data(report)) == report


def test_both_onnxruntimes_are_a_conflict_with_the_lines_that_mend_it() -> None:
    (conflict,) = conflicts({"onnxruntime": "1", "onnxruntime-gpu": "1"})
    assert "overwrite each other" in conflict.problem
    assert conflict.pip == ("pip uninstall -y onnxruntime onnxruntime-gpu", "pip install onnxruntime-gpu")
    assert conflicts({"onnxruntime": "1"}) == conflicts({"onnxruntime-gpu": "1"}) == ()


@pytest.mark.parametrize(
    ("tensorrt", "rtx", "gpus", "works", "said"),
    [
        ("missing", None, (), True, "TensorRT-RTX, built ahead of time for SM75"),
        (None, None, GPU, True, "TensorRT, built for the GPU here: NVIDIA L4 (SM89)"),
        (None, None, (), False, "--target trt-rtx"),
        (None, "missing", (), False, "finds no GPU"),
        ("missing", "rtx is missing", (), False, "rtx is missing; TensorRT itself: pip install 'nacdeploy[trt]'"),
    ],
)
def test_trt_target_says_which_builder(
    tensorrt: str | None, rtx: str | None, gpus: tuple[str, ...], works: bool, said: str
) -> None:
    found, why = tensorrt_doctor.by_either(tensorrt, rtx, gpus)
    assert found is works
    assert said in why
    assert tensorrt_doctor.by_rtx(rtx)[0] is (rtx is None)


@pytest.mark.parametrize(
    ("is_installed", "gpus", "works", "said"),
    [
        (False, GPU, False, "pip install 'nacdeploy[torch-trt]'"),
        (True, (), False, "needs an NVIDIA GPU"),
        (True, GPU, True, "NVIDIA L4 (SM89)"),
    ],
)
def test_torch_trt_needs_its_package_and_a_gpu(
    is_installed: bool, gpus: tuple[str, ...], works: bool, said: str
) -> None:
    found, why = torch_trt_doctor.compiles(is_installed, gpus)
    assert found is works
    assert said in why


def test_rtx_capabilities_are_those_of_the_installed_builder() -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    known = {name for name in dir(trt.ComputeCapability) if name.startswith("SM")}
    assert set(tensorrt_doctor.CAPABILITIES) == known


def test_report_is_unhealthy_when_a_required_package_is_missing(report: Report) -> None:
    assert report.healthy is not bool(report.conflicts or report.problems)
    missing = doctor.Component("torch", None, "training", True, "pip install torch")
    assert not Report("3.11", "Linux", (), (missing,), (), ()).healthy
