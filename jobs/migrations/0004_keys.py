"""Unique keys of each owner for itself, and a table of all idempotency keys.

Existing keys are copied while the table of jobs is locked for the new index; for a big table, stop
the platform first. Processes of the release before go on working, but know only the keys that made
a job: one of theirs that repeats a request which a standing job answered may make a second job.
"""

from django.db import migrations, models

from jobs import sql

COPY = """
INSERT INTO jobs_idempotencykey (id, owner_id, key, fingerprint)
SELECT id, owner_id, idempotency_key, fingerprint FROM jobs_job WHERE idempotency_key IS NOT NULL
"""


class Migration(migrations.Migration):
    dependencies = [("jobs", "0003_audit_chain")]

    operations = [
        migrations.RemoveConstraint("job", "jobs_job_unique_key"),
        migrations.AddConstraint(
            "job",
            models.UniqueConstraint(
                name="jobs_job_unique_key",
                fields=["owner", "handler", "unique_key"],
                condition=models.Q(unique_key__isnull=False, state__in=["PENDING", "RUNNING"]),
                nulls_distinct=False,
            ),
        ),
        migrations.CreateModel(
            name="IdempotencyKey",
            fields=[
                ("id", models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ("owner_id", models.BigIntegerField(null=True)),
                ("key", models.CharField(max_length=200)),
                ("fingerprint", models.CharField(max_length=64, null=True)),
                ("answered_by", models.UUIDField(null=True)),
            ],
            options={
                "default_permissions": (),
                "constraints": [
                    models.UniqueConstraint(
                        name="jobs_idempotency_once",
                        fields=["owner_id", "key"],
                        nulls_distinct=False,
                    ),
                ],
                "indexes": [
                    models.Index(
                        name="jobs_idempotency_answered",
                        fields=["answered_by", "key"],
                        condition=models.Q(answered_by__isnull=False),
                    ),
                ],
            },
        ),
        migrations.RunSQL(COPY, migrations.RunSQL.noop),
        migrations.RunSQL(sql.load("forget_keys"), sql.load("forget_keys_drop")),
    ]
