"""``manage.py verify``: what it prints, and its exit codes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import psycopg2
import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from jobs.management.commands import verify as command
from jobs.verification import Progress
from tests import histories

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _begin() -> None:
    histories.forget_statistics()


def verify(*arguments: str) -> tuple[int, str]:
    """The exit code and what was printed."""
    out = io.StringIO()
    try:
        call_command("verify", *arguments, stdout=out)
    except SystemExit as error:
        return int(str(error.code)), out.getvalue()
    return 0, out.getvalue()


def test_nothing_broken_is_exit_code_0() -> None:
    histories.completed()
    code, text = verify()
    assert code == 0
    assert "I3   The audit is the history: ok" in text
    assert "1 jobs and 3 audit entries in 1 windows" in text
    assert "I2 " not in text


def test_something_broken_is_exit_code_1_and_says_what() -> None:
    job = histories.completed()
    histories.damage("UPDATE jobs_auditentry SET reason = 'forged' WHERE version = 3")
    code, text = verify()
    assert code == 1
    assert "I3   The audit is the history: 1 violation\n" in text
    assert f"     {job.id} v3 the hash chain breaks here\n" in text


def test_json_is_for_machines() -> None:
    job = histories.waiting()
    code, text = verify("--json", "--at-rest", "--only", "I2, I9")
    report = json.loads(text)
    assert code == 1
    assert report["ok"] is False
    assert report["jobs"] == report["entries"] == 1
    by_id = {finding["id"]: finding for finding in report["findings"]}
    assert list(by_id) == ["I2", "I9"]
    assert by_id["I2"]["violations"] == 1
    assert by_id["I2"]["examples"][0].startswith(str(job.id))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--only", "I77"], "I77"),
        (["--window", "0"], "window"),
        (["--ledger", "/nowhere"], "holds no ledger"),
    ],
)
def test_a_wrong_question_is_exit_code_2(arguments: list[str], says: str) -> None:
    with pytest.raises(CommandError, match=says) as error:
        verify(*arguments)
    assert error.value.returncode == 2


def test_a_database_that_is_away_is_exit_code_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.verification.snapshots.time.sleep", lambda seconds: None)

    def refuse(*_: Any) -> Any:
        raise psycopg2.OperationalError("connection refused")

    monkeypatch.setattr(type(connections["default"]), "get_new_connection", refuse)
    with pytest.raises(CommandError, match="connection refused") as error:
        verify()
    assert error.value.returncode == 2


def test_options_reach_the_checks(tmp_path: Path) -> None:
    rescued = histories.rescued(histories.running())
    histories.damage(
        f"UPDATE jobs_outboxentry SET due_at = now() - interval '1 h', created_at = now()"
        f" - interval '1 h' WHERE job_id = '{rescued.id}'",
        "UPDATE jobs_auditentry SET lease_until = at - interval '9 s' WHERE version = 3",
    )
    histories.reseal(rescued)
    assert verify()[0] == 0
    assert verify("--bound", "8", "--only", "I12")[0] == 1
    assert verify("--bound", "10", "--only", "I12")[0] == 0
    assert verify("--max-unpublished", "60", "--only", "I9")[0] == 1
    missing = '{"job_id": "01890000-0000-7000-8000-000000000000", "owner_id": 1,'
    (tmp_path / "accepted.ndjson").write_text(missing + ' "idempotency_key": null}\n')
    assert verify("--ledger", str(tmp_path), "--only", "I1")[0] == 1


def test_progress_is_said_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("jobs.management.commands.verify.time.monotonic", lambda: now[0])
    out = io.StringIO()
    watch = command.Watch(out)
    for jobs in (1, 2, 3):
        watch(Progress("windows", jobs, 9000))
        now[0] += command.EVERY_SECONDS / 2 + 0.1
    watch(Progress("ledger", 4, 0))
    assert out.getvalue() == "windows: 3 of about 9,000 jobs"
