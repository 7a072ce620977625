"""MIMIC-IV: the cohort's public names are those of cohort.py."""

_PUBLIC = ("BANNER", "MODALITIES", "RECIPE", "build")


def __getattr__(name):   # late, so that python -m of a file here loads nothing else
  if name not in _PUBLIC:
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
  from crl_jax.data.mimic import cohort
  return getattr(cohort, name)
