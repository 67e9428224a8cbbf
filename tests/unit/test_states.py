"""The transition table says what it should: who may do what, and what is final."""

from __future__ import annotations

from itertools import product

import pytest

from jobs.states import (
    ACTIVE,
    EDGES,
    FINAL,
    IMMUTABLE,
    ActorKind,
    JobEvent,
    JobState,
    is_legal,
    sources_of,
    target_of,
)

PEOPLE = {ActorKind.USER, ActorKind.ADMIN, ActorKind.SYSTEM}


def actors_of(event: JobEvent, source: JobState | None, target: JobState) -> set[ActorKind]:
    return {actor for actor in ActorKind if is_legal(source, target, event, actor)}


def test_active_and_final_split_the_states() -> None:
    assert set(JobState) == ACTIVE | FINAL
    assert not ACTIVE & FINAL
    assert {JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED} == FINAL


def test_completed_is_final_for_ever() -> None:
    assert {JobState.COMPLETED} == IMMUTABLE
    every = product(JobState, JobEvent, ActorKind)
    assert not [step for step in every if is_legal(JobState.COMPLETED, *step)]


def test_nothing_but_a_submit_gives_birth_and_only_to_pending() -> None:
    born = {
        (target, event)
        for target, event, actor in product(JobState, JobEvent, ActorKind)
        if is_legal(None, target, event, actor)
    }
    assert born == {(JobState.PENDING, JobEvent.SUBMIT)}


@pytest.mark.parametrize(
    ("event", "source", "target", "actors"),
    [
        (JobEvent.SUBMIT, None, JobState.PENDING, PEOPLE | {ActorKind.DATABASE}),
        (JobEvent.CLAIM, JobState.PENDING, JobState.RUNNING, {ActorKind.WORKER}),
        (JobEvent.SUCCEED, JobState.RUNNING, JobState.COMPLETED, {ActorKind.WORKER}),
        (JobEvent.RETRY, JobState.RUNNING, JobState.PENDING, {ActorKind.WORKER}),
        (
            JobEvent.FAIL,
            JobState.RUNNING,
            JobState.FAILED,
            {ActorKind.WORKER, ActorKind.RESCUER},
        ),
        (JobEvent.RELEASE, JobState.RUNNING, JobState.PENDING, {ActorKind.WORKER}),
        (JobEvent.RESCUE, JobState.RUNNING, JobState.PENDING, {ActorKind.RESCUER}),
        (JobEvent.REQUEST_CANCEL, JobState.RUNNING, JobState.RUNNING, PEOPLE),
        (JobEvent.CANCEL, JobState.PENDING, JobState.CANCELLED, PEOPLE),
        (
            JobEvent.CANCEL,
            JobState.RUNNING,
            JobState.CANCELLED,
            {ActorKind.WORKER, ActorKind.RESCUER},
        ),
        (JobEvent.REOPEN, JobState.FAILED, JobState.PENDING, PEOPLE),
        (JobEvent.REOPEN, JobState.CANCELLED, JobState.PENDING, PEOPLE),
        (JobEvent.RETRY, JobState.PENDING, JobState.PENDING, set()),
        (JobEvent.CLAIM, JobState.RUNNING, JobState.RUNNING, set()),
        (JobEvent.CLAIM, JobState.FAILED, JobState.RUNNING, set()),
        (JobEvent.SUCCEED, JobState.PENDING, JobState.COMPLETED, set()),
        (JobEvent.HAND_EDIT, JobState.PENDING, JobState.RUNNING, {ActorKind.DATABASE}),
        (JobEvent.HAND_EDIT, JobState.RUNNING, JobState.RUNNING, set()),
        (JobEvent.HAND_EDIT, JobState.PENDING, JobState.COMPLETED, set()),
    ],
)
def test_who_may_take_which_edge(
    event: JobEvent, source: JobState | None, target: JobState, actors: set[ActorKind]
) -> None:
    assert actors_of(event, source, target) == actors


def test_every_event_leads_to_one_state() -> None:
    targets = {event: {edge.target for edge in EDGES if edge.event is event} for event in JobEvent}
    assert all(len(found) == 1 for event, found in targets.items() if event.value != "hand_edit")
    assert {target_of(edge.event) for edge in EDGES if edge.event is JobEvent.RETRY} == {
        JobState.PENDING
    }
    with pytest.raises(KeyError):
        target_of(JobEvent.HAND_EDIT)


def test_sources_come_in_the_order_of_the_table() -> None:
    assert sources_of(JobEvent.CANCEL) == (JobState.PENDING, JobState.RUNNING)
    assert sources_of(JobEvent.SUBMIT) == ()


def test_every_state_can_be_reached_and_every_active_state_can_end() -> None:
    reached = {edge.target for edge in EDGES}
    assert reached == set(JobState)
    for state in ACTIVE:
        assert any(state in edge.sources and edge.target in FINAL for edge in EDGES)
