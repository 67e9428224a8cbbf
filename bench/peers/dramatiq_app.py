"""Dramatiq's actors, as its worker command imports them."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from bench import marks

# pika wants the default virtual host's name, a slash, escaped.
_url = os.environ["BROKER_URL"].removesuffix("//") + "/%2F"
broker = RabbitmqBroker(url=_url, confirm_delivery=True)
dramatiq.set_broker(broker)
ran = dramatiq.actor(queue_name="bench-dramatiq")(marks.ran)
