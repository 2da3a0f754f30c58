"""In a notebook: the example runs from top to bottom, results show themselves, and interrupting a cell keeps what is finished."""

import os
import re
import time
from pathlib import Path
from queue import Empty

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

from mechdiff.common.paths import CACHE

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("demo")]
ROOT = Path(__file__).parents[1]
PATIENCE = 600
LONG = """
import mechdiff as md
from mechdiff import questions
from mechdiff.questions.shared import measure
measure.CPU_PIECE = 480
pair = md.load("demo-cultural")
request = pair.request("patch", streams="resid_post,mlp_out", layers=range(15, 30), limit=32)
store, stored = pair._store, pair._store.put_arrays
store.put_arrays = lambda *parts: (stored(*parts), print("stored"))
"""


@pytest.fixture
def environment(tmp_path, monkeypatch):
    """An empty cache for the kernel's process."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "models").symlink_to(CACHE / "models")
    monkeypatch.setenv("MECHDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    return tmp_path


def shown(cell, kind: str) -> str:
    """What a cell shows of one kind, such as text/html."""
    return "".join(str(output["data"].get(kind, "")) for output in cell.outputs if "data" in output)


def test_the_example_notebook_runs(environment):
    notebook = nbformat.read(ROOT / "docs" / "example.ipynb", 4)
    NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(environment)}}).execute()
    cells = {cell.source.splitlines()[0]: cell for cell in notebook.cells if cell.cell_type == "code"}
    assert "demo-cultural" in shown(cells["import mechdiff as md"], "text/html")
    result = next(cell for line, cell in cells.items() if line.startswith("result = pair.patch"))
    assert "<table" in shown(result, "text/html") and "recovery" in shown(result, "text/html")
    assert "Which layers carry the change?" in str(cells["result.chart()"].outputs)
    assert "beyond the donor" in shown(cells["def beyond(clean):"], "text/html")
    errors = [output.text for cell in cells.values() for output in cell.outputs if output.get("name") == "stderr"]
    assert all("cell" in text for text in errors), "progress bars, and no warning"


class Kernel:
    """A notebook's process. `run` gives what a cell prints, and the name of its error."""

    def __init__(self):
        self.manager, self.client = start_new_kernel(kernel_name="python3", startup_timeout=PATIENCE, env=dict(os.environ))

    def run(self, code: str, interrupt_after: str | None = None) -> tuple[str, str | None]:
        """interrupt_after: a text of the progress bar, once which is shown the cell is interrupted."""
        self.client.execute(code)
        printed, error, deadline = "", None, time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            try:
                message = self.client.get_iopub_msg(timeout=1)
            except Empty:
                continue
            content = message["content"]
            printed += content.get("text", "") + str(content.get("data", ""))
            error = content.get("ename", error)
            if interrupt_after and interrupt_after in printed:
                self.manager.interrupt_kernel()
                interrupt_after = None
            if content.get("execution_state") == "idle":
                return printed, error
        raise AssertionError(f"the cell did not end: {printed}")

    def numbers(self, code: str) -> list[int]:
        """The numbers that a cell prints last."""
        printed, error = self.run(code)
        assert error is None, printed
        return [int(number) for number in re.findall(r"\d+", printed.strip().splitlines()[-1].rpartition("}")[2])]


@pytest.fixture
def kernel(environment):
    kernel = Kernel()
    yield kernel
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


def test_an_interrupted_cell_keeps_what_is_finished(kernel):
    assert kernel.run(LONG) == ("", None)
    _, error = kernel.run("pair.ask(request)", interrupt_after="stored")
    assert error == "KeyboardInterrupt"
    done, total = kernel.numbers("task = questions.task(request); print(task.done, task.total)")
    assert 0 < done < total
    assert kernel.numbers("result = pair.ask(request); print(len(result.table))") == [total]
    assert kernel.numbers("task = questions.task(request); print(task.total - task.done)") == [0]
