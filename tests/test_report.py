"""report.html: complete, self-contained, escaped, and free of patients."""

import html.parser
import re

import numpy as np
import pytest

from crl_jax import config as config_lib, evaluate, report
from test_evaluate import MODALITIES, TASKS, make, rectifier

HOSTILE = "<script>alert('x')</script><img src=\"http://evil\"> $\\frac{$"
DATA = dict(banner="SIMULATED COHORT", rows=300, patients=150, modalities=list(MODALITIES),
            warnings=["17 odd rows"], attrition=[dict(step="too young", removed=12, left=300)],
            odd_rows=[dict(table="lab", rule="kept", count=3)],
            inputs=[dict(table="lab", file="lab.csv.gz", sha256="f" * 64, bytes=1, rows=99)],
            fingerprint="a" * 64, versions=dict(jax="0.1"), notes=["Rows: at 24 h."],
            labelled=dict(icu=dict(n=300, positives=100)), observed=dict(image=100),
            absent_tables=["intakeOutput"], truth=dict(gamma=dict(icu={"1": 0.044})))


@pytest.fixture
def write(tmp_path):
  def run(table=None, tasks=TASKS, protocol="honest", data=DATA, rect=None, history=()):
    c = config_lib.default().unlock()
    c.evaluate.bootstrap, c.data.protocol = 20, protocol
    table = make() if table is None else table
    found = evaluate.evaluate(table, tasks, c, 0, MODALITIES)
    report.write(tmp_path / "report.html", found, table, data, rect, config_lib.as_dict(c),
                 list(history))
    return (tmp_path / "report.html").read_text(encoding="utf-8")
  return run


def history():
  return [dict(member=f"fold{k}_seed0", stage="joint", epoch=e, seconds=1.0,
               **{"train/prediction": 1 / e, "val/loss": None if e == 2 else 0.5,
                  "val/auroc/icu": 0.7}) for k in range(2) for e in range(1, 6)]


def test_complete(write):
  text = write(rect=rectifier(), history=history())
  for words in (*TASKS, "SIMULATED COHORT", "17 odd rows", "too young", "f" * 64,
                "a" * 64, "Bayes-optimal", "boosting", "+0.030 [+0.010, +0.050]", "+0.044",
                "evaluate.bootstrap", "intakeOutput", "Rows: at 24 h.", "jax"):
    assert words in text, words
  assert text.count("<svg") == 5   # curves and gammas per task, training


def test_is_self_contained_and_well_formed(write):
  text = write(rect=rectifier(), history=history())
  assert not re.search(r"https?:|<script|<link|<img|<iframe|@import|src=|javascript:| on\w+=", text,
                       re.IGNORECASE)
  ids = re.findall(r'\bid="([^"]+)"', text)
  assert len(ids) == len(set(ids))
  assert {*re.findall(r'href="#([^"]+)"', text), *re.findall(r"url\(#([^)]+)\)", text)} <= set(ids)
  open_tags = []
  class Parser(html.parser.HTMLParser):
    def handle_starttag(self, tag, attributes):
      open_tags.extend([tag] if tag not in ("meta", "br") else [])
    def handle_endtag(self, tag):
      assert open_tags.pop() == tag
  Parser().feed(text)
  assert not open_tags


def test_hostile_words_are_escaped(write):
  table = make().rename(columns=lambda name: name.replace("icu", HOSTILE))
  data = {**DATA, "banner": HOSTILE, "warnings": [HOSTILE], "notes": [HOSTILE],
          "attrition": [dict(step=HOSTILE, removed=1, left=1)]}
  rect = rectifier()
  rect["pooled"]["tasks"][HOSTILE] = rect["pooled"]["tasks"]["icu"]
  records = [{**r, f"val/auroc/{HOSTILE}": 0.5} for r in history()]
  text = write(table, tasks=(HOSTILE, "mortality"), data=data, rect=rect, history=records)
  assert "<script" not in text and "<img" not in text and "&lt;script&gt;" in text


def test_holds_no_patient(write):
  table = make()
  text = write(table, rect=rectifier())
  assert not {str(v) for name in ("row_id", "patient_id") for v in table[name]} & set(
      re.findall(r"\d+", text))
  assert len(re.search(r"<svg.*?</svg>", text, re.DOTALL)[0]) < 60_000
  large = write(make(3000))   # curves do not grow with the patients they are made of
  size = lambda page: len(re.search(r"<svg.*?</svg>", page, re.DOTALL)[0])
  assert size(large) < 1.2 * size(text)


def test_paper_protocol_is_said_loudly(write):
  assert "PAPER PROTOCOL" in write(protocol="paper") and "PAPER PROTOCOL" not in write()


def test_bare_facts_and_one_class_are_survived(write):
  table = make()
  table["y_icu"], table["y_mortality"] = 0.0, np.nan
  text = write(table, data={})
  assert ("cannot be computed: only one class: 300 rows, 0 positive" in text and
          "no row with this outcome" in text)
  assert "<svg" not in text


def test_same_run_same_report(write):
  assert write(rect=rectifier(), history=history()) == write(rect=rectifier(), history=history())
