"""The one message format: a schema version and a list of job ids with their versions.

A doorbell is a hint. It carries no payload and no authority, so a lost, doubled, late or forged one
can at most make a worker look at a row.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from jobs.values import Doorbell, Foretold

SCHEMA_VERSION = 1
#: The stable Celery task name of every doorbell, whatever the handler: it must never change.
TASK_NAME = "jobs.ring"
#: A doorbell may be sent while its job is being submitted. It counts if the job was there so soon
#: after it, because every worker that hears it too early looks again for twice as long (ADR 0025).
EARLY_SECONDS = 0.05
_SOON = "soon"


def encode(
    doorbells: Iterable[Doorbell], seconds: float | None = None, *, early: bool = False
) -> dict[str, Any]:
    """The task's one argument. ``seconds``: what these jobs are expected to take, if known.
    ``early``: the database may not have them yet."""
    bells: dict[str, Any] = {
        "v": SCHEMA_VERSION,
        "jobs": [[str(bell.job_id), bell.version] for bell in doorbells],
    }
    if seconds is not None:
        bells["seconds"] = seconds
    if early:
        bells["early"] = True
    return bells


def packed(argument: Any) -> bytes:
    """A message body of Celery's protocol 2 (arguments, named arguments, and what follows)."""
    return json.dumps([[argument], {}, {}], separators=(",", ":")).encode()


def headers(message_id: str) -> dict[str, str]:
    """Those of Celery's protocol 2 that a worker needs. Each costs both sides time to pack."""
    return {"lang": "py", "task": TASK_NAME, "id": message_id}


def joined(arguments: Sequence[Any]) -> dict[str, Any]:
    """One task argument with the doorbells of all these."""
    bells = {"v": SCHEMA_VERSION, "jobs": [bell for one in arguments for bell in one["jobs"]]}
    return {**bells, "early": True} if any(map(is_early, arguments)) else bells


def is_early(argument: Any) -> bool:
    """Whether the database may not have all of the jobs of a task argument yet."""
    return isinstance(argument, dict) and argument.get("early") is True


def expected_seconds(argument: Any) -> float | None:
    """What the jobs of a task argument are expected to take, or None if it does not say."""
    ours = isinstance(argument, dict) and argument.get("v") == SCHEMA_VERSION
    seconds = argument.get("seconds") if ours else None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    sensible = isinstance(argument.get("jobs"), list) and math.isfinite(seconds) and seconds >= 0
    return float(seconds) if sensible else None


def decode(body: Any) -> list[Doorbell]:
    """The doorbells of a message body. Raises ValueError for anything that is not ours."""
    if not isinstance(body, dict) or body.get("v") != SCHEMA_VERSION:
        raise ValueError(f"not a doorbell of schema version {SCHEMA_VERSION}")
    try:
        return [Doorbell(UUID(job_id), int(version)) for job_id, version in body["jobs"]]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"malformed doorbell: {error}") from error


def foretelling(foretold: Foretold) -> bytes:
    """What wakes the relay for a new job that comes alone."""
    job_id, handler, queue, is_there = foretold
    says = [str(job_id), handler, queue, *([] if is_there else [_SOON])]
    return json.dumps(says, separators=(",", ":")).encode()


def foretold_in(said: Any) -> Foretold | None:
    """What a wake-up foretells; None for any other, and for what is not ours."""
    try:
        job_id, handler, queue, *soon = json.loads(said)
        if soon not in ([], [_SOON]):
            return None
        return Foretold(UUID(job_id), str(handler), str(queue), is_there=not soon)
    except (TypeError, ValueError, AttributeError, RecursionError):
        return None
