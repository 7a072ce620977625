"""Which part of phi the effects are in: each modality alone, all of them, and the annotations."""

from crl_jax.policy import cohorts
from experiments import policy
from experiments.tables import Result


def make(studies):
  modalities = cohorts.build(studies.config).cohort.modalities
  seen = {"all of phi": ()}
  if len(modalities) > 1:
    seen |= {f"{m} alone": tuple(o for o in modalities if o != m) for m in modalities}
  known = studies.metrics()["truth"]
  estimated = lambda name: lambda m: m["policies"]["policies"][name].get("autoc", {}).get("value")
  readers = lambda name: ({"PEHE": policy.truth(name, "pehe"), "AUTOC": policy.truth(name, "autoc")}
                          if known else {"estimated AUTOC": estimated(name)})
  line = lambda name, label, settings: dict(phi=label, **{
      head: studies.mean(read, settings) for head, read in readers(name).items()})
  rows = [line("aace", label, (f"policy.hide={hide!r}",) if hide else ())
          for label, hide in seen.items()]
  rows.append(line("dr_x", "the annotations (dr_x)", ()))
  return Result("policy_inputs", "Effects from parts of phi", rows, None,
                ("The annotations are no input of a policy: what they reach is the bound.",))
