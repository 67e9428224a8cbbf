"""Settings are validated as a whole, with the wrong key in the message."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from pydantic import ValidationError

from jobs import conf
from jobs.errors import ConfigurationError


def test_defaults_are_valid_and_frozen() -> None:
    settings = conf.parse({})
    assert settings.default_queue == "default"
    assert settings.lease_seconds >= 3 * settings.heartbeat_seconds
    with pytest.raises(ValidationError):
        setattr(settings, "lease_seconds", 1.0)  # noqa: B010  # the types refuse it as well


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"lease_second": 5}, r"JOBS\[lease_second\]"),
        ({"lease_seconds": 0}, r"JOBS\[lease_seconds\]"),
        ({"lease_seconds": "soon"}, r"JOBS\[lease_seconds\]"),
        ({"lease_seconds": float("nan")}, r"JOBS\[lease_seconds\]"),
        ({"lease_seconds": 2, "heartbeat_seconds": 1}, "at least 3 x heartbeat_seconds"),
        ({"doubt_seconds": 2.9}, "doubt_seconds must be at least 3 x heartbeat_seconds"),
        ({"claim_patience_seconds": 1800}, r"JOBS\[claim_patience_seconds\]"),
        ({"max_attempts": 0}, r"JOBS\[max_attempts\]"),
        ({"queues": []}, r"JOBS\[queues\]"),
        ({"queues": ["a", "a"]}, "must not repeat"),
        ({"data_roots": ["relative/path"]}, "must be absolute"),
        ({"relay_batch_size": 10_001}, r"JOBS\[relay_batch_size\]"),
        ([], r"JOBS\[\*\]"),
    ],
)
def test_a_wrong_value_is_refused_by_name(raw: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        conf.parse(raw)


def test_every_wrong_key_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        conf.parse({"nonsense": 1, "max_attempts": 0})
    assert "JOBS[nonsense]" in str(caught.value)
    assert "JOBS[max_attempts]" in str(caught.value)


def test_an_override_is_seen_at_once(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(max_attempts=9, data_roots=("/data",))
    assert conf.get().max_attempts == 9
    assert conf.get().data_roots == (Path("/data"),)


def test_a_wrong_setting_is_a_system_check(jobs_settings: Callable[..., None]) -> None:
    jobs_settings(leese_seconds=3)
    found = [problem for problem in run_checks() if problem.id == "jobs.E001"]
    assert len(found) == 1
    assert "leese_seconds" in str(found[0].msg)


def test_every_setting_says_what_it_means() -> None:
    source = Path(conf.__file__).read_text(encoding="utf-8")
    body = source[source.index("class JobsSettings") : source.index("@model_validator")]
    lines = body.splitlines()
    fields = [
        number for number, line in enumerate(lines) if line.startswith("    ") and ": " in line
        and " = " in line and not line.strip().startswith(("model_config", '"""'))
    ]  # fmt: skip
    silent = [lines[n].strip() for n in fields if '"""' not in lines[n + 1]]
    assert silent == []
