"""Interlock's job engine: a Django app that keeps every job as a guarded, audited database row."""

__version__ = "0.1.0"
