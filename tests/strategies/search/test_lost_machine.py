"""A Ray cluster of two nodes loses one: its jobs are run again on the other, and nothing waits for what is gone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster as Nodes

from nacdeploy.base.errors import NacdeployError
from nacdeploy.strategies.search import workers
from nacdeploy.strategies.search.cluster import ray_cluster
from nacdeploy.strategies.search.workers import WorkerOpener

SOON = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    started = Nodes(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": SOON})
    yield started
    started.shutdown()


def test_jobs_of_a_lost_machine_are_run_on_what_is_left(nodes: Nodes, tmp_path: Path) -> None:
    other = nodes.add_node(num_cpus=1)
    with (
        ray_cluster(2, nodes.address) as cluster,
        cluster.pool(WorkerOpener("worker_jobs:opened", {"folder": str(tmp_path)})) as pool,
    ):
        met = [pool.submit({"name": name, "meets": there}) for name, there in ("ab", "ba")]
        pids = {job()["pid"] for job in met}
        nodes.remove_node(other, allow_graceful=False)
        again = [pool.submit({"name": str(n), "dies": 1}) for n in range(4)]  # no worker outlives this, nor its node
        answers = [job() for job in again]
    assert [answer["name"] for answer in answers] == ["0", "1", "2", "3"]
    assert len(pids) == 2
    assert not pids & {answer["pid"] for answer in answers}


def test_cluster_without_a_machine_left_is_said(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = nodes.add_node(num_gpus=1, num_cpus=0)
    with (
        ray_cluster(1, nodes.address) as cluster,
        cluster.pool(WorkerOpener("worker_jobs:opened", {"folder": str(tmp_path)})) as pool,
    ):
        assert pool.submit({"name": "first"})()["name"] == "first"
        nodes.remove_node(other, allow_graceful=False)
        monkeypatch.setattr(workers, "_START_S", 2.0)  # of those to come: the first may take its time
        with pytest.raises(NacdeployError, match="no worker is left and none could be started within 2 s"):
            pool.submit({"name": "second", "dies": 1})()
