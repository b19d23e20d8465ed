"""`appliance notebook`: it is a notebook, and all of it runs and draws the pictures."""

from __future__ import annotations

import json
import os
import sys

import matplotlib.pyplot as plt
import nbformat
import pytest
from nbclient import NotebookClient

from appliance.errors import ConfigError
from appliance.operations.notebook.walk import NotebookPlan, notebook

SIZES = ("--train-images", 2, "--test-images", 2, "--steps", 2)
PICTURES = {"boxes": 2, "loss": 1, "AP of each label": 1, "error counts": 1, "detections": 2}


def code_of(document: dict) -> str:
    cells = (cell for cell in document["cells"] if cell["cell_type"] == "code")
    return "\n".join("".join(cell["source"]) for cell in cells).replace("%matplotlib inline", "")


def test_all_of_it_runs_and_draws_the_pictures(run_appliance, tmp_path, monkeypatch, capsys):
    """In this process, which has torch already; a kernel runs it among the long proofs."""
    file = tmp_path / "walk.ipynb"
    assert run_appliance("notebook", "-o", file, *SIZES) == 0
    assert f"Wrote {file}." in capsys.readouterr().out
    document = json.loads(file.read_text())
    nbformat.validate(nbformat.from_dict(document))
    monkeypatch.chdir(tmp_path)
    plt.close("all")
    exec(compile(code_of(document), str(file), "exec"), {})
    assert len(plt.get_fignums()) == sum(PICTURES.values())
    plt.close("all")
    assert "Total classes: 8, total images: 2" in capsys.readouterr().out
    assert (tmp_path / "walk.safetensors").is_file()
    assert run_appliance("notebook", "-o", file) == 1
    assert "error: There is a file already" in capsys.readouterr().err
    assert run_appliance("notebook", "-o", tmp_path / "walk.py") == 1


@pytest.mark.slow
def test_a_kernel_runs_all_of_it_and_shows_the_pictures(run_appliance, tmp_path):
    file = tmp_path / "walk.ipynb"
    assert run_appliance("notebook", "-o", file, *SIZES) == 0
    written = nbformat.read(file, as_version=4)
    client = NotebookClient(written, timeout=200, resources={"metadata": {"path": str(tmp_path)}})
    # The kernel is this Python, whatever kernels the machine has.
    client.km = client.create_kernel_manager()
    client.km.kernel_spec.argv[0] = sys.executable
    client.execute()
    outputs = [output for cell in written.cells for output in cell.get("outputs", ())]
    assert [output for output in outputs if output.output_type == "error"] == []
    shown = sum("image/png" in output.get("data", {}) for output in outputs)
    assert shown == sum(PICTURES.values())
    assert "Total classes: 8, total images: 2" in str(written.cells)


def test_own_pictures_stand_in_it(tmp_path):
    made = notebook(NotebookPlan(data="it's mine", init="imagenet", steps=7))
    nbformat.validate(nbformat.from_dict(made))
    code = code_of(made)
    compile(code, "notebook", "exec")
    assert """ObjectDetectionDataset.read("it's mine")""" in code
    assert "make_sample_dataset" not in code
    assert "init='imagenet'" in code
    assert os.fspath(tmp_path) not in json.dumps(made)
    for wrong in ({"test_fraction": 1.0}, {"steps": 0}):
        with pytest.raises(ConfigError):
            NotebookPlan(**wrong)
