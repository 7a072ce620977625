"""The Predictor against the long way round: preprocessing on the host, each member's model, their
mean, the rectifier of the run; and how often it compiles."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pytest

from crl_jax import config as config_lib, files, models, run
from crl_jax.data import preprocess, sources
from crl_jax.data.cohort import pattern_id
from crl_jax.engine import checkpoint
from crl_jax.models.record import Batch
from crl_jax.posthoc import rectifier
from crl_jax.report import page
from crl_jax.serve import predictor as predictor_lib


SCALES = "probability", "logit"
ONE_SCALE = pytest.mark.parametrize("folder", SCALES[:1], indirect=True)


@pytest.fixture(scope="module", params=SCALES)
def folder(request, members_run, tmp_path_factory):
  """A copy of a run of four members, with every correction of its rectifier made to count."""
  target = tmp_path_factory.mktemp("inference") / request.param
  shutil.copytree(members_run.folder, target)
  found = json.loads((target / "rectifier.json").read_text())
  found["pooled"]["scale"] = request.param
  for t, task in enumerate(found["pooled"]["tasks"].values()):
    task["threshold"] = 0.02
    task["unseen"]["gamma"] = -0.07
    for i, cell in enumerate(task["cells"]):
      cell["gamma_shrunk"] = (-0.3, 0.01, 0.25, 0.05)[(i + t) % 4]   # one is below the threshold
  (target / "rectifier.json").write_text(json.dumps(found))
  files.seal(target, "rectifier.json")
  return target


@pytest.fixture(scope="module")
def predictor(folder, quickly):
  with quickly():
    return predictor_lib.load(folder)


@pytest.fixture(scope="module")
def rows(tiny_config):
  """Raw inputs with gaps, and every pattern there is: some that calibration never saw."""
  cohort = sources.build_cohort(config_lib.override(tiny_config, ["seed=7",
                                                                  "data.simulate.rows=40"]))
  rng = np.random.default_rng(0)
  observed = (np.arange(40)[:, None] >> np.arange(3) & 1).astype(bool)
  inputs = {m: rng.normal(size=x.shape).astype(np.float32) for m, x in cohort.inputs.items()}
  for x in inputs.values():
    x[rng.random(x.shape) < 0.2] = np.nan
  inputs["structured"][5] = np.nan   # observed, and empty
  return inputs, observed


def _long_way(folder, inputs, observed, quickly):
  config, facts, rectifiers = predictor_lib.read_run(folder)
  tree = checkpoint.restore(folder / "checkpoints" / "final")[1]
  modalities, tasks = tuple(facts["modalities"]), tuple(facts["tasks"])
  found = []
  for member, fold in enumerate(tree["fold"]):
    stats = jax.tree.map(lambda x: x[fold], tree["stats"])
    x = preprocess.transform(stats, inputs, observed, modalities)
    with quickly():
      model = models.build(config, models.Spec(
          modalities, tasks, {m: v.shape[1:] for m, v in x.items()},
          tuple(entry["pattern"] for entry in facts["patterns"])))
    count = len(observed)
    batch = Batch(x, observed, np.full((count, len(tasks)), np.nan), np.ones(count, bool),
                  np.arange(count), np.arange(count))
    params = jax.tree.map(lambda x: x[member], tree["params"])
    found.append(np.asarray(model.probability(model.apply(params, batch, False, None).logits)))
  base = np.mean(found, 0)
  rule = rectifier.from_dict(rectifiers["pooled"], tasks)
  return base, rectifier.apply(rule, base, pattern_id(observed)), rule


def test_it_is_the_members_mean_corrected(folder, predictor, rows, quickly):
  base, rectified = predictor(*rows)
  expected, corrected, rule = _long_way(folder, *rows, quickly)
  assert predictor.members == 4
  np.testing.assert_allclose(base, expected, atol=1e-6)
  np.testing.assert_allclose(rectified, corrected, atol=1e-6)
  # the rows hold what they are there for
  unseen = ~np.isin(pattern_id(rows[1]), rule.patterns)
  moved = np.abs(rectified - base) > 1e-3
  assert unseen.any() and moved[unseen].all() and moved.any(0).all() and not moved.all(0).any()
  assert not rows[1].any(1).all()   # a row with nothing observed


@ONE_SCALE
def test_without_the_rectifier_both_are_the_same(folder, rows, quickly, tmp_path):
  shutil.copytree(folder, tmp_path / "off")
  found = json.loads((folder / "rectifier.json").read_text())
  (tmp_path / "off" / "rectifier.json").write_text(json.dumps(found | {"enabled": False}))
  files.seal(tmp_path / "off", "rectifier.json")
  with quickly():
    base, rectified = predictor_lib.load(tmp_path / "off")(*rows)
  np.testing.assert_array_equal(rectified, base)


@ONE_SCALE
def test_a_run_of_version_0_2_0_is_read(folder, predictor, rows, quickly, tmp_path):
  """Whose config.json holds the model's settings flat: predicted, printed, reported as ever."""
  old = pathlib.Path(shutil.copytree(folder, tmp_path / "old"))
  tree = json.loads((old / "config.json").read_text())
  tree["model"] |= tree["model"].pop("crl_mmnar")
  del tree["model"]["pattern_term"]   # came later
  (old / "config.json").write_text(json.dumps(tree))
  files.seal(old, "config.json")
  with quickly():
    for found, expected in zip(predictor_lib.load(old)(*rows), predictor(*rows)):
      np.testing.assert_array_equal(found, expected)
    config = predictor_lib.read_run(folder)[0]
    assert run.run(config, old) == json.loads((old / "metrics.json").read_text())
    page.rebuild(old)
  tree["model"]["hide"] = "one"   # of another training
  (old / "config.json").write_text(json.dumps(tree))
  files.seal(old, "config.json")
  with pytest.raises(OSError, match="is not what its members were trained with"):
    predictor_lib.load(old)


@ONE_SCALE
def test_one_compilation_per_power_of_two(predictor, rows):
  take = lambda n: ({m: np.resize(x, (n, *x.shape[1:])) for m, x in rows[0].items()},
                    np.resize(rows[1], (n, 3)))
  predictor.compiled.clear_cache()
  for count, compiled in ((1, 1), (1, 1), (2, 2), (3, 3), (4, 3), (3, 3)):
    base, rectified = predictor(*take(count))
    assert base.shape == rectified.shape == (count, 2)
    assert predictor.compiled._cache_size() == compiled


@ONE_SCALE
def test_rows_are_predicted_alone_in_any_number(predictor, rows, monkeypatch):
  """Padding and splitting leave no trace: also of no row at all."""
  inputs, observed = rows
  whole = predictor(inputs, observed)
  monkeypatch.setattr(predictor_lib, "_LARGEST", 8)
  for count in (0, 1, 8, 21):
    found = predictor({m: x[:count] for m, x in inputs.items()}, observed[:count])
    for part, expected in zip(found, whole):
      np.testing.assert_allclose(part, expected[:count], atol=1e-6)
      assert part.dtype == np.float32


@ONE_SCALE
def test_what_is_unobserved_is_not_read(predictor, rows):
  inputs, observed = rows
  other = {m: np.where(observed[:, i, None], x, 1e6).astype(np.float32)
           for i, (m, x) in enumerate(inputs.items())}
  for found, expected in zip(predictor(other, observed), predictor(inputs, observed)):
    np.testing.assert_array_equal(found, expected)


def test_other_inputs_are_refused_by_modality(predictor, rows):
  inputs, observed = rows
  some = lambda **changes: {m: x for m, x in (inputs | changes).items() if x is not None}
  for bad, words in ((some(image=None), "lacks 'image', which `observed` says 20 rows have"),
                     (some(image=inputs["image"][:, :-1]), r"'image'\] has shape \(40, "),
                     (some(image=inputs["image"][:-1]), r"`observed` has 40 rows"),
                     (some(other=inputs["image"]), r"\['other'\]; the run's modalities are")):
    with pytest.raises(ValueError, match=words):
      predictor(bad, observed)
  for bad in (observed[:, :-1], observed.astype(float)):
    with pytest.raises(ValueError, match=r"observed is .* expected bool \(40, 3\)"):
      predictor(inputs, bad)


def test_a_modality_that_nobody_has_may_be_left_out(predictor, rows):
  inputs, observed = rows
  observed = observed & np.array([m != "image" for m in predictor.modalities])
  without = {m: x for m, x in inputs.items() if m != "image"}
  for a, b in zip(predictor(without, observed), predictor(inputs, observed)):
    np.testing.assert_array_equal(a, b)
