"""One state machine, said in four places: the table, the model, the triggers, the diagram.

The triggers' judgement is compared step by step by ``tests/db/test_guard.py``; this is their text.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from django.core.management import call_command

from jobs import sql
from jobs.models import Job
from jobs.states import EDGES, JobEvent, JobState

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "state-machine.md"

#: (event, source, target), as the table has them.
STEPS = {
    (edge.event.value, source.value, edge.target.value) for edge in EDGES for source in edge.sources
}


def test_the_models_transitions_are_the_tables_edges() -> None:
    field = Job._meta.get_field("state")
    found = {(one.name, one.source, one.target) for one in field.get_all_transitions(Job)}
    assert found == STEPS


def test_the_models_states_are_the_tables_states() -> None:
    field = Job._meta.get_field("state")
    assert [value for value, _ in field.choices or ()] == list(JobState)
    assert field.protected


def test_every_event_has_a_transition_of_its_name() -> None:
    for event in JobEvent:
        named = callable(getattr(Job, event.value, None))
        assert named == (event not in {JobEvent.SUBMIT, JobEvent.HAND_EDIT}), event


def test_the_triggers_text_lists_the_tables_edges() -> None:
    text = sql.load("guard_v4")
    listed = set(re.findall(r"^\s+'([a-z_]+) ([A-Z]+) ([A-Z]+) ([a-z]+)'", text, re.MULTILINE))
    table = {
        (edge.event.value, source.value, edge.target.value, actor.value)
        for edge in EDGES
        for source in edge.sources
        for actor in edge.actors
    }
    assert listed == table


def test_the_documented_machine_is_the_present_one() -> None:
    printed = io.StringIO()
    call_command("jobs_state_diagram", stdout=printed)
    assert PAGE.read_text(encoding="utf-8") == printed.getvalue(), (
        "stale: python -m interlock jobs_state_diagram > docs/reference/state-machine.md"
    )


def test_the_diagram_draws_every_edge_once() -> None:
    text = PAGE.read_text(encoding="utf-8")
    diagram = text.partition("```mermaid")[2].partition("```")[0]
    arrows = re.findall(r"(\S+) --> (\S+): (.+)", diagram)
    drawn = [(event, start, end) for start, end, events in arrows for event in events.split(" / ")]
    assert len(drawn) == len(set(drawn))
    assert set(drawn) == STEPS | {("submit", "[*]", "PENDING")}


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.event.value)
def test_every_edge_says_what_it_means(edge: object) -> None:
    assert len(getattr(edge, "meaning", "")) > 10
