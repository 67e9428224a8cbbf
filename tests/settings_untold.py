"""The stack's settings, in a process whom RabbitMQ tells nothing about the end of its consumers."""

from __future__ import annotations

from amqp import Connection

from tests.settings_stack import *  # noqa: F403 - settings are names of a module
from tests.settings_stack import LOGGING

# Says when the workers have been counted.
LOGGING["loggers"]["jobs.rollcall"] = {"level": "DEBUG"}

Connection.negotiate_capabilities.pop("consumer_cancel_notify")
