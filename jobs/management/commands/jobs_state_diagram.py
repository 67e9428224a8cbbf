"""``jobs_state_diagram``: the state machine as a page of Markdown, from ``jobs/states.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.management.base import BaseCommand

from jobs.states import ACTIVE, EDGES, IMMUTABLE, ActorKind, Edge, JobEvent, JobState, is_legal

HEAD = """\
# State machine

Written by `python -m interlock jobs_state_diagram > docs/reference/state-machine.md` from
`jobs/states.py`, and compared with the code and the database's triggers by the tests: change the
table there, not here. What the steps mean in practice: [lifecycle](../explanation/lifecycle.md).
"""


class Command(BaseCommand):
    help = "Print the state diagram and the table of edges as Markdown, for the documentation."
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        self.stdout.write("\n".join(page()))


def page() -> Iterator[str]:
    """The lines of the page."""
    yield HEAD
    yield from diagram()
    yield "\n## Edges\n"
    yield from edges()
    yield "\n## States\n"
    yield from states()
    yield "\n## By hand\n"
    yield from by_hand()


def diagram() -> Iterator[str]:
    """A Mermaid state diagram; one arrow for all events between the same two states."""
    yield "```mermaid"
    yield "stateDiagram-v2"
    arrows: dict[tuple[str, str], list[str]] = {}
    for edge in EDGES:
        for source in edge.sources or (None,):
            arrows.setdefault((source or "[*]", edge.target), []).append(edge.event)
    for (start, end), events in arrows.items():
        yield f"    {start} --> {end}: {' / '.join(events)}"
    for state in JobState:
        if state in IMMUTABLE:
            yield f"    {state} --> [*]"
    yield "```"


def edges() -> Iterator[str]:
    """The table of edges."""
    yield "| Event | From | To | Who | Meaning |"
    yield "|---|---|---|---|---|"
    for edge in EDGES:
        yield _row(edge)


def states() -> Iterator[str]:
    """What kind of state each one is."""
    yield "| State | Kind |"
    yield "|---|---|"
    for state in JobState:
        yield f"| `{state}` | {_kind(state)} |"


def by_hand() -> Iterator[str]:
    """The steps that the database takes from a change made by hand in SQL."""
    yield "A change in plain SQL is audited as `hand_edit` by the actor `database`:\n"
    yield "| From | May go to |"
    yield "|---|---|"
    for source in JobState:
        targets = [
            f"`{target}`"
            for target in JobState
            if is_legal(source, target, JobEvent.HAND_EDIT, ActorKind.DATABASE)
        ]
        yield f"| `{source}` | {', '.join(targets) or 'nowhere'} |"


def _row(edge: Edge) -> str:
    sources = ", ".join(f"`{source}`" for source in edge.sources) or "(not born)"
    actors = ", ".join(edge.actors)
    return f"| `{edge.event}` | {sources} | `{edge.target}` | {actors} | {edge.meaning} |"


def _kind(state: JobState) -> str:
    if state in ACTIVE:
        return "active"
    return "final for ever" if state in IMMUTABLE else "final until reopened"
