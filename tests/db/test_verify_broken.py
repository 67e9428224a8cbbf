"""Each rule of the tables is broken once, and found under its own invariant, by its own job.

The damage is done with the triggers off, and the hash chain is made right again where the chain is
not what the case is about: the rule must find by itself what a careful forger left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from jobs.models import Job
from jobs.verification import verify
from jobs.verification.rules import RULES
from tests import histories
from tests.histories import damage, reseal

pytestmark = pytest.mark.django_db(transaction=True)

AUDIT = "UPDATE jobs_auditentry SET {} WHERE job_id = '{{id}}' AND version = {}"
ROW = "UPDATE jobs_job SET {} WHERE id = '{{id}}'"
BELL = "UPDATE jobs_outboxentry SET {} WHERE job_id = '{{id}}'"
COPY = (
    "INSERT INTO jobs_auditentry SELECT job_id, {version}, {source}, {target}, {event}, actor_kind,"
    " actor_id, reason, attempt, token, at, txid, hash, lease_until FROM jobs_auditentry"
    " WHERE job_id = '{{id}}' AND version = {of}"
)
SHARED = "UPDATE jobs_outboxentry SET others = {} WHERE others IS NOT NULL"
SHARED_LATE = SHARED.replace("others = {}", "created_at = now() + interval '1 s'")
#: The row follows a forged entry: version 4 is the latest then.
FOLLOW = "UPDATE jobs_job SET version = 4, state = '{}', {} WHERE id = '{{id}}'"


def audit(change: str, version: int) -> str:
    return AUDIT.format(change, version)


def copied(of: int, source: str, target: str, event: str) -> str:
    return COPY.format(
        of=of, version=4, source=f"'{source}'", target=f"'{target}'", event=f"'{event}'"
    )


@dataclass(frozen=True)
class Case:
    """Damage to one job. ``version`` is the one that the example names, None if it names none."""

    rule: str
    make: Callable[[], Job]
    statements: tuple[str, ...]
    version: int | None
    reseal: bool = True
    also: tuple[str, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return self.rule


def lapsed_long_ago() -> Job:
    job = histories.running()
    damage(f"UPDATE jobs_job SET lease_until = now() - interval '1 h' WHERE id = '{job.id}'")
    return job


def rescued() -> Job:
    job = histories.rescued(histories.running())
    histories.publish()
    return job


def cancelled() -> Job:
    job = histories.cancelled_while_running(by_rescuer=False)
    histories.publish()
    return job


def keyed() -> Job:
    job = histories.completed(idempotency_key="k")
    histories.completed(idempotency_key="l")
    return job


def one_of_two() -> Job:
    histories.completed()
    return histories.completed()


AT_REST = (("at_rest", True),)
UNKNOWN = "'01890000-0000-7000-8000-000000000000'"
FIRST_TOKEN = (
    "token = (SELECT token FROM jobs_auditentry WHERE version = 2 ORDER BY job_id LIMIT 1)"
)
REOPENED = "UPDATE jobs_job SET finished_at = NULL, due_at = now() + interval '1 h'"

CASES = [
    Case("I1.gone", histories.waiting, ("DELETE FROM jobs_job WHERE id = '{id}'",), 1),
    Case("I1.gone", histories.running, ("DELETE FROM jobs_job WHERE id = '{id}'",), 2),
    Case("I2.open", histories.waiting, (), 1, options=AT_REST),
    Case("I2.open", histories.running, (), 2, options=AT_REST),
    Case("I3.gap", histories.completed, (audit("version = 5", 3), ROW.format("version = 5")), 5),
    Case(
        "I3.chain",
        cancelled,
        (audit("from_state = 'PENDING', actor_kind = 'user', actor_id = ''", 4),),
        4,
    ),
    Case("I3.hash", histories.failed, (audit("reason = 'all went well'", 3),), 3, reseal=False),
    Case("I3.hash", histories.completed, (audit("actor_id = 'x'", 1),), 1, reseal=False),
    Case("I3.hash", histories.completed, (audit("at = at - interval '1 us'", 1),), 1, reseal=False),
    Case("I3.hash", histories.completed, (audit("txid = txid + 1", 2),), 2, reseal=False),
    Case("I3.row", histories.completed, (ROW.format("version = 4"),), 4),
    Case("I3.row", histories.completed, (ROW.format("attempt = 2"),), 3),
    Case(
        "I3.row",
        histories.completed,
        (ROW.format("state = 'FAILED', result = NULL, reason = 'no'"),),
        3,
    ),
    # The latest entry is gone: what is left is a history without a fault.
    Case(
        "I3.row",
        histories.completed,
        ("DELETE FROM jobs_auditentry WHERE job_id = '{id}' AND version = 3",),
        3,
        reseal=False,
    ),
    Case("I3.seal", histories.completed, (ROW.format("audit_hash = 'x'"),), 3, reseal=False),
    Case("I3.seal", histories.completed, (ROW.format("changed_at = now()"),), 3, reseal=False),
    Case(
        "I3.unrecorded",
        histories.completed,
        ("DELETE FROM jobs_auditentry WHERE job_id = '{id}'", "DELETE FROM jobs_outboxentry"),
        3,
        reseal=False,
    ),
    Case("I4.edge", histories.completed, (audit("actor_kind = 'system'", 3),), 3),
    Case("I4.edge", histories.failed, (audit("event = 'release'", 3),), 3, also=("I11",)),
    Case(
        "I5.twice",
        histories.completed,
        (copied(3, "RUNNING", "COMPLETED", "succeed"), FOLLOW.format("COMPLETED", "attempt = 1")),
        4,
        also=("I3", "I6"),
    ),
    Case(
        "I5.left",
        histories.failed,
        (
            copied(1, "FAILED", "CANCELLED", "cancel"),
            "UPDATE jobs_auditentry SET attempt = 1 WHERE version = 4",
            FOLLOW.format("CANCELLED", "failed_attempts = failed_attempts"),
        ),
        4,
        also=("I4", "I11", "I12"),
    ),
    Case(
        "I6.holders",
        histories.retried,
        (audit("from_state = 'PENDING', actor_kind = 'user', actor_id = ''", 3),),
        4,
        also=("I3", "I4", "I11"),
    ),
    Case("I6.tokenless", histories.completed, (audit("token = NULL", 2),), 2, also=("I7",)),
    Case(
        "I6.token",
        one_of_two,
        (
            "UPDATE jobs_auditentry SET " + FIRST_TOKEN + " WHERE job_id = '{id}' AND version > 1",
        ),
        None,
    ),
    Case("I6.token", histories.retried, (
        "UPDATE jobs_auditentry SET " + FIRST_TOKEN + " WHERE job_id = '{id}' AND version > 1",
    ), None),
    Case("I6.early", rescued, (audit("lease_until = at + interval '1 ms'", 3),), 3),
    Case("I6.leaseless", histories.completed, (audit("lease_until = NULL", 3),), 3),
    Case("I6.row", histories.running, (ROW.format("lease_token = gen_random_uuid()"),), 2),
    Case("I7.token", histories.completed, (audit("token = gen_random_uuid()", 3),), 3),
    Case("I7.token", cancelled, (audit("token = gen_random_uuid()", 3),), 3),
    Case("I7.holder", histories.completed, (audit("actor_id = 'worker:2'", 3),), 3),
    Case(
        "I8.artifact",
        histories.with_artifact,
        ("UPDATE jobs_jobartifact SET token = gen_random_uuid()",),
        None,
    ),
    Case(
        "I8.artifact",
        histories.with_artifact,
        ("UPDATE jobs_jobartifact SET job_id = " + UNKNOWN,),
        None,
    ),
    Case("I9.silent", histories.waiting, ("DELETE FROM jobs_outboxentry",), 1),
    Case("I9.stray", histories.completed, (BELL.format("job_version = 2"),), 2),
    Case("I9.stray", histories.completed, (BELL.format("job_id = " + UNKNOWN),), 1),
    Case("I9.silent", histories.sharing, (SHARED.format("array_remove(others, '{id}')"),), 1),
    Case("I9.copies", histories.sharing, (SHARED.format("others || '{id}'::uuid"),), 1),
    Case("I9.stray", histories.sharing, (SHARED.format("others || " + UNKNOWN + "::uuid"),), 1),
    Case(
        "I9.late",
        histories.sharing,
        (SHARED_LATE,),
        1,
    ),
    Case("I9.late", histories.waiting, (BELL.format("created_at = now() + interval '1 s'"),), 1),
    Case("I9.unrung", histories.completed, (BELL.format("published_at = NULL"),), 1,
         options=AT_REST),
    Case(
        "I9.stuck",
        histories.completed,
        (BELL.format("published_at = NULL, due_at = now() - interval '1 h',"
                     " created_at = now() - interval '1 h'"),),
        1,
        options=(("max_unpublished_seconds", 600.0),),
    ),
    Case("I11.attempt", histories.completed, (audit("attempt = 2", 2),), 2),
    Case("I11.charges", histories.completed, (ROW.format("failed_attempts = 1"),), 3),
    Case("I11.charges", rescued, (ROW.format("lost_attempts = 0"),), 3),
    Case("I11.budget", histories.failed, (
        ROW.format("failed_attempts = 2"),
    ), 3),
    Case("I11.spent", histories.failed, (ROW.format("reason = ''"),), 3),
    Case("I12.time", histories.completed, (audit("at = at + interval '1 h'", 2),), 3),
    Case("I12.late", rescued, (audit("lease_until = at - interval '61 s'", 3),), 3),
    Case("I12.lapsed", lapsed_long_ago, (), 2),
    Case("I16.stale", keyed, ("DELETE FROM jobs_job WHERE id = '{id}'",), None),
    Case("I16.stale", keyed, (ROW.format("idempotency_key = 'm'"),), None),
    Case(
        "I16.stale",
        keyed,
        ("UPDATE jobs_idempotencykey SET answered_by = " + UNKNOWN + " WHERE id = '{id}'",),
        None,
    ),
    Case("I13.stranger", cancelled, (audit("actor_kind = 'user', actor_id = '99'", 3),), 3),
]  # fmt: skip


@pytest.fixture(autouse=True)
def _begin(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(max_lost_attempts=2)
    histories.forget_statistics()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_damage_is_found_where_it_is(case: Case) -> None:
    options: dict[str, Any] = dict(case.options)
    histories.completed()
    histories.publish()
    assert verify(**options).ok
    job = case.make()
    if not options:
        assert case.rule == "I12.lapsed" or verify().ok
    if case.rule == "I2.open":
        histories.publish()
    damage(*(statement.format(id=job.id) for statement in case.statements))
    if case.reseal:
        reseal(job)
    broken = {finding.id: finding for finding in verify(**options).broken}
    invariant = case.rule.partition(".")[0]
    assert set(broken) == {invariant, *case.also}
    named = f"{job.id}" if case.version is None else f"{job.id} v{case.version}"
    if any(UNKNOWN in s for s in case.statements):
        named = UNKNOWN.strip("'")
    lines = [line for line in broken[invariant].examples if line.endswith(RULES[case.rule])]
    assert [line for line in lines if line.startswith(f"{named} ")], broken[invariant]


def test_a_stray_that_shares_a_row_is_found_among_those_of_its_window_once() -> None:
    job = histories.sharing()
    stray = f"{str(job.id)[:-1]}{'0' if str(job.id)[-1] != '0' else '1'}"
    damage(SHARED.format(f"others || '{stray}'::uuid"))
    [finding] = verify().broken
    assert (finding.id, finding.violations) == ("I9", 1)
    assert finding.examples[0].startswith(f"{stray} v1 ")


def test_every_rule_of_the_tables_is_broken_here() -> None:
    elsewhere = {
        rule for rule in RULES
        if rule.startswith(("I10.", "I14.")) or rule.endswith(".index")
    }  # fmt: skip
    elsewhere |= {
        "I1.lost",
        "I1.owner",
        "I9.silence",
        "I13.access",
        "I8.result",
        "I16.twice",
        "I16.answers",
    }
    assert set(RULES) - elsewhere == {case.rule for case in CASES}
