"""The invariants and what breaks each, in words. A rule's code begins with its invariant."""

from __future__ import annotations

import itertools

from jobs.states import ActorKind, JobEvent, JobState, is_legal

INVARIANTS: dict[str, str] = {
    "I1": "No accepted job is lost",
    "I2": "Everything ends",
    "I3": "The audit is the history",
    "I4": "Only legal steps",
    "I5": "Completed at most once, and final is final",
    "I6": "One holder at a time",
    "I7": "Only the holder ends an attempt",
    "I8": "Results and artifacts follow completion",
    "I9": "The outbox is complete and honest",
    "I10": "Readers never go backwards",
    "I11": "Attempts and charges add up",
    "I12": "Recovery is bounded, and time runs forwards",
    "I13": "Only the owner",
    "I14": "The audit is append-only, and the guard stands",
    "I16": "One key, one job",
}

RULES: dict[str, str] = {
    "I1.gone": "is active by its history, but has no row",
    "I1.lost": "was accepted, but has no row",
    "I1.owner": "was accepted for another owner",
    "I1.index": "is missing or not enforced",
    "I2.open": "has neither ended nor a time to come",
    "I3.gap": "does not follow the version before it",
    "I3.chain": "does not begin in the state where the entry before it ended",
    "I3.hash": "the hash chain breaks here",
    "I3.row": "the row's state, version or attempt is not the latest entry's",
    "I3.seal": "the row's audit_hash or changed_at is not the latest entry's",
    "I3.unrecorded": "has a row, but no history",
    "I3.index": "is missing or not enforced",
    "I4.edge": "is a step that is not in the table, or not for this actor",
    "I5.twice": "completes a job that was COMPLETED before",
    "I5.left": "leaves a final state without reopening it",
    "I6.holders": "enters or leaves RUNNING out of turn",
    "I6.tokenless": "enters RUNNING without a token",
    "I6.token": "has a token that was used before",
    "I6.early": "was rescued while its lease held",
    "I6.leaseless": "leaves RUNNING without saying which lease it found",
    "I6.row": "is held under another token than its claim's",
    "I7.token": "leaves RUNNING under another token than the claim's",
    "I7.holder": "was ended by another worker than the one that claimed",
    "I8.artifact": "has an artifact of an attempt that did not complete it",
    "I8.result": "has a result, but is not COMPLETED",
    "I8.index": "is missing or not enforced",
    "I9.silent": "waits without an outbox row",
    "I9.stray": "has an outbox row, but no such entry into PENDING",
    "I9.late": "has an outbox row that its transition did not write",
    "I9.copies": "has several outbox rows for one version",
    "I9.unrung": "has a due doorbell that was never published",
    "I9.stuck": "has a due doorbell that has waited too long",
    "I9.silence": "has a doorbell published while the broker could confirm nothing",
    "I9.index": "is missing or not enforced",
    "I10.reader": "was shown to one reader at an older status than before",
    "I10.readers": "was shown at an older status than somebody had been shown before",
    "I10.unrecorded": "was shown at a status that never was",
    "I10.early": "was shown at a status before it was written",
    "I11.attempt": "attempt is not the number of claims",
    "I11.charges": "failed_attempts or lost_attempts are not what the entries say",
    "I11.budget": "was charged more than its budget",
    "I11.spent": "has used up its budget, but is not FAILED with a reason",
    "I12.time": "is older than the entry before it",
    "I12.late": "was rescued later than the bound allows",
    "I12.lapsed": "is held under a lease that lapsed longer ago than the bound allows",
    "I13.stranger": "was changed by a user who is not its owner",
    "I13.access": "was shown to somebody else than its owner",
    "I14.rewritten": "audit entries were updated or deleted, by the server's statistics",
    "I14.trigger": "is missing, switched off, or calls another function",
    "I14.function": "is not as it was shipped",
    "I14.role": "runs without triggers by a setting",
    "I16.index": "is missing or not enforced",
    "I16.stale": "is named by an idempotency key, but is not the job that answers it",
    "I16.twice": "shares its owner and idempotency key with another job",
    "I16.answers": "answered a key that was answered by another job before",
}


def legal_steps() -> list[str]:
    """Every step of ``jobs.states`` as ``event source target actor``, with ``-`` for not born."""
    sources: tuple[JobState | None, ...] = (None, *JobState)
    return [
        f"{event} {source or '-'} {target} {actor}"
        for event, source, target, actor in itertools.product(
            JobEvent, sources, JobState, ActorKind
        )
        if is_legal(source, target, event, actor)
    ]
