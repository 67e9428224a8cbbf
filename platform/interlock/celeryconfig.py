"""Celery's settings: at-least-once delivery of doorbells, one truth, no chatter.

docs/explanation/delivery.md gives the reason for each; ``jobs.topology`` declares the queues.
"""

from __future__ import annotations

from interlock.env import env
from jobs import conf, topology

broker_url = env.broker_url
broker_transport_options = {"confirm_publish": True} if env.broker_is_amqp else {}
broker_connection_retry = True
broker_connection_retry_on_startup = True
broker_connection_max_retries = None
broker_channel_error_retry = True
broker_connection_timeout = conf.get().publish_timeout_seconds
broker_heartbeat = 20
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

task_queues = topology.queues(no_declare=env.broker_is_amqp)
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
worker_hijack_root_logger = False

enable_utc = True
timezone = "UTC"
