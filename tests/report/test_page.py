"""report.html: complete, self-contained, escaped, and free of patients."""

import html
import html.parser
import pathlib
import re
import sys
import types

import numpy as np
import pandas as pd
import pytest

from crl_jax import config as config_lib
from crl_jax.posthoc import headline
from crl_jax.report import figures as report_figures, page as report, tables, text as report_text
from crl_jax.statistics import conformal, evaluate, metrics as metrics_lib, roles
from tests.statistics.test_evaluate import MODALITIES, TASKS, make, rectifier

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
  def run(table=None, tasks=TASKS, protocol="honest", data=DATA, rect=None, history=(),
          more={}):
    c = config_lib.default().unlock()
    c.evaluate.bootstrap, c.data.protocol = 20, protocol
    table = make() if table is None else table
    found = {**evaluate.evaluate(table, tasks, c, 0, MODALITIES), **more}
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
  # per task: AUROCs, four curves, rates and gammas; modalities; losses, log-loss, AUROC by epoch
  assert text.count("<svg") == 2 * 7 + 1 + 3


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


def test_a_new_predictor_costs_one_line(write, monkeypatch, tmp_path):
  line = ('Role("test_tabular", "p_tabular_", "TabularNet", color="sky", dash="12 4", '
          'difference="over TabularNet"),')
  source, again = pathlib.Path(roles.__file__).read_text(), types.ModuleType(roles.__name__)
  monkeypatch.setitem(sys.modules, roles.__name__, again)
  exec(source.replace("YARDSTICKS = (\n", f"YARDSTICKS = (\n    {line}\n"), vars(again))
  for module in (evaluate, tables, report_figures, report_text, report):
    monkeypatch.setattr(module, "roles", again)
  table = make()
  same = {f"p_tabular_{task}": table[f"p_boosting_{task}"] for task in TASKS}
  text = write(table.assign(**same))
  for words in ('<th scope="row">TabularNet</th>', '<th scope="row">over TabularNet</th>',
                'with rectifier against TabularNet</'):
    assert text.count(words) >= len(TASKS), words
  assert text.count('stroke-dasharray="12 4"') == 2 * len(TASKS)   # decision curves, their legends
  assert "over TabularNet" in (tmp_path / "model_card.md").read_text()


def test_what_the_yardsticks_chose_is_told(write):
  found = {"chosen": {"logistic": {"icu": [dict(ratio=0.5, C=0.03), None]}}, "absent": ["xgboost"]}
  text = write(more=dict(yardsticks=found))
  for words in ("logistic reg.: icu", "ratio 0.5, C 0.03; nothing to fit", "XGBoost",
                "not installed here"):
    assert words in text, words
  assert "Yardsticks: settings" not in write()   # a run of before


def test_the_headline_leads_and_the_method_alone_stays(write):
  table = make()
  for task in TASKS:   # its yardsticks predict no validation rows
    for name in ("logistic", "boosting"):
      p = table.get(f"p_{name}_{task}", table[f"p_{task}"] * 0.9)
      table[f"p_{name}_{task}"] = p.fillna(table[f"p_{task}"])
  table, rules = headline.add(table, TASKS, config_lib.default().headline, 0)
  text = write(table=table, more=dict(headline=headline.summary(rules)))
  task = TASKS[0]
  found = evaluate.evaluate(table, TASKS, config_lib.override(config_lib.default(), [
      "evaluate.bootstrap=20"]), 0, MODALITIES)
  strong = re.findall(
      r'<tr class="strong"><th scope="row">([^<]+)</th>\s*<td class="value">([^<]+)', text)
  assert strong == [("headline", tables.interval_text(found["test_chosen"][t]["auroc"]))
                    for t in TASKS]
  for words in ('<th scope="row">with rectifier</th>', '<th scope="row">stack</th>',
                '<th scope="row">calibrated</th>', "the method alone", "headline&#39;s gain",
                f"{task}: this headline is", "lower log-loss on calibration patients",
                "The headline, chosen on calibration patients", "the stack: method 0."):
    assert words in text, words
  first = text[:text.index('id="results"')]   # the cards
  assert f"{found['test_chosen'][task]['auroc']['value']:.3f} <small>AUROC" in first
  assert "this headline" not in write()   # a run of before


def test_sets_are_told_by_outcome_and_pattern(write):
  text = write()
  for task in TASKS:
    assert f"Coverage by outcome of {task}" in text
  for words in ("without the outcome", "of those with the outcome and of those"):
    assert words in text, words
  found = evaluate.evaluate(make(), TASKS, config_lib.override(config_lib.default(), [
      "evaluate.bootstrap=20"]), 0, MODALITIES)["conformal"]["tasks"][TASKS[0]]
  assert [row["label"] for row in found["classes"]] == [0, 1]
  assert tables.interval_text(found["classes"][1]["coverage"]) in text


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


def test_small_groups_are_told_as_was_done(write):
  """A dash, not "None", for what is withheld, and sentences that are true."""
  table = make(per_patient=1)
  who = table.patient_id - table.patient_id.min()
  table["group_sex"] = np.select([who < 4, who < 140], ["unknown", "female"], "male")
  table["group_unit"] = np.select([who < 60, who < 120], ["A", "B"], "C")
  table.loc[who < 60, "y_icu"] = 0.0
  text = write(table)
  assert "None</td>" not in text and "unknown" not in text and "female + rarer groups" in text
  assert '1 level of fewer than 10 patients is told as "rarer groups", with the smallest' in text
  assert "Size alone: fewer than 10 patients with the outcome or without it" in text
  assert "groups with fewer than" not in text   # a large one is never hidden as if it were small


def test_paper_protocol_is_said_loudly(write):
  assert "PAPER PROTOCOL" in write(protocol="paper") and "PAPER PROTOCOL" not in write()


def test_bare_facts_and_one_class_are_survived(write):
  table = make()
  table["y_icu"], table["y_mortality"] = 0.0, np.nan
  text = write(table, data={})
  assert ("cannot be computed: only one class: 300 rows, 0 positive" in text and
          "no row with this outcome" in text)
  assert "specificity</text>" not in text and "decision curve" not in text   # no curve of one class


def test_nothing_is_hidden_in_print_or_shown_as_none(write):
  odd = dict(table="lab", rule="a long rule that is said in words, not in numbers", count=None)
  steps = [dict(step="stays", removed=0, left=9),
           dict(step="of which at night", removed=None, left=4)]
  text = write(rect=rectifier(), data={**DATA, "odd_rows": [odd], "attrition": steps})
  assert "None" not in text and "details::details-content" in text
  assert f'<td class="key">{odd["rule"]}</td><td class="n">-</td>' in text.replace("\n", "")
  assert re.search(r'of which at night</th>\s*<td class="n">-</td>', text)


def test_small_counts_of_the_cohort_are_not_told(write):
  steps = [dict(step="stays", removed=0, left=347), dict(step="age unknown", removed=4, left=343),
           dict(step="no ward", removed=0, left=343), dict(step="too young", removed=37, left=306),
           dict(step="gone", removed=6, left=300), dict(step="of which at night", removed=None,
                                                        left=8)]
  odd = [dict(table="lab", rule="twice", count=n) for n in (9, 10)]
  text = write(data={**DATA, "attrition": steps, "odd_rows": odd,
                     "observed": dict(image=297, note=4),
                     "warnings": ["no value in 7 rows", "one value in 23 observed rows"]})
  text = re.sub(r"\s+", " ", html.unescape(re.sub("<[^>]*>", " ", text)))
  assert "stays; age unknown 4 343" not in text
  assert "stays 0 347 age unknown; no ward; too young; gone 47 300 of which at night - < 10" in text
  assert "lab twice < 10 lab twice 10" in text and "image > 290 note < 10" in text
  assert "no value in < 10 rows" in text and "one value in 23 observed rows" in text
  assert "96.7%" in text and "3.3%" in text and "99.0%" not in text


def test_an_unused_rectifier_is_said_where_its_curves_lie_hidden(write):
  table = make()
  hidden = "lie hidden under those after"
  assert hidden not in write(table, rect=rectifier())
  table["p_icu"] = table["p_base_icu"]
  assert write(table, rect=rectifier()).count(hidden) == 1


def test_colour_is_never_the_only_difference():
  lines = [dict(label=f"p{i}", n=9, raw=dict(value=0.1, lo=0, hi=0.2),
                left=dict(value=0.1, lo=0, hi=0.2)) for i in range(2)]
  svg = report_figures.effects("icu", lines)
  assert svg.count("<circle") == 2 * 3 and svg.count('fill="#fff"') == 3   # a ring and a dot each
  found = [dict(member="m", stage="joint", epoch=e, **{f"train/{t}": 1.0 for t in (
      "prediction", "reconstruction", "contrastive")}) for e in (1, 2)]
  assert len(set(re.findall('stroke-dasharray="([^"]+)"', report_figures.training(found)[0]))) == 2
  curve = dict(icu=dict(threshold=[0.1, 0.2], value=[0.1, 0.1], lo=[0, 0], hi=[1, 1], all=[0, 0]))
  svg = report_figures.decision(dict.fromkeys(("test", "test_base", "test_boosting"), curve), "icu")
  assert len(set(re.findall('stroke-dasharray="([^"]+)"', svg))) == 3   # all, boosting, before


def test_same_run_same_report(write):
  assert write(rect=rectifier(), history=history()) == write(rect=rectifier(), history=history())


def test_each_pattern_has_its_auroc(write):
  from sklearn.metrics import roc_auc_score
  table = make()
  text = write(table, rect=rectifier())
  test = table[(table.role == "test") & table.y_mortality.notna()]
  large = test[test.pattern == test.pattern.mode()[0]]
  assert f"{roc_auc_score(large.y_mortality, large.p_mortality):.3f} [" in text


def test_figures_and_tables_are_accessible(write):
  text = write(rect=rectifier(), history=history())
  svgs = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
  assert all('role="img"' in svg and re.search(r'aria-label="[^"]{8,}"', svg) and "<title>" in svg
             for svg in svgs)
  for table in re.findall(r"<table.*?</table>", text, re.DOTALL):
    if "<thead" in table:
      assert "<caption" in table and 'scope="col"' in table
    assert 'scope="row"' in table
  assert 'lang="en"' in text and 'name="viewport"' in text
  assert {*re.findall(r'<a href="#(\w+)"', text)} <= {*re.findall(r'id="(\w+)"', text)}


def test_says_what_may_be_concluded(write):
  text = write(rect=rectifier())
  assert "Anything about patients: the cohort is simulated." in text   # it has a banner
  assert "one member was trained" in text and "not hospitals or years" in text
  assert "Anything about patients" not in write(data={**DATA, "banner": None})
  assert "inputs reach up to discharge" in write(protocol="paper")


def test_the_first_screen_says_what_its_numbers_are(write):
  text = write(rect=rectifier())
  cards = text[text.index('<section class="cards"'):text.index("<ul>")]
  words = lambda label: re.findall(f"<dt>{label}</dt><dd>([^<]+)</dd>", cards)
  assert len(words("over (?:boosting|logistic reg.)")) == len(words("regret")) == 2
  assert len(words("rectifier, Brier")) == 2
  for what in ("95% intervals", "Over: AUROC minus", "Regret: AUROC of", "Rectifier: its change"):
    assert cards.count(what) == 1
  table = make()
  table = table[[c for c in table if not c.startswith(("p_logistic", "p_boosting", "p_bayes"))]]
  bare = write(table, rect=rectifier())
  assert "Regret:" not in bare and "Over:" not in bare and "Rectifier: its change" in bare


def test_a_cohort_without_groups_is_said_to_have_none(write):
  none = "the cohort names no groups"
  assert none in write()
  assert none not in write(make().assign(group_sex=lambda t: np.where(t.patient_id % 2, "m", "f")))


def test_model_card_is_plain_text(write, tmp_path):
  write(data={**DATA, "banner": "MIMIC-IV's <b>shape</b>, p < 0.05"}, rect=rectifier())
  card = (tmp_path / "model_card.md").read_text(encoding="utf-8")
  assert "MIMIC-IV's &lt;b>shape&lt;/b>, p < 0.05" in card and "&#39;" not in card
  assert "rectifier's gain" in card


def test_model_card_has_the_same_facts(write, tmp_path):
  write(rect=rectifier())
  card = (tmp_path / "model_card.md").read_text(encoding="utf-8")
  page = (tmp_path / "report.html").read_text(encoding="utf-8")
  numbers = re.findall(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", card)
  assert len(numbers) > 20 and all(n in page for n in numbers)
  assert "# Model card" in card and "SIMULATED COHORT" in card and "a" * 64 in card
  tables = [line for line in card.splitlines() if line.startswith("|")]
  columns = {line.count("|") for line in tables}
  assert len(columns) == 1   # every line of a table has its cells


def test_sentences_follow_the_intervals():
  entry = lambda value, lo, hi: dict(value=value, lo=lo, hi=hi)
  def said(auroc, brier):
    none = entry(None, None, None)
    metrics = {"test": {"icu": dict(auroc=entry(0.7, 0.6, 0.8), slope=none, n=300, positives=100)},
               "test_boosting": {"icu": {"auroc": entry(0.6, 0.5, 0.7)}},
               "differences": {
                   "test-test_boosting": {"icu": dict(auroc=auroc, auprc=none, brier=none)},
                   "test-test_base": {"icu": {"brier": brier}}}}
    return " ".join(report_text.findings(metrics, None))
  assert "better than the best yardstick (boosting; +0.100" in said(
      entry(0.1, 0.01, 0.2), entry(-0.01, -0.02, -0.001))
  assert "worse than" in said(entry(-0.1, -0.2, -0.01), entry(0, 0, 0))
  text = said(entry(0.1, -0.01, 0.2), entry(0.01, 0.001, 0.02))
  assert "not distinguishable from" in text and "worsens the Brier" in text
  assert "improves the Brier" in said(entry(0, 0, 0), entry(-0.01, -0.02, -0.001))
  assert "leaves the Brier" in said(entry(0, 0, 0), entry(0, 0, 0))
  assert "does not demonstrably change" in said(entry(0, 0, 0), entry(0, -0.1, 0.1))


def test_headlines_hold_what_the_auroc_does_not_see():
  entry = lambda value, lo, hi: dict(value=value, lo=lo, hi=hi)
  def said(auprc, brier, slope):
    auroc = entry(0.0, -0.1, 0.1)
    own = dict(auroc=entry(0.7, 0.6, 0.8), slope=slope, n=300, positives=100)
    score = lambda auroc, auprc, brier: {
        name: entry(v, v, v) for name, v in dict(auroc=auroc, auprc=auprc, brier=brier).items()}
    metrics = {"test": {"icu": own}, "test_logistic": {"icu": score(0.8, 0.3, 0.10)},
               "test_boosting": {"icu": score(0.7, 0.5, 0.05)},   # the best of both, not by AUROC
               "differences": {"test-test_base": {"icu": dict(brier=entry(None, None, None))},
                               "test-test_logistic": {"icu": dict(
                   auroc=auroc, auprc=entry(0, -1, 1), brier=entry(0, -1, 1))},
                   "test-test_boosting": {"icu": dict(auroc=auroc, auprc=auprc, brier=brier)}}}
    return " ".join(report_text.findings(metrics, None))
  worse = said(entry(-0.12, -0.2, -0.04), entry(0.014, 0.008, 0.021), entry(0.3, 0.2, 0.4))
  assert "not distinguishable from the best yardstick (logistic reg." in worse
  assert "worse than the best yardstick in AUPRC (boosting; -0.120 [-0.200, -0.040])" in worse
  assert "worse than the best yardstick in Brier score (boosting; +0.014" in worse
  assert "too extreme" in worse and "calibration slope 0.300 [0.200, 0.400]" in worse
  better = said(entry(0.12, 0.04, 0.2), entry(-0.014, -0.021, -0.008), entry(1.3, 1.1, 1.5))
  assert better.count("better than") == 2 and "worse" not in better and "too timid" in better
  neither = said(entry(0.1, -0.1, 0.2), entry(0, -0.1, 0.1), entry(0.9, 0.7, 1.1))
  assert not any(words in neither for words in ("AUPRC", "Brier", "slope"))


def test_no_sentence_says_more_than_was_shown():
  metrics = {"test": {"icu": dict(n=900, positives=300)}}
  said = {cohort: " ".join(report_text.may_conclude(metrics, {}, dict(
      data=dict(cohort=cohort, protocol="honest")))) for cohort in ("eicu", "saved")}
  assert "nothing recorded at or after it is an input" in said["eicu"]
  assert "the maker of this saved cohort" in said["saved"] and "5%" in said["saved"]
  rect = dict(enabled=True, pooled=dict(tasks=dict(icu=dict(threshold=None, cells=()))))
  assert "one-sided 5%" in tables.threshold(rect, "icu")
  table = make()
  c = types.SimpleNamespace(alpha=0.1, calibrate=30, min_cell=10, by_class=True)
  rule = conformal.study(conformal.add(table, TASKS, c), TASKS, MODALITIES, c)["rule"]
  assert "about 10%" in rule and "only together" in rule and "at most" not in rule


def test_calibration_intervals_count_rows_and_patients_once():
  def width(table):
    table = table[(table.role == "test")]
    y, p = table.y_icu.to_numpy(), table.p_icu.to_numpy()
    rate = metrics_lib.calibration(y, p, 5)[1]
    lo, hi = report_figures.intervals(table, y, p, rate)
    assert ((lo <= rate) & (rate <= hi)).all()
    return float(np.mean(hi - lo))
  once = make(per_patient=1)
  copies = lambda column: pd.concat([once.assign(**{column: once[column] + i * 10**6})
                                     for i in range(5)], ignore_index=True)
  assert width(copies("seed")) == pytest.approx(width(once), rel=0.02)   # five seeds, the same rows
  assert width(copies("row_id")) == pytest.approx(width(once), rel=0.05)   # a patient's five rows
  more = copies("row_id")
  more["patient_id"] += more["row_id"]
  assert width(more) < 0.6 * width(once)


def test_a_finished_run_is_reported_again(tiny_run, tmp_path):
  import shutil
  folder = tmp_path / "run"
  shutil.copytree(tiny_run.folder, folder)
  before = (folder / "report.html").read_text()
  for name in ("report.html", "model_card.md"):
    (folder / name).unlink()
  report.rebuild(folder)
  assert (folder / "report.html").read_text() == before and (folder / "model_card.md").exists()
  (folder / "metrics.json").unlink()
  with pytest.raises(OSError, match="not a finished run"):
    report.rebuild(folder)


@pytest.fixture
def browser():
  import shutil
  found = shutil.which("chromium") or shutil.which("google-chrome")
  if not found:
    pytest.skip("no Chromium on this machine: apt install chromium")
  def run(*arguments):
    import subprocess
    return subprocess.run([found, "--headless", "--no-sandbox", "--disable-gpu", *arguments],
                          capture_output=True, text=True, timeout=120)
  return run


@pytest.mark.slow
def test_a_real_browser_has_nothing_to_complain_about(write, tmp_path, browser):
  def complaints(path):
    done = browser("--enable-logging=stderr", "--dump-dom", f"file://{path}")
    return done.stdout, [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
  write(rect=rectifier(), history=history())
  broken = tmp_path / "broken.html"
  broken.write_text("<script>console.error('x')</script>")
  assert complaints(broken)[1]   # it would be heard
  dom, found = complaints(tmp_path / "report.html")
  assert not found and dom.count("</svg>") == 2 * 7 + 1 + 3


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1100])
def test_no_text_leaves_its_box(write, tmp_path, browser, width):
  """Of a task with a long name, as those of phenotypes."""
  long = "acute and unspecified renal failure in the first 48 hours"
  table = make().rename(columns=lambda name: name.replace("icu", long))
  write(table, [long if task == "icu" else task for task in TASKS], history=history())
  frame = tmp_path / "frame.html"
  frame.write_text(f"""<iframe width={width} height=800 srcdoc="{html.escape(
      (tmp_path / "report.html").read_text())}"></iframe><script>onload = () => {{
        const page = document.querySelector("iframe").contentDocument;
        page.querySelectorAll("details").forEach(d => d.open = true);
        const out = (e, box) => e.width && (e.left < box.left - 1 || e.right > box.right + 1
                                            || e.top < box.top - 1 || e.bottom > box.bottom + 1);
        const texts = [...page.querySelectorAll("svg text")];
        const left = texts.filter(t => out(t.getBoundingClientRect(),
                                           t.closest("svg").getBoundingClientRect()));
        const cards = [...page.querySelectorAll(".card")].filter(
            e => e.scrollWidth > e.clientWidth);
        document.title = `${{texts.length > 100}} ${{left.length}} ${{cards.length}}`;
      }};</script>""")
  done = browser("--dump-dom", f"file://{frame}").stdout
  assert re.search(r"<title>(true|false) .*?</title>", done)[0] == "<title>true 0 0</title>"


@pytest.mark.slow
def test_a_phone_scrolls_tables_and_not_the_page(write, tmp_path, browser):
  """390 pixels: a frame, because a headless window is never that narrow."""
  text = write(make().assign(group_sex=lambda t: np.where(t.patient_id % 2, "m", "f")),
               rect=rectifier(), history=history())
  frame = tmp_path / "frame.html"
  frame.write_text(f"""<iframe width=390 height=800 style="border:0" srcdoc="{html.escape(text)}">
      </iframe><script>onload = () => {{
        const page = document.querySelector("iframe").contentDocument;
        const wide = [...page.querySelectorAll(".scroll")].filter(
            e => e.scrollWidth > e.clientWidth);
        document.title = `${{page.documentElement.scrollWidth}} ${{wide.length}}`;
      }};</script>""")
  done = browser("--dump-dom", f"file://{frame}").stdout
  width, wide = (int(v) for v in re.search(r"<title>(\d+) (\d+)</title>", done).groups())
  assert width <= 390 and wide > 2
