"""Can the annotations be told from phi, and from which part of it?"""

from experiments.tables import Result


def make(studies):
  found, rows = studies.metrics()["recoverability"], []
  for entry in found["annotations"]:
    row = dict(annotation=entry["name"], n=str(entry["n"]), kind=entry["kind"])
    for source, scores in entry.get("sources", {}).items():
      score = scores.get("auroc") or scores.get("r2") or {}
      row |= {source: score.get("value"), f"{source}_lo": score.get("lo"),
              f"{source}_hi": score.get("hi")}
    rows.append(row)
  gate = found["gate"]
  names = list(dict.fromkeys(name for row in rows for name in row))
  return Result("policy_recoverability", "Annotations told from phi", [
      {name: row.get(name) for name in names} for row in rows], None,
                (f"AUROC of binary annotations, R2 of others. {gate['reached']} of {gate['of']} "
                 f"reach an AUROC of {gate['auroc']}.",))
