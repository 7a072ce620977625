"""Corrections of predicted probabilities, by the pattern of what was recorded."""

from crl_jax.posthoc import rectifier
from crl_jax.posthoc.hierarchy import rectify

__all__ = ["rectifier", "rectify"]
