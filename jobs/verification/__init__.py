"""Whether what must be true of all jobs is true: reads the tables, and what outsiders were told.

    report = verify(at_rest=True, ledger=Path("ledger"))
    assert report.ok, report.broken

``docs/how-to/verify.md`` says what each finding means. ``manage.py verify`` prints a report.
"""

from jobs.errors import CannotVerify
from jobs.verification.dead_letters import unexplained
from jobs.verification.run import verify
from jobs.verification.values import DeadLetter, Finding, Progress, Report

__all__ = [
    "CannotVerify",
    "DeadLetter",
    "Finding",
    "Progress",
    "Report",
    "unexplained",
    "verify",
]
