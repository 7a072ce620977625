"""Does coarsening to phi keep the decisions?  By how far the true effect is from the cut."""

from experiments.tables import Result


def make(studies):
  metrics = studies.metrics()
  found = metrics["coarsening"]
  rows = [dict(margin=f"{line['margin']:.2f}", n=str(line["n"]),
               **{key: line[key] for key in ("bias", "kept", "flipped")})
          for line in found.get("by_margin", ())]
  said = ["Kept: the bias of coarsening is below the margin, so the decision is that of the "
          "effects given the annotations."]
  if "regret" in found:
    said.append(f"Regret of flipped decisions {found['regret']:.3f}, at most {found['bound']:.3f}.")
  if not metrics["truth"]:
    said.append("Relative to the teacher dr_x, who inherits unconfoundedness.")
  return Result("policy_coarsening", "Coarsening against the margin", rows, None, tuple(said))
