"""The three views, and the row that the usual one reads."""

from __future__ import annotations

from typing import ClassVar

from django.http import HttpRequest, HttpResponse
from django.urls import path
from rest_framework import generics, permissions, serializers
from rest_framework.authentication import TokenAuthentication
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from bench.limits.models import Status

#: About as long as a status of ours.
_BODY = b'{"id":"0","state":"COMPLETED","pad":"%b"}' % (b"x" * 400)


def empty(request: HttpRequest) -> HttpResponse:
    """Constant bytes."""
    del request
    return HttpResponse(_BODY, content_type="application/json")


class EmptyPost(APIView):
    """Parses nothing, does nothing, answers 201."""

    def post(self, request: Request) -> Response:
        del request
        return Response({"id": "0"}, status=201)


class StatusSerializer(serializers.ModelSerializer[Status]):
    class Meta:
        model = Status
        fields: ClassVar = ["id", "state", "version", "progress", "message", "changed_at"]


class UsualStatus(generics.RetrieveAPIView[Status]):
    """What most projects have: a token from the database, a row, a serializer."""

    queryset = Status.objects.all()
    serializer_class = StatusSerializer
    authentication_classes = [TokenAuthentication]
    permission_classes = [permissions.IsAuthenticated]


urlpatterns = [
    path("empty/", empty),
    path("post/", EmptyPost.as_view()),
    path("status/<int:pk>/", UsualStatus.as_view()),
]
