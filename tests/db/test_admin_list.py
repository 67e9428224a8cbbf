"""The admin: what the list of jobs finds."""

from __future__ import annotations

import pytest
from django.test import Client

from jobs.admin import listing
from jobs.states import JobState
from tests.admin import (
    LIST,
    JobFactory,
    listed,
    user_of,
)


def test_filters_and_search(job_factory: JobFactory, root: Client) -> None:
    [waiting], [failed] = job_factory(), job_factory(JobState.FAILED)
    [running] = job_factory(JobState.RUNNING, owner_id=user_of(root).pk)
    [keyed] = job_factory(idempotency_key="order-4711")
    assert listed(root) == [keyed.pk, running.pk, failed.pk, waiting.pk]
    assert listed(root, "?state=FAILED") == [failed.pk]
    assert listed(root, "?state=RUNNING") == [running.pk]
    assert listed(root, "?state=PENDING") == [keyed.pk, waiting.pk]
    assert listed(root, f"?owner={user_of(root).pk}") == [running.pk]
    assert listed(root, "?handler=testing.outcome&state=FAILED") == [failed.pk]
    assert listed(root, "?handler=noop") == []
    assert listed(root, "?queue=default&state=FAILED") == [failed.pk]
    assert listed(root, "?q=order-4711") == [keyed.pk]
    assert listed(root, "?q=order") == []
    assert listed(root, f"?q={failed.pk}") == [failed.pk]
    assert listed(root, f"?q={str(failed.pk)[:4]}") == listed(root)
    assert listed(root, f"?q={str(failed.pk).upper()}&state=FAILED") == [failed.pk]
    assert listed(root, "?submitted=1h&state=FAILED") == [failed.pk]
    assert listed(root, "?submitted_from=2001-01-01T00:00&submitted_to=2002-01-01T00:00") == []
    assert listed(root, "?submitted_from=2001-01-01T00:00") == listed(root)


def test_a_key_that_another_job_answered_finds_that_job(
    job_factory: JobFactory, root: Client
) -> None:
    [standing, _] = [*job_factory(unique_key="u"), *job_factory()]
    job_factory(JobState.PENDING, unique_key="u", idempotency_key="order-4712")
    assert listed(root, "?q=order-4712") == [standing.pk]


@pytest.mark.parametrize(
    "query",
    [
        "?state=%00", "?handler=%00x", "?q=%00", "?owner=x", "?owner=99999999999999999999",
        "?submitted_from=yesterday", "?submitted_from=2020-02-31T00:00", "?q=zz-not-hex",
        "?o=1.2.3", "?p=9999", "?all=", "?_facets=True",
    ],
)  # fmt: skip
def test_odd_queries_are_answered(root: Client, query: str) -> None:
    assert root.get(f"{LIST}{query}").status_code == 200


@pytest.mark.parametrize(
    "query", ["?before=x", "?after=1", "?reason__icontains=a", "?payload__a=1", "?owner__email=a"]
)
def test_lookups_that_could_scan_or_probe_are_refused(root: Client, query: str) -> None:
    answer = root.get(f"{LIST}{query}")
    assert answer.status_code in (302, 400)


def test_pages_by_key_reach_every_job_both_ways(
    job_factory: JobFactory, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = job_factory(count=7)
    everything = sorted((job.pk for job in jobs), reverse=True)
    monkeypatch.setattr("jobs.admin.job.JobAdmin.list_per_page", 3)
    down, query = [], ""
    pages = []
    while True:
        answer = root.get(f"{LIST}{query}")
        pages.append(answer.context["cl"])
        down += [job.pk for job in pages[-1].result_list]
        if pages[-1].older is None:
            break
        query = pages[-1].older
    assert down == everything
    assert pages[0].newer is None
    up = list(pages[-1].result_list)
    while (query := pages[-1].newer) is not None:
        pages.append(root.get(f"{LIST}{query}").context["cl"])
        up = [*pages[-1].result_list, *up]
    assert [job.pk for job in up] == everything


def test_a_rare_value_is_looked_for_window_by_window(
    job_factory: JobFactory, root: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    [old] = job_factory(JobState.FAILED)
    job_factory(JobState.COMPLETED, count=6)
    monkeypatch.setattr(listing.JobChangeList, "window", 3)
    first = root.get(f"{LIST}?state=FAILED").context["cl"]
    assert list(first.result_list) == []
    assert first.looked_to is not None
    found, link, clicks = [], first.older, 0
    while link is not None and clicks < 5:
        shown = root.get(f"{LIST}{link}").context["cl"]
        found += [job.pk for job in shown.result_list]
        link, clicks = shown.older, clicks + 1
    assert found == [old.pk]
