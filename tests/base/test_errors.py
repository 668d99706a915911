"""Errors: one line each, with what would work and the exit code."""

import pytest

from nacdeploy.base import errors


@pytest.mark.parametrize(
    ("kind", "code"),
    [(errors.NacdeployError, 1), (errors.UsageError, 2), (errors.RefusedError, 1), (errors.DivergedError, 1)],
)
def test_exit_code_is_two_for_wrong_usage_only(kind: type[errors.NacdeployError], code: int) -> None:
    assert kind.exit_code == code
    assert issubclass(kind, errors.NacdeployError)


def test_missing_extra_holds_the_pip_line() -> None:
    error = errors.MissingExtraError("timm", "timm", "the model timm:vit")
    assert str(error) == "the model timm:vit needs the package 'timm': pip install 'nacdeploy[timm]'"
    assert error.exit_code == 1


def test_unknown_names_the_nearest_and_the_known() -> None:
    error = errors.unknown("target", "ortt", ["trt", "ort", "onnx"])
    assert str(error) == "unknown target 'ortt'; did you mean 'ort'?; known: onnx, ort, trt"
    assert isinstance(error, errors.UsageError)


def test_unknown_omits_the_hint_when_nothing_is_near() -> None:
    assert str(errors.unknown("target", "zzz", ["ort"])) == "unknown target 'zzz'; known: ort"


def test_nearest_omits_the_list_when_it_is_long() -> None:
    assert "known" not in errors.nearest("name7", [f"name{i}" for i in range(40)])


@pytest.mark.parametrize(
    ("error", "is_memory"),
    [
        (MemoryError(), True),
        (RuntimeError("can't start new thread"), True),
        (ImportError("x.so: failed to map segment from shared object"), True),
        (SystemError("error return without exception set"), True),
        (ImportError("No module named 'x'"), False),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_lack_of_memory_is_known_by_what_libraries_say(error: Exception, is_memory: bool) -> None:
    assert errors.is_out_of_memory(error) is is_memory
