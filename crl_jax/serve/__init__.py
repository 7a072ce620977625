"""A finished run used again: load(workdir) is it as one pure function of new patients' inputs."""

from crl_jax.serve.predictor import load

__all__ = ["load"]
