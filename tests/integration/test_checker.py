"""The verification from outside: what tests of a stack rely on, and the command as a process."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from jobs import lifecycle, testing
from jobs.values import Submission
from tests.services import ROOT
from tests.stack import Stack

pytestmark = pytest.mark.services


def verify(stack: Stack, *arguments: str, **variables: str) -> tuple[int, dict[str, Any], str]:
    """``manage.py verify --json``: exit code, report and what it said on stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "interlock", "verify", "--json", *arguments],
        cwd=ROOT,
        env={**stack.environment(), **variables},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_the_command_answers_by_its_exit_code(quiet: Stack) -> None:
    [accepted] = lifecycle.submit([Submission("noop")])
    testing.run_inline()
    quiet.sql("UPDATE jobs_outboxentry SET published_at = now()")
    code, report, _ = verify(quiet, "--at-rest")
    assert (code, report["ok"], report["jobs"]) == (0, True, 1)
    quiet.check([accepted.job_id])

    quiet.sql("ALTER TABLE jobs_job DISABLE TRIGGER USER")
    quiet.sql("UPDATE jobs_job SET version = 4")
    quiet.sql("ALTER TABLE jobs_job ENABLE TRIGGER USER")
    code, report, _ = verify(quiet)
    assert (code, report["ok"]) == (1, False)
    assert [one["id"] for one in report["findings"] if one["violations"]] == ["I3"]
    with pytest.raises(AssertionError, match=f"{accepted.job_id} v4 the row"):
        quiet.check([accepted.job_id])


def test_a_database_that_is_away_is_no_verdict(quiet: Stack) -> None:
    code, report, said = verify(quiet, DATABASE_URL="postgres://nobody@127.0.0.1:1/nothing")
    assert (code, report) == (2, {})
    assert "could not verify" in said
    assert "Traceback" not in said
