"""A finished run used again: `load(workdir)` gives its Predictor."""

from crl_jax.serve.predictor import Predictor, load

__all__ = ["Predictor", "load"]
