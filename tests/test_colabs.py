"""The notebooks: they run on tiny settings, draw their pictures, say little, and install only where
they must.
"""

import base64
import io
import pathlib
import types

import numpy as np
import pytest

from tests import compiling

nbformat = pytest.importorskip("nbformat", reason="pip install '.[test]'")
nbclient = pytest.importorskip("nbclient", reason="pip install '.[test]'")
kernelspec = pytest.importorskip("ipykernel.kernelspec", reason="pip install '.[test]'")

ROOT = pathlib.Path(__file__).resolve().parents[1]
PATH = ROOT / "colabs" / "quickstart.ipynb"
PICTURES = dict(   # ids of the cells that draw
    quickstart=["training", "auroc", "patterns", "calibration"],
    your_cohort=["rates", "found", "explain"],
    eicu_demo=["attrition", "observed", "patterns", "auroc", "curves"],
    reading_a_report=["auroc", "curves", "gamma", "groups", "training"])


def read(name):
  return nbformat.read(ROOT / "colabs" / f"{name}.ipynb", as_version=4)


@pytest.fixture
def notebook():
  return nbformat.read(PATH, as_version=4)


def cell(notebook, name):
  return next(c for c in notebook.cells if c.id == name)


def ink(png, color=(0xD5, 0x5E, 0x00)):
  """How many pixels of a base64 PNG have the colour."""
  import matplotlib.image
  pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(png)))[..., :3]
  return int((np.abs(pixels * 255 - color) < 2).all(axis=-1).sum())


@pytest.mark.parametrize("name", PICTURES)
def test_the_committed_notebook_holds_no_output(name):
  notebook = read(name)
  nbformat.validate(notebook)
  code = [c for c in notebook.cells if c.cell_type == "code"]
  assert not any(c.outputs or c.execution_count for c in code)
  assert not any("/work/" in c.source or "://" in c.source for c in notebook.cells)
  # Every picture is explained before it is seen.
  for before, here in zip(notebook.cells, notebook.cells[1:]):
    assert here.id not in PICTURES[name] or before.cell_type == "markdown"


def test_all_notebooks_are_known_and_install_alike():
  assert {p.stem for p in (ROOT / "colabs").glob("*.ipynb")} == set(PICTURES)
  assert len({cell(read(name), "install").source for name in PICTURES}) == 1


@pytest.fixture
def execute(tmp_path, monkeypatch):
  """Runs a notebook in an empty folder; returns it with its outputs, and the folder."""
  # The interpreter of this test, whatever else is installed.
  kernelspec.install(kernel_name="here", prefix=str(tmp_path))
  monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
  for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
    monkeypatch.setenv(name, str(tmp_path / name))
  monkeypatch.setenv("PYTHONPATH", str(ROOT))
  monkeypatch.setenv("CRL_JAX_NOTEBOOK_SMALL", "1")
  # As on a build machine; the notebook must draw all the same.
  monkeypatch.setenv("MPLBACKEND", "agg")
  monkeypatch.setenv("XLA_FLAGS", compiling.QUICKLY)
  folder = tmp_path / "anywhere"
  folder.mkdir()

  def run(name):
    notebook = read(name)
    nbclient.NotebookClient(notebook, kernel_name="here", timeout=500,
                            resources={"metadata": {"path": str(folder)}}).execute()
    return notebook, folder
  return run


def drawn_and_said(notebook):
  """(cell id, figure) of every picture, PNG or SVG, and (cell id, text) of every printed line."""
  pictures, said = [], []
  for c in notebook.cells:
    for output in c.get("outputs", ()):
      assert output.output_type != "error"
      data = output.get("data", {})
      if figure := data.get("image/png") or data.get("image/svg+xml"):
        pictures.append((c.id, figure))
      elif output.get("name"):
        said.append((c.id, output.name, output.text))
  assert not any("Traceback" in text for *_, text in said)
  return pictures, said


def test_runs_and_draws(execute):
  notebook, folder = execute("quickstart")
  pictures, texts = drawn_and_said(notebook)
  assert [where for where, _ in pictures] == PICTURES["quickstart"]
  for where, figure in pictures:   # in the colour that each picture draws its result with
    assert ink(figure) > 50, where
  assert [where for where, name, _ in texts if name == "stdout"] == ["run"]   # pictures, not logs
  said = "".join(text for _, name, text in texts if name == "stdout")
  assert said.startswith("SIMULATED COHORT") and len(said.splitlines()) == 2
  assert {p.name for p in (folder / "runs").glob("quickstart-*/*")} >= {
      "metrics.json", "report.html", "predictions.parquet"}


@pytest.mark.parametrize("name", ["your_cohort", "reading_a_report",
                                  pytest.param("eicu_demo", marks=pytest.mark.slow)])
def test_the_other_notebooks_run_and_draw(name, execute, request, monkeypatch):
  if name == "eicu_demo":
    monkeypatch.setenv("CRL_JAX_EICU", str(request.getfixturevalue("eicu_root")))
  notebook, folder = execute(name)
  pictures, texts = drawn_and_said(notebook)
  assert list(dict.fromkeys(where for where, _ in pictures)) == PICTURES[name]
  assert all(figure.count("<text") > 4 for _, figure in pictures)
  printed = [(where, text) for where, stream, text in texts if stream == "stdout"]
  assert [where for where, _ in printed] == ["run"] and "report.html" in printed[0][1]
  assert len(printed[0][1].splitlines()) <= 2
  assert list(folder.glob("runs/*/report.html"))


@pytest.fixture
def install(notebook, tmp_path, monkeypatch):
  """Runs the install cell in a folder, with neither package importable; returns what it would have
  had pip install.
  """
  import importlib.util
  import shutil
  import subprocess
  import sys

  really = subprocess.run

  def run(folder, found=None, gpu=None):
    calls = []
    monkeypatch.chdir(folder)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: found)
    monkeypatch.setattr(shutil, "which", lambda name: gpu)
    monkeypatch.setattr(subprocess, "run", lambda command, check: really(command, check=check)
                        if command[0] == "git" else calls.append(command[-1]))
    monkeypatch.setattr(sys, "path", list(sys.path))
    exec(cell(notebook, "install").source, {})
    return calls, sys.path[0]
  return run


def clone(folder):
  (folder / "crl_jax").mkdir(parents=True)
  (folder / "colabs").mkdir()
  (folder / "setup.py").touch()
  return folder


def test_installs_from_the_checkout_around_or_beside_it(install, tmp_path):
  root = clone(tmp_path / "crl_jax")
  for folder in (root, root / "colabs", tmp_path):
    assert install(folder) == ([str(root)], str(root))
  assert install(tmp_path, gpu="nvidia-smi")[0] == [f"{root}[cuda12]"]
  # What importlib finds in the clone's parent: a folder, no package.
  namespace = types.SimpleNamespace(origin=None)
  assert install(tmp_path, namespace) == ([str(root)], str(root))


def test_does_nothing_where_it_is_installed_and_asks_for_a_clone_where_there_is_none(
    install, tmp_path):
  (tmp_path / "empty").mkdir()
  calls, first = install(tmp_path / "empty", types.SimpleNamespace(origin="somewhere/__init__.py"))
  assert not calls and first != str(tmp_path)
  with pytest.raises(FileNotFoundError, match="set REPOSITORY"):
    install(tmp_path / "empty")


def test_a_fresh_runtime_clones_the_address_that_it_is_given(install, tmp_path, monkeypatch):
  import subprocess
  origin, fresh = clone(tmp_path / "origin"), tmp_path / "fresh"
  (origin / "crl_jax" / "__init__.py").touch()
  git = ["git", "-C", str(origin), "-c", "user.name=t", "-c", "user.email=t@localhost"]
  for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
    subprocess.run(git + command, check=True)
  fresh.mkdir()
  monkeypatch.setenv("CRL_JAX_REPOSITORY", str(origin))
  root = str(fresh / "crl_jax_checkout")
  assert install(fresh) == ([root], root)
  assert install(fresh) == ([root], root)   # a second time: nothing to clone
