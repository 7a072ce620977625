"""report.html of a study of treatment policies: from its metrics alone, with what they allow one to
say and what not.

    python -c "from crl_jax.policy import report; report.rebuild('DIR')"   makes it again

metrics.json has these keys; a part whose key is absent or null is left out. Entries are
{"value", "lo", "hi"}, with "p" where tested, null with a "reason" where withheld or undefined.

    title, banner (simulated data), warnings, question, min_cell
    design         time_zero, treatment, outcome, estimand, landmark: sentences or null; rows,
                   patients, treated, annotated, test_rows; higher_is_better, randomised; attrition
                   [{step, removed, left}]; arms [{step, treated, untreated}]: whom it lost
    assumptions    [{assumption, checked}]
    overlap        diagnostics.overlap
    effects        naive, true: entry or null; levels [{level, assumption, ate}]; pattern {with,
                   without, difference}; gains {pattern, phi: diagnostics.gains}; leak: sentence
    policies       value.study
    truth          name -> {autoc, qini, pehe, bias, rmse_phi, budgets [{budget, value, regret}]}
    calibration    name -> value.calibration
    estimators     [{policy, budget, ...value.estimators}]
    beside         diagnostics.beside
    risk_benefit   value.risk_benefit
    recoverability diagnostics.recoverability
    coarsening     diagnostics.coarsening (of the truth) or .taught (of a teacher, with r2)
    decomposition  diagnostics.decomposition
    patterns       value.by_group
    groups         name -> value.by_group;  fairness: name -> value.fairness
    sensitivity    [{first, second, budget, ...sensitivity.study}]
    more           [{title, heads, lines (of text), said}]: tables that only this study has
    limits         sentences
"""

import pathlib

from crl_jax import files
from crl_jax.policy import conclusions
from crl_jax.policy.conclusions import direction, label
from crl_jax.report import page, tables
from crl_jax.report.figures import mark
from crl_jax.report.svg import (BLACK, BLUE, DASHES, GREY, ORANGE, PURPLE, SERIES, Plot, forest,
                                limits)
from crl_jax.statistics import disclosure

_WIDTH = 390   # of a phone
_SHAPES = ("dot", "ring", "diamond")


def write(path, metrics):
  """Writes the page, replaced at once when complete."""
  warnings = [tables.few_rows(text, _least(metrics)) for text in metrics.get("warnings", ())]
  alarms = [text for text in (metrics.get("banner"), *warnings) if text]
  parts = [part for make in _PARTS for part in make(metrics)]
  page.write_tables(path, metrics["title"], alarms, parts, eyebrow="Treatment policies")


def rebuild(workdir):
  """Makes report.html of a finished study again. Raises OSError where it has no metrics.json."""
  workdir = pathlib.Path(workdir)
  write(workdir / "report.html", files.read(workdir / "metrics.json"))


def _question(metrics):
  design = metrics.get("design") or {}
  facts = [("time zero", "time_zero"), ("treatment", "treatment"), ("outcome", "outcome"),
           ("of whom it speaks", "estimand"), ("landmark", "landmark"), ("rows", "rows"),
           ("patients", "patients"), ("treated rows", "treated"), ("annotated rows", "annotated"),
           ("test rows", "test_rows")]
  lines = [[name, str(design[key])] for name, key in facts if design.get(key) is not None]
  if "higher_is_better" in design:
    lines.append(["direction", direction(metrics)])
  yield _part("Question and design", ["", "of this study"], lines,
              said=[metrics["question"]] if metrics.get("question") else [])
  least = _least(metrics)
  if design.get("attrition"):
    yield _part("Who is in", ["step", "removed", "left"],
                [[step["step"], *(tables.count(step[key], least) for key in ("removed", "left"))]
                 for step in disclosure.steps(design["attrition"], least)],
                said=[f"Steps that removed fewer than {least} are told as one."])
  if design.get("arms"):
    lines, hidden = [], False
    for step in design["arms"]:
      few = min(sizes := (step["treated"], step["untreated"])) < least and any(sizes)
      hidden |= few
      lines.append([step["step"], *("-" if few else str(step[arm])
                                    for arm in ("treated", "untreated"))])
    yield _part("Whom the design loses, by what their treatment would have been",
                ["step", "treated", "untreated"], lines,
                said=[f"Withheld where an arm has fewer than {least}."] * hidden)


def _conclusions(metrics):
  yield _part("What may be concluded", said=conclusions.may_conclude(metrics))
  yield _part("What may not be concluded", said=conclusions.may_not_conclude(metrics))


def _assumptions(metrics):
  if found := metrics.get("assumptions"):
    yield _part("Assumptions, and what was checked of each", ["assumption", "checked"],
                [[line["assumption"], line["checked"]] for line in found])


def _overlap(metrics):
  if not (found := metrics.get("overlap")):
    return
  curves = {arm: ([edge for b in bins for edge in (b["lo"], b["hi"])],
                  [b["share"] / (b["hi"] - b["lo"]) for b in bins for _ in range(2)])
            for arm, bins in found["histogram"].items() if bins}
  figure = None
  if curves:
    plot = Plot((0, 1), limits([v for _, ys in curves.values() for v in ys], include=(0.0,)),
                "Propensity of each arm", "estimated P(T = 1)", "density", width=_WIDTH)
    for (arm, (xs, ys)), color, dash in zip(curves.items(), (ORANGE, BLUE), DASHES):
      plot.line(xs, ys, color, arm, dash)
    figure = plot.svg()
  yield _part("Overlap", ["", "treated", "untreated"], [
      ["rows", *(str(found["arms"][arm]) for arm in ("treated", "untreated"))],
      ["effective rows", *(tables.number(found["ess"][arm], ".0f")
                           for arm in ("treated", "untreated"))]], figure,
      [f"{found['clipped']:.1%} of the propensities are clipped.", *found["warnings"]])
  if lines := found["standardised"]:
    yield _part("Standardised differences of the confounders", ["", "before", "after weighting"], [
        [line["name"], tables.number(line["before"], "+.3f"), tables.number(line["after"], "+.3f")]
        for line in lines], forest(
            [(line["name"], [(line["before"], None, None, GREY, "ring"),
                             (line["after"], None, None, BLUE, "dot")], "") for line in lines],
            "Standardised differences", "treated minus untreated, in sds", zero=0.0, width=_WIDTH,
            names=[("before", GREY, "ring"), ("after weighting", BLUE, "dot")]))
  if lines := found["patterns"]:
    yield _part("Overlap by pattern", ["pattern", "rows", "mean propensity", "treated", "clipped",
                                       "effective treated", "untreated", "effect"], [
        [line["group"] + " (extrapolation)" * line["extrapolation"], str(line["n"]),
         tables.number(line["e"]), tables.number(line["observed"], ".1%"),
         tables.number(line["clipped"], ".1%"),
         *(tables.number((line["ess"] or {}).get(arm), ".0f") for arm in ("treated", "untreated")),
         tables.interval_text(line["ate"], "+.3f")] for line in lines], said=_reasons(lines))


def _effects(metrics):
  if not (found := metrics.get("effects")):
    return
  rows = [("arms as they are", found.get("naive")), ("truth", found.get("true"))]
  rows += [(line["level"], line["ate"]) for line in found.get("levels") or ()]
  rows += [(f"clipped at {line['eps']:g}", line)
           for line in (metrics.get("overlap") or {}).get("ate", ())]
  pattern = found.get("pattern") or {}
  rows += [(f"{name} the pattern", pattern.get(key))
           for name, key in (("with", "with"), ("without", "without"))]
  rows = [(name, entry) for name, entry in rows if entry and entry["value"] is not None]
  said = [f"{line['level']}: {line['assumption']}" for line in found.get("levels") or ()]
  if pattern.get("difference"):
    said.append("With minus without the pattern, paired: "
                f"{tables.interval_text(pattern['difference'], '+.3f')}.")
  if found.get("leak"):
    said.append(found["leak"])
  yield _part("Average effect", ["", "effect"],
              [[name, tables.interval_text(entry, "+.3f")] for name, entry in rows],
              forest([(name, [mark(entry, BLACK if name == "truth" else BLUE)], None)
                      for name, entry in rows], "Average effect", "change of the mean outcome",
                     zero=0.0, width=_WIDTH, form="+.3f") if rows else None, said)
  if found.get("gains"):
    yield _part("What else tells of treatment and outcome", [
        "adding", "to the treatment", "to the outcome of the untreated", "of the treated"], [
            [name, *(tables.interval_text(gains[key], "+.4f")
                     for key in ("treatment", "untreated", "treated"))]
            for name, gains in found["gains"].items()],
        said=["Loss without minus loss with it, out of fold: above 0 where it helps."])


def _policies(metrics):
  if not (found := metrics.get("policies")):
    return
  policies = found["policies"]
  if ranked := conclusions.ranked(metrics):
    yield _part("Ranking", ["policy", "AUTOC", "one-sided p (Holm)", "QINI"], [
        [label(name), tables.interval_text(entry["autoc"]), tables.adjusted(entry["autoc"]),
         tables.interval_text(entry["qini"])] for name, entry in ranked], forest(
             [(label(name), [mark(entry["autoc"], BLUE)], None) for name, entry in ranked],
             "AUTOC of each policy", "AUTOC", zero=0.0, width=_WIDTH))
  if curves := [(name, entry["toc"]) for name, entry in policies.items() if "toc" in entry]:
    banded = len(curves) < 4   # of more, bands would hide the curves
    drawn = ("value", "lo", "hi") if banded else ("value",)
    values = [v for _, toc in curves for key in drawn for v in toc[key]]
    plot = Plot((0, 1), limits(values, include=(0.0,)), "Targeting operator characteristic",
                "share treated", "benefit over the mean", width=_WIDTH, height=320,
                describe="Mean benefit of those treated first minus that of all")
    plot.line([0, 1], [0, 0], GREY, width=1)
    for (name, toc), color, dash in zip(curves, _cycled(SERIES), _cycled(DASHES)):
      if banded:
        plot.band(toc["share"], toc["lo"], toc["hi"], color)
      plot.line(toc["share"], toc["value"], color, label(name), dash)
    at = sorted({q for _, entry in policies.items() for b in entry["budgets"]
                 if (q := b["budget"]) is not None})
    nearest = lambda toc, q: min(range(len(toc["share"])), key=lambda i: abs(toc["share"][i] - q))
    yield _part("Whom first: benefit of those treated over that of all",
                ["policy", *(f"first {q:.0%}" for q in at)],
                [[label(name), *(tables.interval_text(
                    {key: toc[key][nearest(toc, q)] for key in ("value", "lo", "hi")}, "+.3f")
                                  for q in at)] for name, toc in curves], plot.svg(),
                ["At the nearest share of the curve; the band holds the whole curve with 95% "
                 "probability."])
  yield _part("Value", ["policy", "budget", "treated", "mean outcome", "over nobody",
                        "over random"], [
      [label(name), tables.number(at["budget"], ".0%"), tables.number(at["share"], ".1%"),
       tables.interval_text(at["value"]), *(tables.interval_text(at[key], "+.3f")
                                            for key in ("over_none", "over_random"))]
      for name, entry in policies.items() for at in entry["budgets"]],
      _value_figure(policies), [direction(metrics).capitalize() + "."])
  if pairs := found["differences"]:
    yield _part("Policies compared, paired", ["", "AUTOC", "QINI", "mean outcome at budgets"], [
        [f"{label(d['first'])} minus {label(d['second'])}",
         tables.interval_text(d["autoc"], "+.3f"), tables.interval_text(d["qini"], "+.3f"),
         "; ".join(f"{at['budget']:.0%}: {tables.interval_text(at['value'], '+.3f')}"
                   for at in d["budgets"] if at["budget"] is not None) or "-"] for d in pairs])


def _value_figure(policies):
  """Mean outcome over the budget."""
  lines = {name: [at for at in entry["budgets"] if at["budget"] is not None]
           for name, entry in policies.items()}
  lines = {name: points for name, points in lines.items() if points}
  if not lines:
    return None
  values = [at["value"][key] for points in lines.values() for at in points
            for key in ("value", "lo", "hi")]
  plot = Plot((0, 1), limits(values), "Mean outcome", "share treated", "mean outcome",
              width=_WIDTH, height=320)
  for (name, points), color, dash in zip(lines.items(), _cycled(SERIES), _cycled(DASHES)):
    xs = [at["budget"] for at in points]
    plot.spread(xs, *([at["value"][key] for at in points] for key in ("lo", "hi")), color)
    plot.line(xs, [at["value"]["value"] for at in points], color, label(name), dash)
  return plot.svg()


def _truth(metrics):
  if not (found := metrics.get("truth")):
    return
  budgets = sorted({at["budget"] for entry in found.values() for at in entry.get("budgets", ())})
  lines = []
  for name, entry in found.items():
    at = {b["budget"]: b for b in entry.get("budgets", ())}
    lines.append([label(name), *(tables.number(entry.get(key)) for key in (
        "autoc", "qini", "pehe", "rmse_phi")), tables.number(entry.get("bias"), "+.3f"),
                  *(f"{at[q]['value']:.3f} ({at[q]['regret']:.3f})" if q in at else "-"
                    for q in budgets)])
  said = ["Bias is the mean error of the effects; a risk has none. Regret is lost benefit beside "
          "the best policy of the same budget."]
  if parts := metrics.get("decomposition"):
    said.append(f"PEHE squared {parts['pehe2']:.4f}: {parts['floor']:.4f} that no model of phi "
                f"gets below, and {parts['model']:.4f} of the model's own.")
  yield _part("Beside the truth", ["policy", "AUTOC", "QINI", "PEHE", "to tau given phi", "bias",
                                   *(f"value at {q:.0%} (regret)" for q in budgets)], lines,
              said=said)


def _agreement(metrics):
  if found := metrics.get("beside"):
    names = sorted({key for pair in found for at in pair["budgets"] for key in at["first"]
                    if key not in ("n", "reason")})
    lines = []
    for pair in found:
      for at in pair["budgets"]:
        lines.append([conclusions.pair(pair), tables.number(at["budget"], ".0%"),
                      f"{tables.number(at['overlap'], '.1%')} "
                      f"({tables.number(at['expected'], '.0%')} by chance)",
                      tables.number(at["jaccard"]), tables.number(at["kappa"]),
                      *(" / ".join(tables.number(at[who][name], "+.3f")
                                   for who in ("first", "second")) for name in names)])
    yield _part("Agreement", ["", "budget", "treated by both", "Jaccard", "kappa",
                              *(f"{name}: first's alone / second's" for name in names)], lines,
                said=[f"{conclusions.pair(pair)}: Spearman {tables.number(pair['spearman'])}, "
                      f"Kendall {tables.number(pair['kendall'])}." for pair in found] + _reasons(
                          at[who] for pair in found for at in pair["budgets"]
                          for who in ("first", "second")))
  if found := metrics.get("risk_benefit"):
    groups = found["groups"]
    plot = Plot(limits([g["risk"] for g in groups]),
                limits([g["benefit"][key] for g in groups for key in ("value", "lo", "hi")],
                       include=(0.0,)), "Benefit by predicted risk", "priority of risk", "benefit",
                width=_WIDTH)
    xs = [g["risk"] for g in groups]
    plot.spread(xs, *([g["benefit"][key] for g in groups] for key in ("lo", "hi")))
    plot.points(xs, [g["benefit"]["value"] for g in groups])
    yield _part("Risk against benefit", ["group by risk", "rows", "priority of risk", "benefit"], [
        [str(i), str(g["n"]), tables.number(g["risk"]), tables.interval_text(g["benefit"], "+.3f")]
        for i, g in enumerate(groups, 1)], plot.svg(),
        [f"Correlation {tables.number(found['correlation'], '+.3f')}: where the sickest gain most "
         "it is positive, and where it is not, ranking by risk misleads."])


def _checks(metrics):
  for name, found in (metrics.get("calibration") or {}).items():
    groups = found["groups"]
    yield _part(f"Are the effects of {label(name)} as large as the scores say?",
                ["group by effect", "rows", "estimated", "scores"],
                [[str(i), str(g["n"]), tables.number(g["effect"], "+.3f"),
                  tables.interval_text(g["delta"], "+.3f")] for i, g in enumerate(groups, 1)],
                said=[f"Slope {tables.interval_text(found['slope'])}, where 1 is wanted. Squared "
                      f"error minus a constant's: {tables.interval_text(found['error'], '+.3f')}."]
                + _reasons([found["slope"]]))
  if found := metrics.get("estimators"):
    yield _part("One value, four estimators", ["policy", "budget", "doubly robust", "direct", "IPW",
                                               "self-normalised", "spread",
                                               "effective treated / untreated"], [
        [label(e["policy"]), tables.number(e["budget"], ".0%"),
         *(tables.interval_text(e[key]) for key in ("dr", "direct", "ipw", "self_normalised")),
         tables.number(e["spread"]),
         " / ".join(tables.number(e["ess"][arm], ".0f") for arm in ("treated", "untreated"))]
        for e in found],
        said=[f"{label(e['policy'])} at {tables.number(e['budget'], '.0%')}: {text}." for e in found
              for text in e["warnings"]])


def _recoverability(metrics):
  if not (found := metrics.get("recoverability")):
    return
  lines, rows, sources = [], [], []
  for line in found["annotations"]:
    for source, scores in line["sources"].items():
      lines.append([line["name"], source, str(line["n"]), tables.number(line["prevalence"], ".1%"),
                    *(tables.interval_text(scores[name]) if name in scores else "-"
                      for name in ("auroc", "auprc", "f1", "r2", "mae"))])
      sources += [source] * (source not in sources)
    style = lambda s: (SERIES[sources.index(s) % len(SERIES)],
                       _SHAPES[sources.index(s) % len(_SHAPES)])
    marks = [mark(scores["auroc"], *style(source)) for source, scores in line["sources"].items()
             if scores.get("auroc", {"value": None})["value"] is not None]
    rows += [(line["name"], marks, "")] * bool(marks)
  gate, said = found["gate"], []
  if gate["of"]:
    said.append(f"{gate['reached']} of {gate['of']} binary confounders are told with an AUROC "
                f"above {gate['auroc']:g}; {gate['share']:.0%} were asked. "
                + ("Reached." if gate["passed"] else "Not reached; nothing was stopped."))
  if found["control"]["auroc"] is not None:
    said.append("Negative control, phi of another patient: mean AUROC "
                f"{found['control']['auroc']:.3f}, where 0.5 is right.")
  if found["control"]["warning"]:
    said.append(found["control"]["warning"] + ".")
  yield _part("Recoverability: are the confounders in phi?", [
      "annotation", "from", "rows", "prevalence", "AUROC", "AUPRC", "F1", "R2", "absolute error"],
      lines, forest(rows, "AUROC of each annotation", "AUROC", zero=0.5, width=_WIDTH,
                    names=[(s, *style(s)) for s in sources]) if rows else None,
      said + _reasons(s for line in found["annotations"] for scores in line["sources"].values()
                      for s in scores.values()))


def _coarsening(metrics):
  if not (found := metrics.get("coarsening")):
    return
  by_margin, teacher = found["by_margin"], "r2" in found
  plot = Plot(limits([b["margin"] for b in by_margin], include=(0.0,)),
              limits([b[key] for b in by_margin for key in ("bias", "margin")], include=(0.0,)),
              "Coarsening against margin", "margin of the decision", "coarsening bias",
              width=_WIDTH, describe="Groups below the dashed line keep most of their decisions")
  xs = [b["margin"] for b in by_margin]
  plot.line(xs, xs, GREY, "bias = margin", "2 3", 1.2)
  plot.line(xs, [b["bias"] for b in by_margin], PURPLE).points(xs, [b["bias"] for b in by_margin],
                                                               PURPLE)
  said = [f"Decisions surely kept {found['kept']:.1%}, decided otherwise {found['flipped']:.1%}; "
          f"regret {found['regret']:.4f}, bounded by {found['bound']:.4f}. Of pairs, "
          f"{tables.number(found['pairs']['ordered'], '.1%')} are in order, "
          f"{tables.number(found['pairs']['kept'], '.1%')} surely."]
  if teacher:
    said += [f"Of the teacher's variance, phi keeps {tables.interval_text(found['r2'])}.",
             "Relative to the teacher, who inherits unconfoundedness.", *_reasons([found["r2"]])]
  yield _part("What is lost by seeing phi only" + ", beside a teacher" * teacher,
              ["group by margin", "rows", "margin", "bias", "kept", "decided otherwise"],
              [[str(i), str(b["n"]), tables.number(b["margin"]), tables.number(b["bias"]),
                tables.number(b["kept"], ".1%"), tables.number(b["flipped"], ".1%")]
               for i, b in enumerate(by_margin, 1)], plot.svg(), said)


def _groups(metrics):
  found = {"pattern": metrics["patterns"]} if metrics.get("patterns") else {}
  found |= metrics.get("groups") or {}
  for name, lines in found.items():
    told = [line for line in lines if line["delta"]["value"] is not None]
    said = []
    if gap := (metrics.get("fairness") or {}).get(name):
      said.append(
          f"Largest gap in the share treated at equal predicted benefit: {gap['value']:.3f} "
          f"({gap['most']} over {gap['fewest']}, decile {gap['decile']}); by chance "
          f"{tables.number(gap['expected'])}, p {tables.p_text(gap['p'])}."
          if gap["value"] is not None else f"No gap at equal predicted benefit: {gap['reason']}.")
    yield _part(f"By {name}", [name, "rows", "would be treated", "estimated effect",
                               "treated as observed", "effect by scores", "over random"], [
        [line["group"], str(line["n"]), tables.number(line["share"], ".1%"),
         tables.number(line["effect"], "+.3f"), tables.number(line["observed"], ".1%"),
         *(tables.interval_text(line[key], "+.3f") for key in ("delta", "over_random"))]
        for line in lines],
        forest([(line["group"], [mark(line["delta"], BLUE),
                                 (line["effect"], None, None, ORANGE, "diamond")],
                 f"n = {line['n']}") for line in told], f"Effect by {name}",
               "change of the mean outcome", zero=0.0, width=_WIDTH,
               names=[("by scores", BLUE, "dot"), ("estimated", ORANGE, "diamond")])
        if told else None, said + _reasons(lines))


def _sensitivity(metrics):
  for found in metrics.get("sensitivity") or ():
    lines = found["bounds"]
    plot = Plot(limits([b["gamma"] for b in lines]),
                limits([b[key] for b in lines for key in ("lower", "upper", "lo", "hi")],
                       include=(0.0,)),
                f"{conclusions.pair(found)}: difference of the mean outcome", "Gamma",
                "difference", width=_WIDTH)
    xs = [b["gamma"] for b in lines]
    plot.line(xs, [0.0] * len(xs), GREY, width=1)
    plot.band(xs, *([b[key] for b in lines] for key in ("lo", "hi")))
    plot.line(xs, [b["lower"] for b in lines], BLUE, "bounds")
    plot.line(xs, [b["upper"] for b in lines], BLUE)
    say = lambda gamma: "none up to 1000" if gamma is None else f"{gamma:.3f}"
    yield _part(f"Sensitivity to an unmeasured confounder: {conclusions.pair(found)}",
                ["Gamma", "bounds", "with sampling error"],
                [[f"{b['gamma']:g}", *(f"[{tables.number(b[low], '+.3f')}, "
                                       f"{tables.number(b[high], '+.3f')}]"
                                       for low, high in (("lower", "upper"), ("lo", "hi")))]
                 for b in lines], plot.svg(),
                [f"The difference is undone at Gamma {say(found['breakdown'])}; its interval holds "
                 f"0 from {say(found['breakdown_interval'])}. Gamma is the factor by which what "
                 "was not measured changes the odds of treatment."])


def _more(metrics):
  for table in metrics.get("more") or ():
    yield _part(table["title"], table["heads"], table["lines"], said=table["said"])


def _limits(metrics):
  if metrics.get("limits"):
    yield _part("Limits", said=metrics["limits"])


_PARTS = (_question, _conclusions, _assumptions, _overlap, _effects, _policies, _truth, _agreement,
          _checks, _recoverability, _coarsening, _groups, _sensitivity, _more, _limits)


def _part(title, heads=(), lines=(), figure=None, said=()):
  return dict(title=title, heads=list(heads), lines=list(lines), figure=figure, said=list(said))


def _least(metrics):
  """Rows of which a number may be told."""
  return metrics.get("min_cell", 10)


def _reasons(entries):
  """Why numbers are withheld or undefined, each once."""
  return sorted({f"No number: {entry['reason']}." for entry in entries if entry.get("reason")})


def _cycled(values):
  while True:
    yield from values
