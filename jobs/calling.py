"""Calls one handler: its arguments from the payload, and its value as JSON.

All of it is the handler's own code or runs it, so all of it runs where a handler may be
interrupted: validators of its types, generators that it returns, ``async`` clean-up.
"""

from __future__ import annotations

import asyncio
from typing import Any

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, sync_to_async

from jobs import conf, connections, jsontext, registry
from jobs.errors import PermanentFailure
from jobs.registry import Handler
from jobs.running import Run


def result_of(spec: Handler, run: Run) -> Any:
    """Call the handler and return its value as JSON data; raises whatever it raises.

    Raises PermanentFailure for a value that cannot be stored or is too large.
    """
    arguments = spec.arguments(run.claimed.payload, run)
    return _storable(spec, _invoked(spec, arguments, run))


def _invoked(spec: Handler, arguments: dict[str, Any], run: Run) -> Any:
    if not spec.is_async:
        return spec.function(**arguments)

    async def bound() -> Any:
        task = asyncio.current_task()
        if task is not None:
            run.bind(task)
        # A thread of its own for ``sync_to_async``, made when it is first used. The one that is
        # shared otherwise keeps its connection from job to job, and whatever was left open on it.
        async with ThreadSensitiveContext() as own:
            try:
                return await spec.function(**arguments)
            finally:
                if own in SyncToAsync.context_to_thread_executor:
                    await sync_to_async(connections.give_up_all)()

    try:
        return asyncio.run(bound())
    except asyncio.CancelledError:
        if run.signal is None:
            raise
        raise run.signal from None


def _storable(spec: Handler, value: Any) -> Any:
    if value is None:
        return None
    limit = spec.result_limit_bytes or conf.get().result_limit_bytes
    try:
        result = registry.jsonable(value)
        size = len(jsontext.dumps(result))
    except (ValueError, RecursionError) as error:
        raise PermanentFailure(f"the result cannot be stored: {error}") from error
    if size > limit:
        raise PermanentFailure(
            f"the result has {size} bytes of JSON; at most {limit} are allowed:"
            " keep it as an artifact"
        )
    return result
