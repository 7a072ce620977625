"""One short file per table, figure or benchmark."""
