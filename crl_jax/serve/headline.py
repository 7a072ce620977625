"""What a finished run leads with (posthoc.headline), of new patients: from the rectified
probabilities and the yardsticks that the run kept, by the pooled rules."""

import pathlib
import typing

import numpy as np

from crl_jax import files
from crl_jax.engine import kept
from crl_jax.posthoc import headline, logits


class Found(typing.NamedTuple):
  """rules: task -> headline.Rule; folds: of engine.kept.load, none where the method is the only
  part."""
  rules: dict
  folds: list


def of_run(workdir):
  """The Found of a finished run; None of one without. Raises OSError for a damaged file."""
  workdir = pathlib.Path(workdir)
  names = files.listed(workdir)
  if "headline.json" not in names:
    return None
  pooled = files.read(workdir / "headline.json")["pooled"]
  rules = {task: headline.from_dict(rule) for task, rule in pooled.items()}
  alone = all(len(rule.weights) == 1 for rule in rules.values())
  if not alone and "yardsticks.npz" not in names:
    return None   # parts of the cohort's own
  return Found(rules, [] if alone else kept.load(workdir / "yardsticks.npz"))


def predict(found, rectified, cohort, kinds):
  """(the parts beside the method, name -> (N, T); "calibrated", "chosen" and, of a stack, "pool"
  and "stack" -> (N, T)), from the method's `rectified` (N, T)."""
  beside = kept.predict(found.folds, cohort.inputs, cohort.observed, cohort.modalities,
                        kinds) if found.folds else {}
  each = [rule(np.stack([rectified[:, t], *(p[:, t] for p in beside.values())], 1))
          for t, rule in enumerate(found.rules.values())]
  names = ("pool", "stack", "calibrated", "chosen") if beside else ("calibrated", "chosen")
  return beside, {name: np.stack([one[name] for one in each], 1) for name in names}


def on_device(found, modalities, kinds):
  """(arrays, (arrays, inputs, observed, rectified (B, T)) -> "chosen" (B, T)), in JAX."""
  import jax.numpy as jnp
  rules = list(found.rules.values())
  # what is not chosen counts in nothing
  weights = [rule.weights if rule.chosen == "stack" else np.eye(len(rule.weights))[0]
             for rule in rules]
  scalings = [rule.scalings[rule.chosen] for rule in rules]
  yardsticks, beside = kept.on_device(found.folds, modalities, kinds) if found.folds else ([], None)
  arrays = {"yardsticks": yardsticks, "weights": np.stack(weights).astype(np.float32),
            "slope": np.array([s.slope for s in scalings], np.float32),
            "intercept": np.array([s.intercept for s in scalings], np.float32)}
  plain = np.array([s.kind == "none" for s in scalings])

  def chosen(arrays, inputs, observed, rectified):
    parts = [rectified]
    if beside:
      parts += beside(arrays["yardsticks"], inputs, observed).values()
    mixed = (jnp.stack(parts, -1) * arrays["weights"]).sum(-1)
    p = jnp.clip(mixed, logits.EDGE, 1 - logits.EDGE)
    line = arrays["intercept"] + arrays["slope"] * (jnp.log(p) - jnp.log1p(-p))
    return jnp.where(plain, mixed, 1 / (1 + jnp.exp(-line)))
  return arrays, chosen
