"""report.html and model_card.md: a run on one self-contained page, and in brief, from its files.

No script, nothing from elsewhere, no patient row.
"""

import pathlib
import re

from crl_jax import files
from crl_jax.report import figures as draw, tables, text
from crl_jax.statistics import (bootstrap, compare, disclosure, fairness, metrics as metrics_lib,
                                roles, scoring)

_BETTER = {"auroc": "higher is better", "auprc": "higher is better", "brier": "lower is better",
           "ece": "lower is better", "slope": "1 is ideal", "intercept": "0 is ideal"}


def write(path, metrics, predictions, data, rectifier, config, history, explained=None):
  """Writes the report of a run, and model_card.md beside it.

  Args:
    path: the file, replaced at once when complete.
    metrics: metrics.json, see evaluate.evaluate; predictors that are absent and "informative" are
      left out.
    predictions: the predictions table; used for curves only.
    data: data.json: the cohort's facts, any of which may be absent.
    rectifier: rectifier.json, or None.
    config: the whole config as plain dicts.
    history: records of metrics.jsonl: member, stage, epoch and scalars; may be empty.
    explained: explain.json, or None.
  """
  path = pathlib.Path(path)
  settings = config["evaluate"]
  facts = context(metrics, data, rectifier, config)
  tasks = [{**brief, **_task(brief["name"], metrics, predictions, data, rectifier, settings)}
           for brief in facts["tasks"]]
  page = facts | dict(
      tasks=tasks, training=_marked(*draw.training(history)), bootstrap=settings["bootstrap"],
      interval_rule=bootstrap.RULE, bins=settings["bins"], min_cell=settings["min_cell"],
      cohort=_cohort(data, settings["min_cell"]),
      observed=_marked(draw.observed(data, settings["min_cell"])),
      informative=_informative(metrics.get("informative"), data),
      explained=_explained(explained), facts=_facts(data, config, metrics),
      subgroups=any(task["fairness"] for task in tasks),
      audited=metrics["fairness"].get("predictor", roles.FINAL.label),
      sets_rule=metrics["conformal"]["rule"])
  _render("report.html", path, page)
  _render("model_card.md", path.with_name("model_card.md"), facts)


def rebuild(workdir):
  """Makes report.html and model_card.md of a finished run again. Raises OSError where it is not
  finished."""
  workdir = pathlib.Path(workdir)
  found = files.of_finished(workdir, "metrics.json", "predictions.parquet", "data.json",
                                "rectifier.json", "config.json")
  path = workdir / "explain.json"
  write(workdir / "report.html", *found, files.history(workdir),
        files.read(path) if path.exists() else None)


def write_tables(path, title, alarms, parts, eyebrow="Experiments"):
  """One page of tables with their figures.

  Args:
    path: the file.
    title: of the page.
    alarms: sentences in a frame at its top.
    parts: list of dicts: title, heads, lines (of text; without any, no table), figure (<svg> or
      None), said (sentences).
    eyebrow: what kind of page it is, above the title.
  """
  parts = [{**part, "figure": _one(part["figure"])} for part in parts]
  _render("tables.html", pathlib.Path(path),
          dict(title=title, alarms_=alarms, parts=parts, eyebrow=eyebrow))


def context(metrics, data, rectifier, config):
  """What the report and the model card both say of a run, as plain text and numbers."""
  members, least = config["members"], config["evaluate"]["min_cell"]
  return dict(
      title=f"{data.get('title', config['data']['cohort'])}: {config['model']['name']}",
      question=text.question(metrics["patterns"], data),
      alarms_=[t for t in (data.get("banner"), text.PAPER if config["data"]["protocol"] == "paper"
                           else None) if t],
      warnings=[tables.few_rows(w, least) for w in data.get("warnings", [])],
      notes=data.get("notes", []),
      findings=text.findings(metrics, rectifier),
      may=text.may_conclude(metrics, data, config),
      may_not=text.may_not_conclude(metrics, data, config),
      members=f"{members['folds']} folds x {members['seeds']} seeds" + (
          ", seeds averaged" if members["ensemble"] else ""),
      protocol=config["data"]["protocol"], model=config["model"]["name"],
      remembers=metrics.get("remembers", 0),
      rows=data.get("rows"), patients=data.get("patients"),
      modalities=data.get("modalities", []), versions=data.get("versions", {}),
      fingerprint=data.get("fingerprint"), operating=metrics["operating"]["rule"],
      tasks=[_brief(task, metrics) for task in metrics["patterns"]])


def _brief(task, metrics):
  """The headline and the tables of one task."""
  lead, names = roles.lead(metrics), metrics_lib.METRICS
  entry = metrics[lead.key][task]
  lines = [dict(kind="strong" if role is lead else "", label=role.label, cells=cells)
           for role, cells in tables.scores(metrics, task)]
  lines += [dict(kind="delta", label=label, cells=cells)
            for label, cells in tables.differences(metrics, task)]
  folds = {m: entry[m]["folds"] for m in names if entry[m]["folds"]["sd"] is not None}
  decided = lambda role: any(metrics[role.key][task][m]["value"] is not None for m in scoring.RATES)
  return dict(
      name=task, n=entry["n"], positives=entry["positives"],
      share=entry["positives"] / entry["n"] if entry["n"] else None, lines=lines,
      metrics=[dict(name=_name(m), hint=_BETTER.get(m, "")) for m in names],
      auroc=entry["auroc"], beside=_beside(metrics, task),
      point=dict(names=[_name(m) for m in scoring.RATES], lines=[
          [role.label, *cells] for role, cells in tables.scores(metrics, task, scoring.RATES)
          if decided(role)]),
      line=dict(names=[f"{_name(m)} ({_BETTER[m]})" for m in metrics_lib.LINE], lines=[
          [role.label, *cells] for role, cells in tables.scores(metrics, task, metrics_lib.LINE)]),
      tests=_tests(metrics, task), reasons=tables.reasons(metrics, task),
      members=folds and dict(n=max(f["n"] for f in folds.values()), text=", ".join(
          f"{_name(m)} {f['mean']:.3f} ({f['sd']:.3f})" for m, f in folds.items())))


def _beside(metrics, task):
  """Differences shown under the headline: label, text, what it is."""
  found, rival, lead = [], text.best_yardstick(metrics, task, "auroc"), roles.lead(metrics)
  if lead is not roles.FINAL:
    found.append(("the method alone", tables.interval_text(metrics["test"][task]["auroc"]),
                  "The method alone: AUROC with its rectifier, without yardsticks."))
  if rival:
    found.append((f"over {rival[0]}", tables.interval_text(rival[1], "+.3f"),
                  "Over: AUROC minus that of the yardstick with the highest."))
  if regret := metrics["differences"].get(roles.Difference(roles.BAYES, lead).key):
    found.append(("regret", tables.interval_text(regret[task]["auroc"], "+.3f"),
                  "Regret: AUROC of the best possible predictor minus the headline's."))
  change = metrics["differences"][roles.GAIN.key][task]["brier"]
  return [*found, ("rectifier, Brier", tables.interval_text(change, "+.3f"),
                   "Rectifier: its change of the Brier score; lower is better.")]


def _tests(metrics, task):
  """p-values of the comparisons: label, DeLong, corrected resampled t."""
  found = []
  for pair in [pair for pair in roles.DIFFERENCES if pair.key in metrics["tests"]]:
    entry = metrics["tests"][pair.key][task]
    both = entry["delong"], entry["resampled_t"]["auroc"]
    if any(test["p"] is not None for test in both):
      found.append((f"{pair.first.label} against {pair.second.label}",
                    *(tables.p_text(test[key]) for test in both for key in ("p", "p_holm"))))
  return found


def _task(task, metrics, predictions, data, rectifier, settings):
  """The figures and finer tables of one task."""
  entry = metrics["test"][task]
  rows = tables.pattern_rows(metrics, rectifier, data, task, settings["min_cell"], top=12)
  overall = entry["positives"] / entry["n"] if entry["n"] else None
  areas = _areas(predictions, task, [row["pattern"] for row in rows
                                     if row["positives"] is not None and not row["rare"]])
  return dict(
      forest=_one(draw.discrimination(metrics, task)), unchanged=_unchanged(predictions, task),
      curves=_marked(*draw.curves(predictions, task, settings, metrics["net_benefit"])),
      patterns=[dict(name=tables.pattern_label(row, 200), n=row["n"],
                     rate=tables.rate_text(row), before=tables.number(row.get("predicted_base")),
                     after=tables.number(row.get("predicted")),
                     auroc=areas.get(row["pattern"], "-"), gamma=tables.gamma_text(row),
                     true=tables.number(row["true"], "+.3f")) for row in rows],
      truth=any(row["true"] is not None for row in rows),
      withheld=sorted({row["reason"] for row in rows if "reason" in row}),
      threshold=tables.threshold(rectifier, task), headline=_headline(metrics, task),
      rates=_one(draw.rates(task, rows, overall)),
      gammas=_one(draw.gammas(task, [row for row in rows if row["cell"]])),
      conformal=_conformal(metrics, task, data), fairness=_fairness(metrics, task))


def _headline(metrics, task):
  """How the headline came about, None of a run without: rows of candidate, weights or members that
  chose it, held-out log-losses by calibration, slopes on test rows before and after."""
  if not (found := metrics.get("headline")):
    return None
  mine = found[task]
  slope = lambda role: (tables.interval_text(metrics[role.key][task]["slope"])
                        if role.key in metrics else "-")
  members = sum(mine["chosen"].values())
  return [[label, f"{mine['chosen'].get(name, 0)} of {members}",
           *(tables.number(loss, ".4f") for loss in mine["log_loss"][name].values()),
           ", ".join(f"{kind} {n}" for kind, n in mine["scaling"][name].items()),
           slope(before), slope(after)]
          for name, label, before, after in (
              ("method", "the method", roles.FINAL, roles.CALIBRATED),
              ("stack", f"the stack: {text.weights(mine)}", roles.POOL, roles.STACK))
          if name == "method" or len(mine["weights"]) > 1]


def _unchanged(predictions, task):
  """Whether the rectifier left every test prediction as it was."""
  test = predictions[(predictions.role == "test") & predictions[f"y_{task}"].notna()]
  return bool((test[f"p_{task}"] == test[f"p_base_{task}"]).all())


def _areas(predictions, task, patterns):
  """pattern -> its AUROC on test rows with DeLong's interval, as text; '-' where there is none. A
  row that several seeds predicted counts once, with its mean prediction."""
  table = predictions[(predictions.role == "test") & predictions[f"y_{task}"].notna()]
  rows = table.groupby("row_id").agg(
      pattern=("pattern", "first"), patient=("patient_id", "first"), y=(f"y_{task}", "first"),
      p=(f"p_{task}", "mean"))
  by_pattern = dict(list(rows.groupby("pattern")))
  return {pattern: tables.interval_text(compare.area(part.y, part.p, part.patient))
          if (part := by_pattern.get(pattern)) is not None else "-" for pattern in patterns}


def _label(row, data):
  """A pattern's name, or what it lacks where that is shorter."""
  missing = [] if row["pattern"] is None else [
      m for i, m in enumerate(data.get("modalities", ())) if not row["pattern"] >> i & 1]
  return tables.pattern_label({**row, "missing": missing}, 200)


def _conformal(metrics, task, data):
  """Coverage and size of the prediction sets, over all and per pattern."""
  mine = metrics["conformal"]["tasks"][task]
  return dict(
      level=1 - metrics["conformal"]["alpha"], suppressed=mine["suppressed"],
      coverage=tables.interval_text(mine["coverage"]), size=tables.number(mine["size"]),
      classes=[(("without", "with")[row["label"]] + " the outcome", row["n"],
                tables.interval_text(row["coverage"]),
                *(tables.number(row[key], ".1%") for key in ("single", "both", "empty")))
               for row in mine.get("classes", ())],   # a run of before has none
      reasons=sorted({row["coverage"]["reason"] for row in mine["patterns"]
                      if "reason" in row["coverage"]}),
      rows=[dict(name=_label(row, data), n=row["n"],
                 coverage=tables.interval_text(row["coverage"]),
                 calibration=tables.number(row["calibration_patients"], ".0f"),
                 without=tables.number(row.get("negatives_covered")),
                 events=tables.number(row["positives_covered"]),
                 **{key: tables.number(row[key], ".1%") for key in ("single", "both", "empty")})
            for row in mine["patterns"]])


def _fairness(metrics, task):
  """Per grouping: table, gaps and a figure; None without subgroups."""
  found, shown, sizes = metrics["fairness"], [], []
  for grouping, part in found["tasks"][task].items():
    if all(g["positives"] is None for g in part["groups"]):
      sizes.append(grouping)
      continue
    names = [m for m in ("auroc", "auprc", "tpr", "fpr", "flagged", "bias")
             if any(m in g for g in part["groups"])]
    titles = dict(tpr="true positive rate", fpr="false positive rate", bias="outcome - predicted")
    shown.append(dict(
        name=grouping, suppressed=part["suppressed"], pooled=part["pooled"],
        beside=any(g["group"].endswith(f"+ {fairness.RARE}") for g in part["groups"]),
        reasons=sorted({g["reason"] for g in part["groups"] if "reason" in g}),
        heads=[titles.get(m, _name(m)) for m in names],
        groups=[dict(name=g["group"], n=g["n"], positives=tables.number(g["positives"], "d"),
                     cells=[tables.interval_text(g[m], "+.3f" if m == "bias" else ".3f")
                            if m in g else "-" for m in names]) for g in part["groups"]],
        gaps=[dict(name=name.replace("_", " "), text=tables.interval_text(gap),
                   expected=tables.number(gap["expected"]), p=tables.p_text(gap["p"]),
                   holm=tables.p_text(gap["p_holm"]))
              for name, gap in part["gaps"].items() if gap["value"] is not None],
        figure=_one(draw.groups(task, grouping, part, "auroc", "AUROC"))))
  return dict(min_cell=found["min_cell"], note=found["note"],
              groupings=shown, sizes=sizes) if shown or sizes else None


def _informative(found, data):
  """The test of informative missingness (informative.study) as tables, or None."""
  return found and dict(
      sentence=found["sentence"], limits=found["limits"], level=found["level"],
      tasks=[_pattern_effects(name, task, data) for name, task in found["tasks"].items()],
      modalities=[(name, tables.number(m["observed"], ".1%"), _area(m["covariates"]),
                   *(tables.p_text(m[kind]["p_holm"]) for kind in ("covariates", "content")))
                  for name, m in found["modalities"].items()])


def _pattern_effects(name, task, data):
  """What the pattern says of one outcome, or the reason why that was not tested."""
  left = task["left"]
  if "reason" in left:
    return dict(name=name, reason=left["reason"])
  both = lambda row, key: f"{tables.number(row[key])} ({tables.number(row[key + '_interval'])})"
  rows = [{**row, "label": _label(row, data)} for row in task["patterns"]]
  return dict(
      name=name, reason=None, auroc=_area(task["predicts"]), p=tables.adjusted(task["predicts"]),
      left=tables.adjusted(left), spread=[tables.number(left[key]) for key in ("raw", "left")],
      share=text.share_left(left["share"]), benchmark=task["benchmark"],
      reference=_label(task["reference"], data) if task["reference"] else "",
      patterns=[(row["label"], row["n"], tables.interval_text(row["raw"], "+.3f"),
                 tables.interval_text(row["left"], "+.3f"), both(row, "robustness"),
                 both(row, "e_value")) for row in rows],
      figure=_one(draw.effects(name, rows)))


def _area(entry):
  return tables.interval_text(entry["auroc"]) if entry["auroc"] else "-"


def _explained(found):
  """The cohort's explanation as figures and tables, or None."""
  if not found:
    return None
  return dict(said=found["said"], tasks=[dict(
      name=task, figure=_one(draw.contributions(task, entry["contribution"])),
      rows=[dict(name=name, value=tables.interval_text(entry["contribution"][name], ".4f"),
                 signed=tables.interval_text(entry["signed"][name], "+.4f"),
                 **{key: tables.number(found.get(key, {}).get(name))
                    for key in ("attention", "gate")})
            for name in entry["contribution"]]) for task, entry in found["tasks"].items()])


def _cohort(data, least):
  """Tables of the cohort's facts, those that are there; small counts are not told."""
  grids, count = [], lambda n: tables.count(n, least)
  steps = disclosure.steps(data.get("attrition", []), least)
  add = lambda title, head, rows, numeric=range(1, 9): rows and grids.append(
      dict(title=title, head=head, rows=rows, numeric=numeric))
  add("Size", ("rows", "patients"), [(data["rows"], data["patients"])] if "rows" in data else [])
  add("From the files to the rows", ("step", "removed", "left"),
      [(s["step"], count(s["removed"]), count(s["left"])) for s in steps])
  add("Outcomes", ("task", "labelled rows", "positive", "share"),
      [(task, v["n"], v["positives"],
        tables.number(v["positives"] / v["n"] if v["n"] else None, ".1%"))
       for task, v in data.get("labelled", {}).items()])
  add("Modalities", ("modality", "observed in rows"),
      [(name, tables.count(n, least, data.get("rows"))) for name, n in
       data.get("observed", {}).items()])
  add("Odd records", ("table", "rule", "count"),
      [(o["table"], o["rule"], count(o["count"])) for o in data.get("odd_rows", [])], (2,))
  add("Absent tables", ("table",), [(name,) for name in data.get("absent_tables", [])])
  return grids


def _facts(data, config, metrics):
  """Hashes, versions, what the yardsticks chose and the config, as two-column tables."""
  files = [(f["file"], f["sha256"], f"{f['rows']} rows") for f in data.get("inputs", [])]
  prints = [(key, data[key]) for key in ("fingerprint", "splits_fingerprint") if key in data]
  grids = [dict(title="Data (SHA-256)", rows=prints + files, open=True),
           dict(title="Versions", rows=list(data.get("versions", {}).items()), open=True),
           dict(title="Yardsticks: settings chosen on training rows, by fold",
                rows=text.yardsticks(metrics.get("yardsticks")), open=False),
           dict(title="Config", rows=list(flat(config)), open=False)]
  return [grid for grid in grids if grid["rows"]]


def flat(tree, prefix=""):
  """Yields (dotted key, value) of a nested dict."""
  for key, value in tree.items():
    if isinstance(value, dict):
      yield from flat(value, f"{prefix}{key}.")
    else:
      yield f"{prefix}{key}", value


def _render(template, path, values):
  """Writes a template of templates/ to `path`, replaced at once when complete."""
  import jinja2
  markdown = template.endswith(".md")   # read as it is, too: no entity but for what opens a tag
  plain = lambda value: re.sub("<(?=[a-zA-Z/!?])", "&lt;", str(value)) if markdown else value
  environment = jinja2.Environment(
      loader=jinja2.PackageLoader("crl_jax.report", "templates"), autoescape=not markdown,
      undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
      finalize=lambda value: "-" if value is None else plain(value))
  with files.replaced(path) as part:
    part.write_text(environment.get_template(template).render(values), encoding="utf-8")


def _one(svg):
  """An <svg> made here, which escapes its own words, as markup; None for nothing."""
  import markupsafe
  return markupsafe.Markup(svg) if svg else None


def _marked(*svgs):
  return [_one(svg) for svg in svgs if svg]


def _name(metric):
  return tables.NAMES.get(metric, metric)
