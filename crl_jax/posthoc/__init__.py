"""Corrections of predicted probabilities, by the pattern of what was recorded."""

from crl_jax.posthoc import rectifier

__all__ = ["rectifier"]
