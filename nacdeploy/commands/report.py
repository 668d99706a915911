"""The report of a job as one HTML file."""

from pathlib import Path
from typing import Any

from nacdeploy import models
from nacdeploy.base import records
from nacdeploy.base.errors import UsageError
from nacdeploy.base.progress import Progress
from nacdeploy.commands.explain import explain as explained_now
from nacdeploy.exporters.bench import Table
from nacdeploy.reports.explanation import Explanation
from nacdeploy.reports.page import Page, write_page
from nacdeploy.results.artifact_page import shipped, with_artifact
from nacdeploy.results.result import RESULT_FILE, Result
from nacdeploy.results.run_material import material
from nacdeploy.results.run_page import REPORT_FILE, page_of


def report(
    run: Path | str,
    out: Path | str | None = None,
    *,
    artifact: Path | str | None = None,
    bench: Table | Path | str | None = None,
    explained: Explanation | Path | str | None = None,
    explain: bool = False,
    model: str | None = None,
    task: Any = None,
    progress: Progress | None = None,
) -> Path:
    """Write the HTML report of a run, by default into the run's folder, and return its path.

        >>> import nacdeploy
        >>> nacdeploy.report("runs/transfer-QEF-1").name
        'report.html'

    Args:
        artifact: an artifact exported from the run, whose export, times, exits and layers the page then tells too.
        bench: the times of that artifact: what `bench` returned, or the file that it wrote.
        explained: the reasons of its layers: what `explain` returned, or the file that it wrote.
        explain: find these reasons now, by running the artifact here.
        task: the task of the run, if it is not at hand.
        model: the file of the network. A file that only the run names does not run until the user names it here.

    Raises:
        UsageError: the folder holds neither a search nor a result, or a record is not about the artifact.
        NacdeployError: the file cannot be written.
    """
    folder = Path(run)
    models.name_by_user(model, task)
    path = Path(out) if out is not None else folder / REPORT_FILE
    if artifact is None and (bench is not None or explained is not None or explain):
        raise UsageError("--bench, --explained and --explain are about an artifact: name it with --artifact")
    if explain and explained is not None:
        raise UsageError("--explain finds the reasons of layers now, --explained FILE reads them: give one of them")
    result = _result(folder)
    page: Page = page_of(material(folder, result))
    if artifact is not None:
        place = Path(artifact)
        shipped(place, None, None)  # refused before anything is timed
        reasons = explained_now(place, progress=progress) if explain else explained
        page = with_artifact(page, shipped(place, _at(bench), _at(reasons)), result)
    return write_page(path, page)


def _at(given: Any) -> Any:
    """Return a file's name as a path, and a record as it is."""
    return Path(given) if isinstance(given, str) else given


def _result(folder: Path) -> Result | None:
    return records.read(Result, folder / RESULT_FILE) if records.is_file(folder / RESULT_FILE) else None
