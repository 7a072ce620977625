"""How strong an unmeasured link would have to be to explain an effect away."""

import numpy as np


def robustness(effect, scale):
  """The robustness value: the share of the remaining variance that an unmeasured variable would
  have to explain, of the outcome and of the pattern alike, to bring the effect to 0.

  An unmeasured variable that explains the shares R2_y and R2_d moves the effect by at most
  scale sqrt(R2_y R2_d / (1 - R2_d)) (Cinelli and Hazlett 2020, doi 10.1111/rssb.12348, theorem 1;
  for cross-fitted partially linear models Chernozhukov et al. 2022, arXiv 2112.13398). With both
  equal to RV this is |effect|.

  Args:
    effect: coefficient of the pattern. scale: sd of the outcome's residual over that of the
      pattern's, both given what was observed and the other patterns.
  Returns:
    RV in [0, 1].
  """
  f2 = (effect / scale) ** 2 if scale > 0 else np.inf
  if not np.isfinite(f2):
    return 1.0
  # (sqrt(f^4 + 4 f^2) - f^2) / 2 without the cancellation of a large f
  return float(2 / (1 + np.sqrt(1 + 4 / f2))) if f2 > 0 else 0.0


def bias(r2_outcome, r2_pattern, scale):
  """The largest bias of an unmeasured variable that explains these shares. See `robustness`."""
  return float(scale * np.sqrt(r2_outcome * r2_pattern / (1 - r2_pattern)))


def e_value(ratio):
  """The E-value of a risk ratio: the ratio that an unmeasured variable would need with the pattern
  and with the outcome, both, to explain it away (VanderWeele and Ding 2017, doi 10.7326/M16-2607).
  1 is no link at all; inf where a risk is 0."""
  if ratio <= 0:
    return float("inf")
  ratio = max(ratio, 1 / ratio)
  return float(ratio + np.sqrt(ratio * (ratio - 1)))


def describe(effect, se, scale, reference_rate):
  """{"robustness", "robustness_interval", "e_value", "e_value_interval"} of an effect on the
  probability scale: for the estimate, and for the end of its 95% interval nearer to 0 (0 and 1
  where the interval holds 0). E-values are null where a risk would be 0 or below."""
  near = np.sign(effect) * max(abs(effect) - 1.959963984540054 * se, 0.0)
  found = {}
  for name, value in (("", effect), ("_interval", near)):
    found["robustness" + name] = robustness(value, scale)
    e = (e_value((reference_rate + value) / reference_rate)
         if reference_rate > 0 and reference_rate + value > 0 else None)
    found["e_value" + name] = e
  return found
