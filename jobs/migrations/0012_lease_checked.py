"""Looks through the jobs that were there before ``jobs_job_lease`` became shorter."""

from django.contrib.postgres.operations import ValidateConstraint
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("jobs", "0011_one_guard")]

    operations = [ValidateConstraint("job", "jobs_job_lease")]
