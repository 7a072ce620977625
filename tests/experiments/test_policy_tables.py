"""The tables of treatment policies: what they say, whose studies they share, and that a killed
command ends with the bytes of one that was not. Linear learners, so that little is compiled."""

import numpy as np
import pytest

from crl_jax import config as config_lib
from experiments import paper, policy
from experiments.tables import policy_noise

PARTS = ("methods", "budget", "inputs", "pattern", "noise", "annotation")


def studies(folder, **changes):
  c = config_lib.default().unlock()
  c.data.simulate.rows = 1200
  c.policy.update(dict(cohort="simsum", nuisances="linear", effects="linear", folds=3))
  c.policy.net.update(dict(width=8, epochs=2))
  c.policy.update(changes)
  return policy.Studies(c.lock(), folder, 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  folder = tmp_path_factory.mktemp("policies")
  return folder, {r.name: r for r in policy.make(studies(folder), PARTS)}


def column(result, name):
  return np.array([row[name] for row in result.rows], float)


def test_the_tables_say_what_the_truth_says(made):
  folder, results = made
  methods = {row["policy"]: row for row in results["policy_methods"].rows}
  assert methods["oracle"]["AUTOC"] > methods["dr_x"]["AUTOC"] > methods["aace"]["AUTOC"] > 0
  assert methods["dr_x"]["PEHE"] < methods["aace"]["PEHE"] and methods["risk"]["PEHE"] is None
  # the oracle loses nothing to itself
  budgets = results["policy_budget"].rows
  assert all(row["regret"] == 0 for row in budgets if row["policy"] == "oracle")
  inputs = {row["phi"]: row for row in results["policy_inputs"].rows}
  assert inputs["all of phi"] == {**inputs["all of phi"], "PEHE": methods["aace"]["PEHE"]}
  hidden = studies(folder).metrics(("policy.hide=('note',)",))["truth"]["aace"]
  assert inputs["tabular alone"]["AUTOC"] == hidden["autoc"] != inputs["note alone"]["AUTOC"]
  # a confounder that is written down wrongly is in part unmeasured
  off = abs(column(results["policy_noise"], "ATE") - column(results["policy_noise"], "true"))
  assert off[0] < 0.15 and (off[1:] > 0.2).all() and (np.diff(off) > 0).all()
  # so few annotations that their study is refused cost that line and nothing else
  shares = results["policy_annotation"]
  assert [row["annotated"] for row in shares.rows] == ["100%", "50%", "30%"]
  assert column(shares, "PEHE").argmax() == 2 and shares.said[1].startswith("10%: 13 columns")
  page = (folder / "policy.html").read_text()
  assert "SIMULATED" in page and all(f"{folder}/tables/{n}.csv" for n in results)


def test_noise_flips_so_many_and_leaves_gaps():
  p = policy.cohorts.build(studies(None).config)
  p.annotations[:5, 0] = np.nan
  _, change = policy_noise.flipped(0.8)
  noisy = change(p, studies(None).config).annotations
  known = ~np.isnan(p.annotations)
  assert np.isnan(noisy[~known]).all() and 0.18 < (noisy != p.annotations)[known].mean() < 0.22


def test_the_worlds_of_missing_notes_are_told_apart(made):
  rows = {(row["rows"], row["nuisances"]): row for row in made[1]["policy_pattern"].rows}
  assert {world for world, _ in rows} == {"simsum", "world A", "world B", "world C"}
  assert rows["simsum", "nuisances on the annotations"]["interval"] == "covers"
  alone = lambda world: rows[world, "nuisances on the annotations"]
  assert alone("world A")["off"] < -0.03   # by -.10 in the limit: the pattern is a confounder


def test_a_killed_command_goes_on_to_the_same_bytes(made, tmp_path, monkeypatch):
  done, run = [], policy.study_lib.run
  def killed(c, p):
    done.append(c)
    if len(done) in (2, 4):
      raise KeyboardInterrupt
    return run(c, p)
  monkeypatch.setattr(policy.study_lib, "run", killed)
  parts = ("methods", "noise")
  for _ in range(2):
    with pytest.raises(KeyboardInterrupt):
      policy.make(studies(tmp_path), parts)
  policy.make(studies(tmp_path), parts)
  assert len(done) == 6   # four studies, of which two were cut off once
  for part in parts:
    for kind in ("csv", "md"):
      name = f"tables/policy_{part}.{kind}"
      assert (tmp_path / name).read_bytes() == (made[0] / name).read_bytes()
  policy.make(studies(tmp_path), parts)
  assert len(done) == 6


def test_a_part_that_the_cohort_cannot_tell_says_so(made):
  folder, _ = made
  results = policy.make(studies(folder), ("align", "folds"))
  assert [r.rows for r in results] == [[], []]
  assert "policy_semisynthetic" in results[0].said[0] and "net" in results[1].said[0]


def test_other_settings_are_other_studies(made, monkeypatch):
  asked = []
  def run(c, p):
    asked.append((c.policy.trim, c.seed))
    raise ZeroDivisionError
  monkeypatch.setattr(policy.study_lib, "run", run)
  for other in (studies(made[0], trim=0.1), studies(made[0])):
    other.metrics() if not other.config.policy.trim else pytest.raises(ZeroDivisionError,
                                                                       other.metrics)
  with pytest.raises(ZeroDivisionError):
    studies(made[0]).metrics(seed=1)
  assert asked == [(0.1, 0), (0.0, 1)]


@pytest.mark.parametrize("command", [paper, policy])
def test_a_table_that_there_is_not_is_named(command, monkeypatch, capsys):
  monkeypatch.setattr("sys.argv", ["", "--config=x.py", "--workdir=d", "--tables=methods,tabel1"])
  with pytest.raises(SystemExit):
    command.main()
  assert "there is no " in (told := capsys.readouterr().err) and command.PARTS[-1] in told
