"""A rehearsal of Colab: one notebook, alone, where flatmin is missing."""

import importlib.metadata
import json
import os
import shutil
import sys
import venv
from pathlib import Path

import nbformat
import papermill
from packaging.requirements import Requirement

from _tools.chapters import HERE

# What Colab has before its first cell, and what pip would then fetch: linked from here, so that
# nothing is downloaded. hatchling builds the library.
COLAB = ["ipykernel", "numpy", "matplotlib", "torch"]
FETCHED = ["scipy", "seaborn", "pyyaml", "hatchling"]


def with_needs(names):
    found, waiting = {}, list(names)
    while waiting:
        name = waiting.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        for line in found[name].requires or []:
            need = Requirement(line)
            if need.marker is None or need.marker.evaluate({"extra": ""}):
                waiting.append(need.name)
    return found.values()


def bare_environment(folder):
    """A fresh environment that sees this one's packages through links."""
    venv.create(folder, with_pip=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for distribution in with_needs([*COLAB, *FETCHED]):
        home = Path(distribution.locate_file(""))
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(home / top)
    return folder / "bin" / "python"


def test_a_chapter_runs_alone_where_the_library_is_missing(tmp_path, monkeypatch):
    python = bare_environment(tmp_path / "bare")
    kernel = tmp_path / "jupyter" / "kernels" / "bare" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": command, "display_name": "bare", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    # The source alone, as Git would bring it: nothing built here, nothing of this environment.
    source = tmp_path / "source"
    for path in ("lib", "book/claims.yml", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (HERE.root / path).is_dir() else shutil.copy
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        copy(HERE.root / path, source / path)
    monkeypatch.setenv("FLATMIN_SOURCE", source.as_uri())
    # pip may build and install the library, and touch nothing else: what is linked is not its own.
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    for key, value in {"NO_INDEX": "1", "NO_DEPS": "1", "NO_BUILD_ISOLATION": "0"}.items():
        monkeypatch.setenv(f"PIP_{key}", value)
    monkeypatch.delenv("PYTHONPATH", raising=False)

    chapter = HERE.find(["pathways/01-sharpness"])[0]
    alone = tmp_path / "alone"
    alone.mkdir()
    notebook = nbformat.read(chapter.twin, as_version=4)
    where = nbformat.v4.new_code_cell("import flatmin; print(flatmin.__file__)", id="where")
    notebook.cells.append(where)
    nbformat.write(notebook, alone / "in.ipynb")
    ran = papermill.execute_notebook(
        alone / "in.ipynb",
        alone / "out.ipynb",
        kernel_name="bare",
        parameters={"tier": "smoke"},
        cwd=alone,
        progress_bar=False,
    )
    assert ran.cells[-1].outputs[0].text.startswith(str(tmp_path / "bare"))
    assert os.environ["FLATMIN_SOURCE"].startswith("file://")
    assert sys.prefix not in ran.cells[-1].outputs[0].text
