"""Celery's settings of this project: the app's defaults and the deployment's broker."""

from __future__ import annotations

from interlock.env import env
from jobs.celery_defaults import *  # noqa: F403 - Celery reads settings as names of a module

broker_url = env.broker_url
broker_transport_options = {"confirm_publish": True} if env.broker_is_amqp else {}
worker_hijack_root_logger = False
