"""MLflow: runs, models and a registry in a local folder of files, or wherever MLFLOW_TRACKING_URI says."""

import contextlib
import logging
import math
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nacdeploy.base import folders
from nacdeploy.base.progress import Say
from nacdeploy.base.tracking.tracker import RECORD_NAME, Item, Served, Tensor, first_line, plain, spelled, variables

URI = "MLFLOW_TRACKING_URI"
MAX_VALUE = 500
BATCH = 100  # entries of one call, as servers take them
# A store of files must be asked for, and nothing is reported to MLflow's makers.
_WANTED = {"MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}


class MlflowTracker:
    """An MLflow run. After its first failure the tracker stays silent."""

    def __init__(self, store: Path, project: str, config: Mapping[str, object], name: str, *, say: Say) -> None:
        self._say = say
        self._uri = os.environ.get(URI) or str(store.resolve())
        self._rows: Counter[str] = Counter()
        self._client: Any = None
        with self._guarded("could not start"):
            self._client, self._run = _started(self._uri, project, name)
            self._log({}, _flat(config), {})
            say(_described(self._uri))

    def row(self, kind: str, data: Mapping[str, object]) -> None:
        """Record numbers as metrics, counted by rows of a kind; of texts, the last stands in a tag."""
        step = self._rows[kind]
        self._rows[kind] += 1
        values = {f"{kind}/{key}": value for key, value in _flat(data).items()}
        with self._guarded("could not record a row"):
            numbers = {key: float(value) for key, value in values.items() if _is_number(value)}
            self._log(numbers, {}, {key: value for key, value in values.items() if key not in numbers}, step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        with self._guarded(f"could not record the table '{name}'"):
            if self._client is not None:
                table = {"columns": list(columns), "data": plain([list(row) for row in rows])}
                self._client.log_dict(self._run.run_id, table, f"{spelled(name)}.json")

    def media(self, name: str, path: Path) -> None:
        with self._guarded(f"could not record '{name}'"):
            if self._client is not None:
                self._client.log_artifact(self._run.run_id, str(path))

    def artifact(self, item: Item) -> None:
        with self._guarded(f"could not record the artifact '{item.name}'"):
            if self._client is not None:
                self._log({}, {}, _lineage(item))
                self._log_artifact(item)

    def close(self) -> None:
        with self._guarded("could not finish"):
            if self._client is not None:
                self._client.set_terminated(self._run.run_id)
        self._client = None

    def _log(self, metrics: dict[str, float], params: dict[str, Any], tags: dict[str, Any], step: int = 0) -> None:
        if self._client is None:
            return
        from mlflow.entities import Metric, Param, RunTag

        texts = [[(_key(k), str(v)[:MAX_VALUE]) for k, v in given.items()] for given in (params, tags)]
        numbers = [Metric(_key(key), value, 0, step) for key, value in metrics.items()]
        found = [*numbers, *(Param(*each) for each in texts[0]), *(RunTag(*each) for each in texts[1])]
        for start in range(0, len(found), BATCH):
            part = found[start : start + BATCH]
            kinds = ([each for each in part if isinstance(each, kind)] for kind in (Metric, Param, RunTag))
            self._client.log_batch(self._run.run_id, *kinds)

    def _log_artifact(self, item: Item) -> None:
        if item.path is None:
            self._client.log_dict(self._run.run_id, plain(item.metadata), f"{item.slug}/record.json")
        elif item.served is not None:
            self._log_model(item, item.path, item.served)
        elif item.path.is_dir():
            self._client.log_artifacts(self._run.run_id, str(item.path), item.slug)
        else:
            self._client.log_artifact(self._run.run_id, str(item.path), item.slug)

    def _log_model(self, item: Item, path: Path, served: Served) -> None:
        """Log an artifact as a model that answers, and register it by its name."""
        from mlflow.entities import LoggedModelOutput

        client, run = self._client, self._run
        model = client.create_logged_model(run.experiment_id, item.slug, run.run_id, _texts(_lineage(item)), {}, "")
        with folders.scratch() as temporary:
            _save(temporary / "model", path, served, model, run.run_id)
            client.log_model_artifacts(model.model_id, str(temporary / "model"))
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run.run_id, models=[LoggedModelOutput(model.model_id, 0)])
        version = self._registered(item, model, run.run_id)
        self._say(f"MLflow: models:/{item.slug}/{version} in {self._uri}")

    def _registered(self, item: Item, model: Any, run_id: str) -> str:
        from mlflow.exceptions import MlflowException

        with contextlib.suppress(MlflowException):  # it is there already; any other reason returns below
            self._client.create_registered_model(item.slug)
        found = self._client.create_model_version(
            item.slug, model.artifact_location, run_id, _texts(_lineage(item)), model_id=model.model_id
        )
        for alias in item.aliases:
            self._client.set_registered_model_alias(item.slug, _alias(alias), found.version)
        return str(found.version)

    @contextlib.contextmanager
    def _guarded(self, what: str) -> Iterator[None]:
        try:
            with variables(_WANTED), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # advice to whoever writes models by hand
                yield
        except Exception as error:  # tracking is a convenience: the run goes on after any error of its client
            self._client = None
            self._say(f"warning: MLflow {what} ({_why(error)}); going on with {RECORD_NAME} only")


def _started(uri: str, project: str, name: str) -> tuple[Any, Any]:
    """Return a client of a store, and the facts of a new run in it."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client: Any = MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.get_experiment_by_name(project)
    try:
        number = experiment.experiment_id if experiment else client.create_experiment(project)
    except MlflowException:  # another run made it meanwhile
        number = client.get_experiment_by_name(project).experiment_id
    return client, client.create_run(number, run_name=name).info


def _save(place: Path, path: Path, served: Served, model: Any, run_id: str) -> None:
    """Write a folder that `mlflow.pyfunc` loads: the artifact, and the program that answers from it."""
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature

    signature = ModelSignature(inputs=_schema(served.inputs), outputs=_schema(served.outputs))
    kept = Model(artifact_path=model.artifact_location, model_uuid=model.model_id, run_id=run_id)
    kept.model_id = model.model_id
    pyfunc.save_model(
        path=str(place),
        mlflow_model=kept,
        python_model=str(served.program),
        artifacts={"artifact": str(path.resolve())},
        code_paths=[str(module) for module in served.modules] or None,
        signature=signature,
        model_config=dict(served.settings) or None,
        pip_requirements=list(served.needs),
    )


def _schema(tensors: Sequence[Tensor]) -> Any:
    import numpy as np
    from mlflow.types import Schema, TensorSpec

    return Schema([TensorSpec(np.dtype(each.dtype), each.shape, each.name) for each in tensors])


def _lineage(item: Item) -> dict[str, Any]:
    parents = {f"parent.{each.kind}": each.path or each.name for each in item.parents}
    return {**parents, **{key: value for key, value in _flat(item.metadata).items() if value is not None}}


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {_key(key): str(value)[:MAX_VALUE] for key, value in values.items()}


def _flat(data: Mapping[str, object], before: str = "") -> dict[str, Any]:
    """Return the leaves of nested data by their paths; lists are leaves."""
    found: dict[str, Any] = {}
    for key, value in plain(data).items():
        name = f"{before}{key}"
        found |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return found


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _key(name: str) -> str:
    """Return a name of letters and signs that MLflow takes as the key of a metric, parameter or tag."""
    return re.sub(r"[^\w. /-]+", "_", name)[:250]


def _alias(name: str) -> str:
    """Return a name as MLflow takes it as an alias: `v1` and `latest` are its own.

    >>> _alias("QP"), _alias("v2")
    ('QP', 'is-v2')
    """
    found = re.sub(r"[^\w-]+", "-", name)[:250]
    return f"is-{found}" if re.fullmatch(r"v\d+|latest", found, re.IGNORECASE) else found


def _why(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "it is not installed: pip install 'nacdeploy[mlflow]'"
    return first_line(error)


def _described(uri: str) -> str:
    if "://" in uri:
        return f"MLflow: {uri}"
    return f"MLflow: {uri}; look at it with: MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri {uri}"
