"""What a table of predictions says, by NumPy alone. These modules are the room's public names."""

from crl_jax.statistics import (bootstrap, compare, conformal, disclosure, evaluate, fairness,
                                informative, metrics, scoring)

__all__ = ["bootstrap", "compare", "conformal", "disclosure", "evaluate", "fairness", "informative",
           "metrics", "scoring"]
