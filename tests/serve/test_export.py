"""The exported model: the run's own numbers for any rows, without crl_jax, and nothing half
written."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import jax
import jax.export
import numpy as np
import pytest

from crl_jax import files, models, run
from crl_jax.data import preprocess
from crl_jax.serve import export, headline, predictor as predictor_lib

ROOT = pathlib.Path(__file__).parents[2]
FILES = ["example.py", "model.stablehlo", "schema.json", "weights.npz"]


@pytest.fixture(scope="module")
def exported(quickly, tmp_path_factory):
  """exported(run folder) -> (folder of its export, its Predictor); each made once."""
  kept = {}
  def made(folder):
    if folder not in kept:
      target = tmp_path_factory.mktemp("exports") / "model"
      with quickly():
        export.export(folder, target)
        kept[folder] = target, predictor_lib.load(folder)
    return kept[folder]
  return made


@pytest.fixture(scope="module")
def logit_run(members_run, tmp_path_factory):
  """A copy of members_run whose pooled rectifier adds to the logit, in every pattern."""
  folder = shutil.copytree(members_run.folder, tmp_path_factory.mktemp("runs") / "logit")
  found = json.loads((folder / "rectifier.json").read_text())
  found["pooled"]["scale"] = "logit"
  for task in found["pooled"]["tasks"].values():
    task["threshold"], task["unseen"]["gamma"] = 0.0, -0.4
    for i, cell in enumerate(task["cells"]):
      cell["gamma_shrunk"] = 0.3 + 0.1 * i
  (folder / "rectifier.json").write_text(json.dumps(found))
  files.seal(folder, "rectifier.json")
  return dataclasses.make_dataclass("Run", ["folder"])(folder)


def loaded(folder):
  """call(inputs, observed, zero=prefix of weights that are 0) of an exported folder, compiled once
  for every number of rows."""
  model = jax.export.deserialize((folder / "model.stablehlo").read_bytes())
  with np.load(folder / "weights.npz", allow_pickle=False) as file:
    weights = dict(file)
  call = jax.jit(model.call)
  return lambda inputs, observed, zero=None: call(
      {name: x * (zero is None or not name.startswith(zero)) for name, x in weights.items()},
      inputs, observed)


def rows(predictor, count, seed=0):
  """Made-up rows in every pattern in turn, features missing here and there, rubbish where a
  modality is not observed."""
  rng, M = np.random.default_rng(seed), len(predictor.modalities)
  observed = (np.arange(count)[:, None] + seed >> np.arange(M) & 1).astype(bool)
  inputs = {m: rng.normal(size=(count, *shape)).astype(np.float32)
            for m, shape in predictor.shapes.items()}
  inputs = {m: np.where(rng.random(x.shape) < 0.2, np.nan, x).astype(np.float32)
            for m, x in inputs.items()}
  return inputs, observed


def require_same(call, predictor, count, seed=0):
  """The exported `call` equals the Predictor on made-up rows; returns (base, rectified)."""
  given = rows(predictor, count, seed)
  *found, chosen = call(*given)
  assert chosen.shape == found[0].shape and np.isfinite(chosen).all()
  expected = predictor(*given)
  for f, e in zip(found, expected, strict=True):
    assert f.shape == (count, len(predictor.tasks)) and np.isfinite(f).all()
    np.testing.assert_allclose(f, e, atol=1e-6)
  return [np.asarray(p, np.float64) for p in found]


def test_the_exported_function_is_the_predictors_for_any_rows(exported, members_run):
  folder, predictor = exported(members_run.folder)
  call = loaded(folder)
  for pattern in range(8):   # `structured` is always there in training: half of them are not
    require_same(call, predictor, 1, pattern)
    require_same(call, predictor, 3, pattern)
  base, rectified = require_same(call, predictor, 64)
  assert np.abs(base - rectified).max() > 0.01


def test_the_headline_is_exported_with_the_yardsticks_that_it_needs(exported, tiny_run):
  folder, predictor = exported(tiny_run.folder)
  inputs, observed = rows(predictor, 24)
  chosen = loaded(folder)(inputs, observed)[2]
  _, rectified = predictor(inputs, observed)
  new = types.SimpleNamespace(inputs=inputs, observed=observed, modalities=predictor.modalities)
  beside, found = headline.predict(predictor.headline, rectified.astype(float), new,
                                   predictor.kinds)
  assert set(beside) == {"logistic", "boosting"}
  np.testing.assert_allclose(chosen, found["chosen"], atol=1e-5)
  assert np.abs(chosen - rectified).max() > 0.01
  about = json.loads((folder / "schema.json").read_text())
  assert "chosen" in about["call"] and "the probability to use" in about["outputs"]["chosen"]
  assert "to use" not in about["outputs"]["rectified"]


def test_the_logit_scale_is_exported_and_the_weights_are_arguments(exported, logit_run):
  folder, predictor = exported(logit_run.folder)
  call = loaded(folder)
  base, rectified = require_same(call, predictor, 8)
  logit = lambda p: np.log(p / (1 - p))
  shift = logit(rectified) - logit(base)
  np.testing.assert_allclose(shift[0], -0.4, atol=1e-4)   # nothing observed: a pattern not seen
  assert shift[1, 0] == pytest.approx(0.3, abs=1e-4)      # the first pattern of calibration
  np.testing.assert_allclose(shift[:, 0], shift[:, 1], atol=1e-4)
  # nothing is corrected
  np.testing.assert_allclose(*call(*rows(predictor, 8), zero="shift")[:2])
  flat = call(*rows(predictor, 8), zero="params")[0]
  assert np.ptp(base, axis=0).min() > 1e-3 and not np.ptp(flat, axis=0).any()


def test_sequences_quantiles_and_components_are_exported(small_config, batch):
  c, rng = small_config.unlock(), np.random.default_rng(0)
  c.preprocess.components = 4
  names, tasks = ("image", "vitals"), ("icu", "mortality")
  shapes = {"image": (9,), "vitals": (7, 3)}
  inputs = {m: np.where(np.arange(batch.inputs[m].size).reshape(-1, *shapes[m]) % 7,
                        batch.inputs[m], np.nan) for m in names}
  folds = preprocess.fit_folds(inputs, batch.observed[:, [1, 3]], names,
                               [np.arange(12), np.arange(4, 16)], c.preprocess)
  for fold in folds:
    for m in names:
      fold[m]["knots"] = np.sort(rng.normal(size=(8, shapes[m][-1])).astype(np.float32), 0)
  widths = preprocess.widths(folds[0])
  model = models.build(c, models.Spec(names, tasks, {
      m: (*shapes[m][:-1], widths[m]) for m in names}, (0, 3)))
  weights = {
      "params": jax.tree.map(lambda x: rng.normal(0, 0.3, (3, *x.shape)).astype(x.dtype),
                             jax.eval_shape(model.init, jax.random.key(0))),
      "fold": np.array([0, 0, 1], np.int32), "stats": preprocess.stack(folds),
      "patterns": np.array([[False, False], [True, True]]),
      "shift": np.array([[0.1, -0.1], [0.2, 0.0], [-0.2, 0.1]], np.float32)}
  function = predictor_lib._function(model, names, "probability")
  predictor = predictor_lib.Predictor(function, weights, names, tasks, shapes, 3, jax.jit(function))
  staged, flat = export.stage(predictor)
  call = jax.jit(jax.export.deserialize(staged.serialize()).call)
  assert len(staged.out_avals) == 2   # no headline
  base, _ = require_same(lambda *given: (*call(flat, *given), call(flat, *given)[1]), predictor, 5)
  assert np.ptp(base, axis=0).min() > 1e-3


def test_one_file_serves_cpu_and_gpu_and_shows_no_path_and_no_patients_extremes(exported,
                                                                                members_run):
  folder, _ = exported(members_run.folder)
  content = (folder / "model.stablehlo").read_bytes()
  assert jax.export.deserialize(bytearray(content)).platforms == ("cpu", "cuda")
  assert b".py" not in content and str(ROOT).encode() not in content
  with np.load(folder / "weights.npz", allow_pickle=False) as file:
    assert not [name for name in file if name.endswith(("/low", "/high"))]


def test_the_schema_tells_what_goes_in_and_what_comes_out(exported, members_run):
  folder, predictor = exported(members_run.folder)
  text = (folder / "schema.json").read_text()
  found, facts = json.loads(text), json.loads((members_run.folder / "data.json").read_text())
  assert sorted(p.name for p in folder.iterdir()) == FILES
  assert found["inputs"]["observed"]["columns"] == facts["modalities"]
  for m, shape in predictor.shapes.items():
    about = found["inputs"]["inputs"][m]
    assert about["shape"] == ["rows", *shape] and about["features"] == facts["features"][m]
    assert "NaN is a missing feature" in about["description"]
  with np.load(folder / "weights.npz", allow_pickle=False) as file:
    assert {name: list(x.shape) for name, x in file.items()} == {
        name: x["shape"] for name, x in found["inputs"]["weights"]["arrays"].items()}
  assert found["outputs"]["columns"] == ["readmission", "mortality"]
  training = found["training"]
  default = run.default_workdir(members_run.config, "x").name
  assert default == f"x-{training['config_sha256'][:8]}"
  assert training["protocol"] == "honest" and "SIMULATED" in training["banner"]
  assert training["members"] == 4 and training["versions"]["jax"] == jax.__version__
  assert len(training["trained_patterns"]) == len(facts["trained_patterns"])
  assert ["structured", "image"] in training["trained_patterns"]
  assert found["export"]["calling_convention"] >= 9
  assert "rows" not in training and str(members_run.folder) not in text


def alone(folder):
  """Runs example.py in a Python that finds nothing of crl_jax or flax."""
  code = ("import runpy, sys; sys.modules.update(crl_jax=None, flax=None); "
          "runpy.run_path(sys.argv[1], run_name='__main__')")
  return subprocess.run([sys.executable, "-I", "-c", code, str(folder / "example.py")],
                        capture_output=True, text=True, cwd="/", env=dict(os.environ))


def test_the_example_has_twenty_lines():
  lines = export._EXAMPLE.split('"""')[2].splitlines()
  assert len([line for line in lines if line and not line.startswith("#")]) == 20


def test_the_example_predicts_without_crl_jax(exported, members_run):
  folder, predictor = exported(members_run.folder)
  done = alone(folder)
  assert done.returncode == 0, done.stderr
  shown = re.findall(r"^(\S+): (\S+) (\S+), rectified (\S+), chosen \S+$", done.stdout, re.M)
  names = list(dict.fromkeys(name for name, *_ in shown))
  assert names == [*predictor.modalities, "+".join(predictor.modalities)]
  assert [task for _, task, *_ in shown] == len(names) * list(predictor.tasks)
  observed = np.array([[m in name.split("+") for m in predictor.modalities] for name in names])
  expected = predictor({m: np.zeros((len(names), *shape), np.float32)
                        for m, shape in predictor.shapes.items()}, observed)
  np.testing.assert_allclose(np.array([line[2:] for line in shown], float),
                             np.stack(expected, -1).reshape(-1, 2), atol=2e-6)


@pytest.mark.parametrize("name", ["weights.npz", "model.stablehlo"])
def test_a_flipped_byte_is_noticed(exported, members_run, tmp_path, name):
  folder = shutil.copytree(exported(members_run.folder)[0], tmp_path / "copy")
  content = bytearray((folder / name).read_bytes())
  content[len(content) // 2] ^= 1
  (folder / name).write_bytes(content)
  done = alone(folder)
  assert done.returncode == 1 and f"{name} is damaged" in done.stderr and not done.stdout


def test_what_is_in_the_way_is_refused_and_kept(members_run, tmp_path):
  full, file = tmp_path / "full", tmp_path / "file"
  full.mkdir()
  (full / "mine").write_text("kept")
  file.write_text("kept")
  for output in (full, file):
    with pytest.raises(OSError, match="exists and is not an empty folder"):
      export.export(members_run.folder, output)
  assert (full / "mine").read_text() == file.read_text() == "kept"
  assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "full"]


def test_an_empty_folder_is_filled_with_the_same_bytes(exported, members_run, tmp_path, quickly):
  (tmp_path / "empty").mkdir()
  with quickly():
    export.export(members_run.folder, tmp_path / "empty")
  assert [p.name for p in tmp_path.iterdir()] == ["empty"]
  for name in FILES:
    first = exported(members_run.folder)[0] / name
    assert (tmp_path / "empty" / name).read_bytes() == first.read_bytes(), name


def test_a_failure_half_way_leaves_nothing(members_run, tmp_path, quickly, monkeypatch):
  def full(*_, **__):
    raise OSError("No space left on device")
  monkeypatch.setattr(np, "savez", full)
  with quickly(), pytest.raises(OSError, match="No space left"):
    export.export(members_run.folder, tmp_path / "model")
  assert not list(tmp_path.iterdir())


def test_unfinished_runs_are_refused_in_one_line(tmp_path):
  (tmp_path / "run").mkdir()
  command = [sys.executable, "-m", "crl_jax.export", f"--workdir={tmp_path / 'run'}",
             f"--output={tmp_path / 'new' / 'model'}"]
  done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
  assert done.returncode == 1 and "is not a finished run" in done.stderr
  assert "Traceback" not in done.stderr
  assert [p.name for p in tmp_path.iterdir()] == ["run"]
