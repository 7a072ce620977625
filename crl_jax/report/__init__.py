"""Pages and text from metrics alone: `python -m crl_jax.report` is its public face."""
