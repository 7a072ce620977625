"""The parts of crl_jax.data.simulate_mimic: people, what is recorded of them, and how it is
written."""
