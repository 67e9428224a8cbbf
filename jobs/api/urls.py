"""The API's addresses; a project mounts them at ``JOBS["api_prefix"]``."""

from __future__ import annotations

from django.urls import path

from jobs.api.views import files, history, job_types, jobs, status, verbs

app_name = "jobs-api"

urlpatterns = [
    path("jobs/", jobs.JobsView.as_view(), name="jobs"),
    path("jobs/bulk/", jobs.BulkView.as_view(), name="bulk"),
    path("jobs/status/", status.StatusesView.as_view(), name="statuses"),
    path("jobs/cancel/", verbs.CancelManyView.as_view(), name="cancel-many"),
    path("jobs/retry/", verbs.RetryManyView.as_view(), name="retry-many"),
    path("jobs/<str:job_id>/", jobs.JobView.as_view(), name="job"),
    path("jobs/<str:job_id>/status/", status.StatusView.as_view(), name="status"),
    path("jobs/<str:job_id>/result/", files.ResultView.as_view(), name="result"),
    path("jobs/<str:job_id>/transitions/", history.TransitionsView.as_view(), name="transitions"),
    path("jobs/<str:job_id>/log/", history.LogView.as_view(), name="log"),
    path("jobs/<str:job_id>/cancel/", verbs.CancelView.as_view(), name="cancel"),
    path("jobs/<str:job_id>/retry/", verbs.RetryView.as_view(), name="retry"),
    path("jobs/<str:job_id>/artifacts/", files.ArtifactsView.as_view(), name="artifacts"),
    path("jobs/<str:job_id>/artifacts/<str:name>/", files.ArtifactView.as_view(), name="artifact"),
    path("uploads/", files.UploadsView.as_view(), name="uploads"),
    path("job-types/", job_types.JobTypesView.as_view(), name="job-types"),
    path("job-types/<path:name>/", job_types.JobTypeView.as_view(), name="job-type"),
]
