"""The report of a run as one HTML file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from nacdeploy import models
from nacdeploy.base import records
from nacdeploy.reports.page import write_page
from nacdeploy.results.artifact_page import tables_of
from nacdeploy.results.result import RESULT_FILE, Result
from nacdeploy.results.run_page import REPORT_FILE, material, page_of


def report(
    run: Path | str,
    out: Path | str | None = None,
    *,
    artifact: Path | str | None = None,
    model: str | None = None,
    task: Any = None,
) -> Path:
    """Write the HTML report of a run, by default into the run's folder, and return its path.

        >>> import nacdeploy
        >>> nacdeploy.report("runs/transfer-QEF-1").name
        'report.html'

    Args:
        artifact: an artifact exported from the run, whose export, exits and layers the page then tells too.
        task: the task of the run, if it is not at hand.
        model: the file of the network. A file that only the run names does not run until the user names it here.

    Raises:
        UsageError: the folder holds neither a search nor a result.
        NacdeployError: the file cannot be written.
    """
    folder = Path(run)
    models.name_by_user(model, task)
    path = Path(out) if out is not None else folder / REPORT_FILE
    page = page_of(material(folder, _result(folder)))
    more = tables_of(Path(artifact)) if artifact is not None else []
    return write_page(path, replace(page, tables=[*page.tables, *more]))


def _result(folder: Path) -> Result | None:
    return records.read(Result, folder / RESULT_FILE) if records.is_file(folder / RESULT_FILE) else None
