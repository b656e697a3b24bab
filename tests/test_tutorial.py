"""The notebook of the documentation, run from its first cell to its last, and the numbers that it talks about."""

from __future__ import annotations

import json
import os
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "docs" / "tutorial.ipynb"

# What the checks below need, as the notebook's own variables have it in the end.
SAID = """
import json
print(json.dumps({
    "gaps": table.set_index("width").gap_of_mean.to_dict(),
    "horizons": table.set_index("width").horizon_t.to_dict(),
    "rate": [rate.rate_of_mean_low, rate.rate_of_mean, rate.rate_of_mean_high],
    "losses": sweep.frame.groupby("width").population_loss.last().to_dict(),
    "bar": limit.frame.population_loss_bar.iloc[-1],
    "limits": [r.frame.population_loss.iloc[-1] for r in (limit, sweep[-1])],
    "yhat": found.yhat[0, :, 0].tolist(),
    "yhat_bar": found.bar[0, :, 0].tolist(),
    "yhat_100": run.predict(x).yhat[0, :, 0].tolist(),
    "rings_error": own.frame.groupby("width").test_error.last().to_dict(),
    "rings_gap": mfrun.compare(own, metrics="test_loss").gap_of_one.tolist(),
}))
"""


def test_no_outputs_are_kept() -> None:
    """What a run has said once is not what it says: the notebook holds none of it."""
    cells = nbformat.read(NOTEBOOK, 4).cells
    assert all(not c.outputs and c.execution_count is None for c in cells if c.cell_type == "code")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> list[nbformat.NotebookNode]:
    """The cells with their outputs; the last one prints what SAID asks for."""
    notebook = nbformat.read(NOTEBOOK, 4)
    notebook.cells.append(nbformat.v4.new_code_cell(SAID))
    place = tmp_path_factory.mktemp("notebook")
    # Threads of one network wait for one another, and for the tests beside this one: on a core of its own it is faster.
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if cores:
        os.sched_setaffinity(0, {min(cores)})
    try:
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(place)}}).execute()
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
    return notebook.cells


def test_figures_are_shown(cells: list[nbformat.NotebookNode]) -> None:
    drawn = [c for c in cells if c.cell_type == "code" and "mfrun.plot(" in c.source]
    assert len(drawn) == 2
    for cell in drawn:
        assert any("image/png" in output.get("data", {}) for output in cell.outputs)


def test_the_numbers(cells: list[nbformat.NotebookNode]) -> None:
    said = json.loads(cells[-1].outputs[0].text)
    # "Twice the width, half the gap."
    gaps = np.array([said["gaps"][n] for n in ("25", "50", "100", "200")])
    assert (np.abs(np.log2(gaps[:-1] / gaps[1:]) - 1) < 0.25).all()
    low, rate, high = said["rate"]
    assert 0.8 < low < rate < high < 1.1
    # Small widths leave the limit, large ones do not.
    horizons = list(said["horizons"].values())
    assert float(horizons[0]) < float(horizons[1])
    assert horizons[2:] == ["never", "never"]
    # The limit is one and the same alone and in a sweep, and what the widths tend to.
    assert said["limits"][0] == pytest.approx(said["limits"][1], abs=said["bar"])
    losses = list(said["losses"].values())
    assert losses == sorted(losses, reverse=True)
    # Small inputs are of the class -1, large ones of +1, also for a network of n = 100.
    assert np.sign(said["yhat"]).tolist() == np.sign(said["yhat_100"]).tolist() == [-1, -1, 1, 1]
    assert max(said["yhat_bar"]) < 0.2
    # The rings are told apart at every width, and the gap of one network shrinks.
    assert set(said["rings_error"].values()) == {0.0}
    assert said["rings_gap"][-1] < 0.6 * said["rings_gap"][0]
