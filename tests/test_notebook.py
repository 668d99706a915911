"""A notebook, run by a kernel of its own: results as tables, pictures, and progress in the cell."""

from pathlib import Path
from typing import Any

import nbformat
import pytest
from command_line import lay_out
from nbclient import NotebookClient

CELLS = (
    "import nacdeploy\nresult = nacdeploy.transfer(strategy='PQ', profile='tiny.toml', wandb=False)",
    "result",
    "result.plot()",
    "nacdeploy.bench([nacdeploy.export(source=result.folder, target='ort', wandb=False)], batch=1)",
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, Any]]]:
    folder: Path = lay_out(tmp_path_factory.mktemp("notebook"))
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
    return [cell.outputs for cell in notebook.cells]


def html(cell: list[dict[str, Any]]) -> str:
    return "".join(output["data"].get("text/html", "") for output in cell if "data" in output)


def test_progress_is_shown_in_the_cell(outputs: list[list[dict[str, Any]]]) -> None:
    texts = [str(output) for output in outputs[0]]
    assert any("training the baseline resnet8 on digits: done" in text for text in texts)
    assert any("on validation" in text for text in texts)


def test_result_is_a_table(outputs: list[list[dict[str, Any]]]) -> None:
    shown = html(outputs[1])
    assert "<caption>PQ on resnet8, digits</caption>" in shown and "BitOps ratio" in shown


def test_plot_shows_the_pictures_of_the_report(outputs: list[list[dict[str, Any]]]) -> None:
    assert "data:image/svg+xml;base64," in html(outputs[2])


def test_bench_is_a_table_of_rows(outputs: list[list[dict[str, Any]]]) -> None:
    shown = html(outputs[3])
    assert shown.count("<tr>") == 3 and "p50 ms" in shown
