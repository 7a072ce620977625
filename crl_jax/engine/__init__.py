"""Training: pipeline.py is its public face, nothing here is."""
