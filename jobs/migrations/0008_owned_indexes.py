"""The indexes by owner, without the jobs that have none. Built while work goes on."""

from django.contrib.postgres.operations import AddIndexConcurrently, RemoveIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("jobs", "0007_shared_outbox")]
    atomic = False

    operations = [
        AddIndexConcurrently(
            "job",
            models.Index(
                name="jobs_job_owned",
                fields=["owner", "-id"],
                condition=models.Q(owner__isnull=False),
            ),
        ),
        AddIndexConcurrently(
            "job",
            models.Index(
                name="jobs_job_owned_pending",
                fields=["owner"],
                condition=models.Q(owner__isnull=False, state="PENDING"),
            ),
        ),
        RemoveIndexConcurrently("job", "jobs_job_owner"),
        RemoveIndexConcurrently("job", "jobs_job_owner_pending"),
    ]
