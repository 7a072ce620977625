"""The models by name. A new model is one file here and one line in MODELS; a setting of its own is
one line more, in config.py, where every key stands with its comment."""

from crl_jax.models import crl_mmnar, filled
from crl_jax.models.record import Spec

__all__ = ["MODELS", "Spec", "build"]

MODELS = {
    "crl_mmnar": crl_mmnar.build,
    "zero_fill": filled.build_zero,
    "mean_fill": filled.build_mean,
}


def build(config, spec):
  """Builds config.model.name for `spec`. Raises ValueError that lists the names for an unknown
  one."""
  if config.model.name not in MODELS:
    raise ValueError(f"Unknown config.model.name '{config.model.name}'; there are "
                     f"{sorted(MODELS)}.")
  return MODELS[config.model.name](config, spec)
