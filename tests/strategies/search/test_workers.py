"""Workers of a real local Ray: order, errors, deaths; and a Ray that is not there."""

import os
import socket
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from conftest import make_profile

from nacdeploy.base.errors import (
    DivergedError,
    LostWorkerError,
    MissingExtraError,
    NacdeployError,
    RefusedError,
    UsageError,
)
from nacdeploy.strategies.search.cluster import Cluster, ray_cluster
from nacdeploy.strategies.search.workers import WorkerOpener


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("ray")
    with ray_cluster(2) as up:
        yield up


def test_jobs_run_in_other_processes_and_answer_in_order(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.pool(WorkerOpener("worker_jobs:opened", {"folder": str(tmp_path)})) as pool:
        pending = [pool.submit({"name": str(n)}) for n in range(8)]
        answers = [job() for job in pending]
    assert [answer["name"] for answer in answers] == [str(n) for n in range(8)]
    pids = {answer["pid"] for answer in answers}
    assert os.getpid() not in pids
    assert len(list(tmp_path.glob("opened-*"))) == len(pids) <= cluster.n_workers
    assert {answer["folder"] for answer in answers} == {str(Path.cwd())}


def test_jobs_run_at_once(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.pool(WorkerOpener("worker_jobs:opened", {"folder": str(tmp_path)})) as pool:
        pending = [pool.submit({"name": name, "meets": other}) for name, other in ("ab", "ba")]
        assert len({job()["pid"] for job in pending}) == 2


def test_dead_workers_job_is_run_again_and_three_deaths_are_its_end(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.pool(WorkerOpener("worker_jobs:opened", {"folder": str(tmp_path)})) as pool:
        once = pool.submit({"name": "once", "dies": 1})
        always = pool.submit({"name": "always", "dies": 99})
        after = pool.submit({"name": "after"})
        assert once()["name"] == "once"
        with pytest.raises(LostWorkerError, match="its worker died 3 times"):
            always()
        assert after()["name"] == "after"
    assert (tmp_path / "deaths-always").read_text() == "xxx"


def test_errors_of_a_job_are_raised_as_what_they_are(cluster: Cluster, tmp_path: Path) -> None:
    with cluster.pool(WorkerOpener("worker_jobs:opened", {"folder": str(tmp_path)})) as pool:
        kinds = {"refused": RefusedError, "diverged": DivergedError, "usage": UsageError}
        for name, kind in kinds.items():
            with pytest.raises(kind, match=f"^job {name} fails$"):
                pool.submit({"name": f"job {name}", "raises": name})()
        assert pool.submit({"name": "next"})()["name"] == "next"


def test_worker_that_cannot_be_opened_says_why(cluster: Cluster) -> None:
    with (
        cluster.pool(WorkerOpener("worker_jobs:refuses", {"data": "nowhere"})) as pool,
        pytest.raises(UsageError, match="no such data: nowhere"),
    ):
        pool.submit({})()


def test_more_workers_than_there_are_cpus_are_refused(cluster: Cluster) -> None:
    with pytest.raises(UsageError, match=r"3 workers need a CPU each .* has 2"), ray_cluster(3):
        pass


def test_worker_holds_as_many_devices_as_its_trainings_have_processes(cluster: Cluster) -> None:
    refusal = r"2 workers need 2 CPUs each \(processes = 2\) .* has 2"
    with pytest.raises(UsageError, match=refusal), ray_cluster(2, n_devices=2):
        pass
    with ray_cluster(None, n_devices=2) as wide, wide.pool(WorkerOpener("worker_jobs:n_devices", {})) as pool:
        assert wide.n_workers == 1
        assert pool.submit({})() == 2


@pytest.mark.parametrize(("alphabet", "own", "expected"), [("FPQ", 1, 1), ("FPQ", 3, 3), ("F(processes=1|2)PQ", 1, 2)])
def test_devices_are_those_of_the_profile_or_of_a_letter(alphabet: str, own: int, expected: int) -> None:
    profile = make_profile(search={"alphabet": alphabet}, finetune={"processes": own})
    assert import_module("nacdeploy.commands.search")._n_devices(profile) == expected


def test_unreachable_address_is_said_soon() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    with pytest.raises(NacdeployError, match=f"no Ray cluster at 127.0.0.1:{port}: Connection refused"):
        _joined(f"127.0.0.1:{port}")


def test_server_that_is_no_ray_is_said_soon() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        start = time.monotonic()
        with pytest.raises(NacdeployError, match=r"no Ray cluster at .*: no Ray answers within"):
            _joined(f"127.0.0.1:{server.getsockname()[1]}")
    assert time.monotonic() - start < 60  # Ray itself takes three minutes


@pytest.mark.parametrize("address", ["nowhere", ":1", "host:port", "ray://"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match="is no address; give host:port"):
        _joined(address)


def test_missing_ray_names_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'nacdeploy\[ray\]'"):
        _joined("127.0.0.1:6379")


def _joined(address: str) -> None:
    with ray_cluster(None, address):
        raise AssertionError("there is a Ray where there can be none")
