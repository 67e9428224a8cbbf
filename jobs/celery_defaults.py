"""Celery's settings for doorbells: at-least-once delivery, one truth, no chatter.

``app.config_from_object("jobs.celery_defaults")`` gives a Celery app of your own all of them; then
set its broker. docs/explanation/delivery.md has the reason for each.
"""

from __future__ import annotations

import sys

from jobs import conf, topology

broker_connection_retry = True
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_channel_error_retry = True
broker_connection_timeout = conf.get().publish_timeout_seconds
broker_heartbeat = 10
broker_pool_acquire_timeout = 5

task_acks_late = True
task_reject_on_worker_lost = True
task_acks_on_failure = True
task_acks_on_timeout = True
task_retry_on_worker_lost = False
task_ignore_result = True
task_store_errors_even_if_ignored = False
task_serializer = "json"
accept_content = ["json"]
result_accept_content = ["json"]
task_send_sent_event = False

# Declared by ``jobs.topology`` alone, so that a worker's broker user needs no right to configure.
task_queues = topology.queues(no_declare=True)
task_default_queue = conf.get().default_queue
task_default_queue_type = "quorum"
task_create_missing_queue_type = "quorum"
task_create_missing_queues = False

worker_consumer = "jobs.consumer:QuietConsumer"
worker_prefetch_multiplier = 1
worker_detect_quorum_queues = True
worker_cancel_long_running_tasks_on_connection_loss = False
worker_enable_remote_control = False
worker_send_task_events = False
worker_proc_alive_timeout = 60
worker_soft_shutdown_timeout = 30
worker_enable_soft_shutdown_on_idle = True
worker_max_tasks_per_child = 100_000
worker_max_memory_per_child = 1_000_000

enable_utc = True
timezone = "UTC"

# Kept by the Django fixup under its old name: without it the database connection is closed before
# and after every task. The executor checks the kept connection instead (ADR 0013).
CELERY_DB_REUSE_MAX = sys.maxsize
