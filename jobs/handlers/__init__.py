"""The built-in handlers. Importing this package registers them."""

from jobs.handlers import noop, profile

__all__ = ["noop", "profile"]
