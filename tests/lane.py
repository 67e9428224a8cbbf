"""The API's quick lane beside Django without it, for tests that compare the two."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from interlock.handler import Utf8Handler
from jobs.api.lane import Lane
from jobs.models import Job
from tests.api import BASE
from tests.wsgi import Answer, ask

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

KeyFactory = Callable[..., str]
#: So that answers which name their request can be compared.
SAME = {"HTTP_X_REQUEST_ID": "the-same"}


class Counted:
    """Django, and how often it was asked."""

    def __init__(self, application: WSGIApplication) -> None:
        self._application = application
        self.count = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.count += 1
        return self._application(environ, start_response)


class World:
    """One owner with a key and a job, Django with and without the lane in front of it."""

    def __init__(self, key: str, job: Job) -> None:
        self.key, self.job = key, job
        self.owner_id = job.owner_id or 0
        self.rebuilt()

    def rebuilt(self, **options: Any) -> World:
        """As after a start of the process with the present settings."""
        self.django = Utf8Handler()
        self.behind = Counted(self.django)
        self.lane = Lane(self.behind, **options)
        return self

    def path(self, job_id: object = None) -> str:
        return f"{BASE}jobs/{job_id or self.job.id}/status/"

    def environ(self, changes: dict[str, Any]) -> dict[str, Any]:
        return {"HTTP_AUTHORIZATION": f"Bearer {self.key}", **SAME, **changes}

    def both(self, path: str | None = None, **changes: Any) -> tuple[Answer, bool]:
        """The answer, which is the same both ways, and whether the lane gave it by itself."""
        where, environ = path or self.path(), self.environ(changes)
        wanted = ask(self.django, where, **environ)
        for _ in range(2):
            assert ask(self.lane, where, **environ) == wanted
        before = self.behind.count
        assert ask(self.lane, where, **environ) == wanted
        return wanted, self.behind.count == before

    def by_lane(self, path: str | None = None, **changes: Any) -> Answer:
        answer, served = self.both(path, **changes)
        assert served, "Django was asked"
        return answer

    def by_django(self, path: str | None = None, **changes: Any) -> Answer:
        answer, served = self.both(path, **changes)
        assert not served, "Django was not asked"
        return answer


def code_of(answer: Answer) -> int:
    return int(answer.line.split()[0])
