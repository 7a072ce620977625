"""Shapley values: axioms, closed forms, and what a run's explanation writes."""

import dataclasses
import itertools
import json
import math
import types

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from crl_jax import config as config_lib
from crl_jax.data import cohort as cohort_lib, sources
from crl_jax.data.cohort import Cohort
from crl_jax.report import explanations
from crl_jax.serve import explain, predictor
from crl_jax.statistics import shapley

M, T = 3, 2


@pytest.fixture
def rng():
  return np.random.default_rng(0)


def by_orders(values):
  """The definition: the mean over all orders of arrival."""
  players = int(math.log2(len(values)))
  phi = np.zeros((players, *values.shape[1:]))
  for order in itertools.permutations(range(players)):
    there = 0
    for m in order:
      phi[m] += values[there | 1 << m] - values[there]
      there |= 1 << m
  return phi / math.factorial(players)


def test_exact_values_are_the_mean_over_all_orders(rng):
  values = rng.normal(size=(16, 5, T))
  phi = shapley.exact(values)
  np.testing.assert_allclose(phi, by_orders(values), atol=1e-12)
  np.testing.assert_allclose(phi.sum(0), values[-1] - values[0], atol=1e-12)   # efficiency
  with pytest.raises(ValueError, match="12 coalitions"):
    shapley.exact(values[:12])


def test_null_players_get_nothing_and_symmetric_ones_the_same():
  here = shapley.coalitions(4)
  values = (here[:, 0] & here[:, 1]) + 2.0 * here[:, 2]   # the last adds nothing to anyone
  np.testing.assert_allclose(shapley.exact(values), [0.5, 0.5, 2.0, 0.0], atol=1e-12)


def test_sampled_values_approach_the_exact_ones_and_stay_efficient(rng):
  players, values = 7, rng.normal(size=(128, T))
  orders = shapley.permutations(players, 4000, 0)
  assert (orders[1] == orders[0][::-1]).all()
  index = shapley.chains(orders) @ (1 << np.arange(players))
  assert (np.diff(shapley.chains(orders).sum(-1), axis=1) == 1).all()
  mean, error = shapley.sampled(orders, values[index])
  z = (mean - shapley.exact(values)) / error
  assert np.abs(z).max() < 4 and 0.4 < z.std() < 1.6
  np.testing.assert_allclose(mean.sum(0), values[-1] - values[0], atol=1e-10)
  assert np.isnan(shapley.sampled(orders[:2], values[index[:2]])[1]).all()


def linear(modalities, w, delta_w):
  """outputs() of one member: logits = sum_m w_m . x_m (observed) + the pattern's own weights."""
  def outputs(weights, inputs, observed):
    del weights
    total = observed @ jnp.asarray(delta_w)
    for m, name in enumerate(modalities):
      total = total + jnp.where(observed[:, m, None], inputs[name], 0.0) @ jnp.asarray(w[name])
    return types.SimpleNamespace(logits=total[None], named={})
  return outputs


def cohort_of(rng, n=70, players=M, width=4):
  names = tuple(f"m{i}" for i in reversed(range(players)))   # not in alphabetical order
  observed = rng.random((n, players)) < 0.7
  inputs = {m: rng.normal(size=(n, width)).astype(np.float32) * observed[:, [i]]
            for i, m in enumerate(names)}
  return Cohort(names, ("a", "b"), inputs, observed, np.zeros((n, T), np.float32),
                np.arange(n, dtype=np.int64), np.arange(n, dtype=np.int64) // 2, {},
                {m: list(range(width)) for m in names})


@pytest.mark.parametrize("players", [3, 8])
def test_a_linear_model_has_the_closed_form(rng, players):
  cohort = cohort_of(rng, players=players)
  w = {m: rng.normal(size=(4, T)).astype(np.float32) for m in cohort.modalities}
  delta_w = rng.normal(size=(players, T)).astype(np.float32)
  rows, background = np.arange(50), np.arange(50, 70)
  outputs, same = linear(cohort.modalities, w, delta_w), lambda logits: logits
  told = []
  removed = explain.explain(outputs, same, {}, cohort, rows, background, "removed",
                            update=lambda done, text: told.append(done))
  assert told == sorted(set(told)) and told[-1] == len(rows)
  replaced = explain.explain(outputs, same, {}, cohort, rows, background, "replaced")
  stand_in = explain._others(cohort, background, 32 if players > explain._EXACT else
                             explain._BACKGROUND, 0)
  for m, name in enumerate(cohort.modalities):
    seen = cohort.observed[rows, m, None]
    mine = cohort.inputs[name][rows] @ w[name]
    np.testing.assert_allclose(removed.values[:, m], seen * (mine + delta_w[m]), atol=1e-4)
    theirs = stand_in[name] @ w[name]
    np.testing.assert_allclose(replaced.values[:, m], seen * (mine - theirs.mean(0)), atol=1e-4)
    np.testing.assert_allclose(replaced.error[:, m], seen * theirs.std(0, ddof=1)
                               / np.sqrt(len(theirs)), atol=1e-4)
  assert (removed.error == 0).all() == (players <= explain._EXACT)
  for found in (removed, replaced):   # efficiency
    np.testing.assert_allclose(found.nothing + found.values.sum(1), found.prediction, atol=1e-4)
  # what is left without any content: nothing at all, or what the pattern says and others' content
  np.testing.assert_allclose(removed.nothing, 0, atol=1e-5)
  assert replaced.nothing.std(0).min() > 0.1
  assert (removed.values[~cohort.observed[rows]] == 0).all()


def test_a_modality_that_nobody_has_stands_in_as_zeros(rng):
  cohort = cohort_of(rng)
  cohort.observed[:, 1] = False
  found = explain._others(cohort, np.arange(20), 5, 0)
  assert (found["m1"] == 0).all() and found["m2"].shape == (5, 4)


@pytest.fixture(scope="module")
def explained(tiny_config, finish, tmp_path_factory):
  """A run that was told to explain itself; its folder and what it found."""
  config = config_lib.override(tiny_config, ["members.folds=2", "members.seeds=2",
                                             "evaluate.explain=24", "evaluate.permutations=20"])
  done = finish(config, tmp_path_factory.mktemp("explained") / "run")
  found = explain.of_run(done.folder, 24)
  return done.folder, found, json.loads((done.folder / "explain.json").read_text())


def test_a_run_is_explained_by_members_that_never_saw_the_row(explained):
  folder, found, brief = explained
  tasks = found.tasks
  table = pd.read_parquet(folder / "predictions.parquet").query("role == 'test'")
  base = table.groupby("row_id")[[f"p_base_{t}" for t in tasks]].mean().loc[found.row_id]
  np.testing.assert_allclose(found.prediction, base, atol=1e-5)
  np.testing.assert_allclose(found.nothing + found.values.sum(1), found.prediction, atol=1e-6)
  assert (found.values[~found.observed] == 0).all() and (
      found.error[found.observed] > 0).all()
  seen = found.attention[found.observed]
  assert (seen > 0).all() and (np.nansum(found.attention, 1) < 1).all()   # the pattern's token too
  assert np.isnan(found.gate[~found.observed]).all() and (found.gate[found.observed] < 1).all()
  assert len(found.row_id) == 24 and set(brief["tasks"]) == set(tasks)
  for task in tasks:   # what the pattern says is beside the average of the same members
    pattern = brief["tasks"][task]["signed"][explanations.PATTERN]
    assert pattern["value"] == pytest.approx(0, abs=1e-7)
  away = explanations.summary(dataclasses.replace(found, absent="removed"))["tasks"][tasks[0]]
  assert set(away["contribution"]) == set(found.modalities)


def test_the_report_tells_of_it_and_no_patient_is_written(explained):
  folder, found, brief = explained
  page = (folder / "report.html").read_text()
  assert "What each modality contributed" in page and brief["said"][0][:40] in page
  assert explanations.summary(found) == brief
  assert (folder / "explain.svg").read_text().startswith("<svg xmlns")
  assert not list(folder.glob("*patient*"))
  assert "row_id" not in (folder / "explain.json").read_text()


def test_single_patients_are_written_where_asked(explained, tmp_path):
  _, found, _ = explained
  modalities, tasks = found.modalities, found.tasks
  table = explanations.lines(found)
  assert len(table) == len(found.row_id) * len(tasks)
  total = table.average + table.pattern + table[[f"contribution_{m}" for m in modalities]].sum(1)
  np.testing.assert_allclose(total, table.prediction, atol=1e-6)
  ids = [int(i) for i in found.row_id[:2]]
  explanations.patient_page(tmp_path / "page.html", table, ids, modalities)
  text = (tmp_path / "page.html").read_text()
  assert text.count("<svg") == 2 * len(tasks) and f"row {ids[0]}:" in text
  with pytest.raises(ValueError, match="1 of the 2 --row_ids"):
    explanations.patient_page(tmp_path / "no.html", table, [ids[0], -7], modalities)


def test_no_mean_is_of_few_patients(explained):
  """Of 3 patients with the first modality neither a mean nor attention or gate is told."""
  _, found, _ = explained
  modalities, tasks = found.modalities, found.tasks
  observed = found.observed.copy()
  observed[:, 0] = np.isin(found.patient_id, np.unique(found.patient_id)[:3])
  observed[:, 1] = True
  few = dataclasses.replace(found, observed=observed)
  brief = explanations.summary(few)
  for entry in brief["tasks"].values():
    for kind in ("contribution", "signed"):
      assert entry[kind][modalities[0]]["value"] is None
      assert "fewer than 10" in entry[kind][modalities[0]]["reason"]
      assert entry[kind][modalities[1]]["value"] is not None
  assert brief["attention"][modalities[0]] is brief["gate"][modalities[0]] is None
  assert "fewer than 10 of these patients" in brief["said"][-1]
  assert "nan" not in explanations.figure(brief)
  told = explanations.summary(few, min_cell=3)["tasks"][tasks[0]]
  assert told["contribution"][modalities[0]]["value"] is not None


def test_data_of_another_split_are_refused(explained, monkeypatch):
  folder, *_ = explained
  restored = predictor.restore(folder)
  monkeypatch.setattr(explain.predictor, "restore", lambda _: type(restored)(
      **{**restored.__dict__, "facts": {**restored.facts, "splits_fingerprint": "other"}}))
  with pytest.raises(ValueError, match="splits differ"):
    explain.of_run(folder)


def test_other_values_of_the_same_patients_are_refused(explained, monkeypatch):
  folder, *_ = explained
  cohort = sources.build_cohort(predictor.restore(folder).config)
  monkeypatch.setattr(sources, "build_cohort", lambda _: dataclasses.replace(
      cohort, inputs={m: -5 * x for m, x in cohort.inputs.items()}))
  before = (folder / "report.html").read_bytes()
  with pytest.raises(ValueError, match=r"\(values differ\): restore the files"):
    explain.of_run(folder)
  assert (folder / "report.html").read_bytes() == before


def test_new_patients_are_explained_by_all_members(explained, tiny_config, tmp_path):
  folder, *_ = explained
  new = sources.build_cohort(tiny_config).take(np.arange(20))
  cohort_lib.save(new, tmp_path / "new")
  found = explain.of_run(folder, 20, data_root=str(tmp_path / "new"))
  np.testing.assert_array_equal(found.row_id, new.row_id)
  base, _ = predictor.load(folder)(new.inputs, new.observed)
  np.testing.assert_allclose(found.prediction, base, atol=1e-5)
  np.testing.assert_allclose(found.nothing + found.values.sum(1), found.prediction, atol=1e-6)
