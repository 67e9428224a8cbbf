"""One function judges every update of a job, in place of constraints that are costly to read."""

from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models
from django.db.models.lookups import Exact

from jobs import sql


def _holds(condition: models.Q) -> "models.ExpressionWrapper[models.Q]":
    return models.ExpressionWrapper(condition, output_field=models.BooleanField())


class Migration(migrations.Migration):
    dependencies = [("jobs", "0010_doorbell_lookup")]

    operations = [
        # The whole lock at once: who has locked a row and means to change it next would wait for a
        # smaller one, and be waited for by the rest.
        migrations.RunSQL("LOCK TABLE jobs_job IN ACCESS EXCLUSIVE MODE", migrations.RunSQL.noop),
        # Before the constraints go, so that their rules hold throughout.
        migrations.RunSQL(
            sql.load("guard_v4"),
            [sql.load(n) for n in ("guard_v4_reverse", "guard_v2", "guard_v3", "transition_plan")],
        ),
        migrations.RemoveConstraint("job", "jobs_job_state"),
        migrations.RemoveConstraint("job", "jobs_job_lease"),
        migrations.RemoveConstraint("job", "jobs_job_finished"),
        migrations.RemoveConstraint("job", "jobs_job_counts"),
        migrations.RemoveConstraint("job", "jobs_job_priority"),
        migrations.RemoveConstraint("job", "jobs_job_result"),
        # The rows that are there kept a stricter one; the next migration looks, while work goes on.
        AddConstraintNotValid(
            "job",
            models.CheckConstraint(
                name="jobs_job_lease",
                condition=Exact(
                    _holds(models.Q(state="RUNNING")), _holds(models.Q(lease_token__isnull=False))
                ),
            ),
        ),
    ]
