"""The parts of crl_jax.data.mimic.simulate: people, what is recorded of them, and how it is
written."""
