"""Hash chains in the audit, the second version of the guard, and indexes for what is watched.

For a big table: stop the platform first. Every audit entry and every job row is rewritten once in
this one transaction (``jobs/sql/audit_chain_backfill.sql`` says what that takes), and the indexes
are built under a lock too. Where that is too long, build the indexes CONCURRENTLY under these names
beforehand and run this migration's other statements by hand, then ``migrate --fake``.
"""

from django.db import migrations, models

from jobs import sql
from jobs.states import JobState


class Migration(migrations.Migration):
    dependencies = [("jobs", "0002_guard")]

    operations = [
        migrations.AddField("auditentry", "hash", models.BinaryField(null=True)),
        migrations.AddField("auditentry", "lease_until", models.DateTimeField(null=True)),
        migrations.AddField("job", "audit_hash", models.BinaryField(null=True)),
        migrations.AddField("job", "changed_at", models.DateTimeField(editable=False, null=True)),
        migrations.RunSQL(
            sql.load("guard_v2"),
            [sql.load(name) for name in ("guard_v2_reverse", "guard_v1_drop", "guard_v1")],
        ),
        migrations.RunSQL(sql.load("audit_chain_backfill"), migrations.RunSQL.noop),
        migrations.AlterField("auditentry", "hash", models.BinaryField()),
        migrations.AlterField("job", "audit_hash", models.BinaryField()),
        migrations.AlterField("job", "changed_at", models.DateTimeField(editable=False)),
        migrations.AddConstraint(
            "job",
            models.CheckConstraint(
                name="jobs_job_result",
                condition=models.Q(result__isnull=True) | models.Q(state=JobState.COMPLETED),
            ),
        ),
        migrations.RemoveIndex("job", "jobs_job_pending"),
        migrations.AddIndex(
            "job",
            models.Index(
                name="jobs_job_pending",
                fields=["queue", "due_at", "id"],
                condition=models.Q(state=JobState.PENDING),
            ),
        ),
        migrations.AddIndex(
            "job",
            models.Index(
                name="jobs_job_failed",
                fields=["finished_at"],
                condition=models.Q(state=JobState.FAILED),
            ),
        ),
        migrations.AddIndex(
            "job",
            models.Index(
                name="jobs_job_owner_pending",
                fields=["owner"],
                condition=models.Q(state=JobState.PENDING),
            ),
        ),
    ]
