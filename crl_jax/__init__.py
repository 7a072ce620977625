"""Learning from clinical records whose modalities are missing for a reason."""

__version__ = "0.2.0"
