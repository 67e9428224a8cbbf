"""The HTTP API: DRF, JSON, versioned by its prefix. State changes only through ``lifecycle``."""
