"""A real Triton server answers as the artifact does, over HTTP and gRPC, and lives on where a client is wrong."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from conftest import follow, make_profile
from numpy.typing import NDArray
from triton_server import Server, needs_server, serving
from tritonclient.utils import InferenceServerException

from benchmarks import serving as serving_for_a_minute
from nacdeploy.exporters import export as exporting
from nacdeploy.exporters import targets
from nacdeploy.exporters.describe import Context
from nacdeploy.exporters.exits import deployed
from nacdeploy.exporters.triton import repository
from nacdeploy.exporters.triton.configuration import Served
from nacdeploy.strategies.state import CompressionState
from nacdeploy.task import Task

pytestmark = needs_server


@pytest.fixture(scope="module")
def artifacts(baseline: CompressionState, task: Task, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A quantized network with two exits: in segments and whole, in ONNX Runtime and in OpenVINO."""
    state, place = follow(baseline, "QE", task, make_profile()), tmp_path_factory.mktemp("served")
    made = {}
    for name, target, form in (
        ("cascade", "ort", "segments"),
        ("whole", "ort", "whole"),
        ("ir", "openvino", "segments"),
    ):
        profile = make_profile(export={"exits": form}, bench={"n_rounds": 3, "round_ms": 0.5}, exits={"max_drop": 3.0})
        made[name] = exporting.export(state, task, profile, targets.parse(target), place / name, Context())
    return made


@pytest.fixture(scope="module")
def server(artifacts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server of all of them: their repositories are put together, as a user may."""
    home, work = tmp_path_factory.mktemp("repository"), tmp_path_factory.mktemp("server")
    for name, folder in artifacts.items():
        repository.write(folder, work / name, Served(max_batch=8, queue_delay_us=2000), name)
        for model in (work / name).iterdir():
            model.rename(home / model.name)
    with serving(home, work) as found:
        yield found


@pytest.fixture(scope="module")
def x(task: Task) -> NDArray[Any]:
    found: NDArray[Any] = task.data.normalize(task.data.test.images).numpy()
    return found


def asked(client: Any, name: str, x: NDArray[Any], kind: str = "FP32") -> dict[str, NDArray[Any]]:
    module = over_http if isinstance(client, over_http.InferenceServerClient) else over_grpc
    given = module.InferInput("images", list(x.shape), kind)
    given.set_data_from_numpy(x)
    answer = client.infer(name, [given])
    outputs = answer.get_response()["outputs"] if module is over_http else answer.get_response().outputs
    names = [each["name"] if isinstance(each, dict) else each.name for each in outputs]
    return {each: answer.as_numpy(each) for each in names}


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    if request.param == "http":
        with over_http.InferenceServerClient(server.http, concurrency=8) as found:
            yield found
    else:
        with over_grpc.InferenceServerClient(server.grpc) as found:
            yield found


@pytest.mark.parametrize("n", [1, 3, 8])
@pytest.mark.parametrize("name", ["cascade", "ir"])
def test_gate_on_the_server_answers_as_the_runner(
    name: str, n: int, client: Any, artifacts: dict[str, Path], x: NDArray[Any]
) -> None:
    expected = deployed.load(artifacts[name]).run(x[:24])
    assert len(set(expected.exits.tolist())) > 1
    for start in range(0, 24, n):
        found = asked(client, name, x[start : start + n])
        assert found["exit"].reshape(-1).tolist() == expected.exits[start : start + n].tolist()
        np.testing.assert_allclose(found["logits"], expected.outputs[start : start + n], rtol=1e-4, atol=1e-4)


def test_whole_graph_answers_with_all_of_its_outputs(client: Any, artifacts: dict[str, Path], x: NDArray[Any]) -> None:
    opened = deployed.load(artifacts["whole"])
    assert opened.whole is not None
    expected = dict(zip(opened.whole.output_names, opened.whole.run(x[:5]), strict=True))
    found = asked(client, "whole", x[:5])
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["cascade", "whole"])
def test_pixels_of_any_size_are_prepared_on_the_server(name: str, server: Server, task: Task, x: NDArray[Any]) -> None:
    pixels = np.ascontiguousarray(task.data.test.images[:3].numpy().transpose(0, 2, 3, 1))
    with over_grpc.InferenceServerClient(server.grpc) as own:
        found = []
        for given in (pixels, np.repeat(np.repeat(pixels, 3, axis=1), 3, axis=2)):
            tensor = over_grpc.InferInput("pixels", list(given.shape), "UINT8")
            tensor.set_data_from_numpy(given)
            found.append(own.infer(f"{name}_from_pixels", [tensor]).as_numpy("logits"))
        expected = asked(own, name, x[:3])["logits"]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-4)
    assert found[1].shape == expected.shape


def test_clients_at_the_same_time_get_their_own_rows(
    server: Server, artifacts: dict[str, Path], x: NDArray[Any]
) -> None:
    expected = deployed.load(artifacts["cascade"]).run(x)

    def one(place: int) -> bool:
        with over_grpc.InferenceServerClient(server.grpc) as own:
            sizes = [1, 2, 5]
            for turn in range(12):
                start, size = (7 * place + 3 * turn) % (len(x) - 5), sizes[turn % 3]
                found = asked(own, "cascade", x[start : start + size])["logits"]
                if not np.allclose(found, expected.outputs[start : start + size], rtol=1e-4, atol=1e-4):
                    return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(8)))
    with over_grpc.InferenceServerClient(server.grpc) as own:
        stats = own.get_inference_statistics("cascade", as_json=True)["model_stats"][0]
    assert int(stats["execution_count"]) < int(stats["inference_count"])  # requests ran together


@pytest.mark.parametrize(
    ("shape", "kind", "value", "said"),
    [
        ((1, 1, 9, 8), "FP32", 0.0, "shape"),
        ((1, 8, 8), "FP32", 0.0, "shape"),
        ((9, 1, 8, 8), "FP32", 0.0, "batch"),
        ((1, 1, 8, 8), "FP64", 0.0, "data-type"),
        ((2, 1, 8, 8), "FP32", float("nan"), "not finite"),
        ((1, 1, 8, 8), "FP32", float("inf"), "not finite"),
    ],
)
@pytest.mark.parametrize("name", ["cascade", "whole"])
def test_wrong_request_is_named_and_the_server_lives_on(
    name: str, shape: tuple[int, ...], kind: str, value: float, said: str, client: Any, x: NDArray[Any]
) -> None:
    dtype = np.float64 if kind == "FP64" else np.float32
    with pytest.raises(InferenceServerException, match=said):
        asked(client, name, np.full(shape, value, dtype), kind)
    assert client.is_server_live()
    assert asked(client, name, x[:1])["logits"].shape == (1, 10)


def test_wrong_request_does_not_fail_those_that_run_beside_it(server: Server, x: NDArray[Any]) -> None:
    def one(place: int) -> bool:
        bad = np.full((1, 1, 8, 8), np.nan, np.float32)
        with over_grpc.InferenceServerClient(server.grpc) as own:
            try:
                asked(own, "whole", bad if place % 2 else x[place : place + 1])
            except InferenceServerException:
                return place % 2 == 1
            return place % 2 == 0

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(32)))


def test_classes_are_named(server: Server, x: NDArray[Any]) -> None:
    with over_grpc.InferenceServerClient(server.grpc) as own:
        given = over_grpc.InferInput("images", [1, 1, 8, 8], "FP32")
        given.set_data_from_numpy(x[:1])
        wanted = over_grpc.InferRequestedOutput("logits", class_count=1)
        found = own.infer("whole", [given], outputs=[wanted]).as_numpy("logits")
        logits = asked(own, "whole", x[:1])["logits"]
    value, place, label = found.reshape(-1)[0].decode().split(":")
    assert label == place == str(logits.argmax())  # digits are named by their digit
    assert float(value) == pytest.approx(float(logits.max()), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cascade", "whole"])
def test_eight_clients_for_a_minute_see_no_wrong_answer(
    name: str, artifacts: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    serving_for_a_minute.main([str(artifacts[name])])  # "wrong" counts answers unlike the runner's
    said = capsys.readouterr().out
    assert " 0 wrong answers, 0 errors" in said
    assert int(said.split()[0]) > 100
