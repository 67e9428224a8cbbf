"""Outbox rows that ring for several jobs."""

from django.db import migrations, models

from jobs import sql
from jobs.models.fields import UUIDArrayField


class Migration(migrations.Migration):
    dependencies = [("jobs", "0006_verbs_v2")]

    operations = [
        migrations.AddField("outboxentry", "others", UUIDArrayField(null=True)),
        migrations.AddField("outboxentry", "txid", models.BigIntegerField(null=True)),
        # No row has others yet, so the index is built without looking long.
        migrations.AddIndex(
            "outboxentry",
            models.Index(
                name="jobs_outbox_shared",
                fields=["txid", "job_id"],
                condition=models.Q(others__isnull=False),
            ),
        ),
        migrations.RunSQL(sql.load("verbs_v3"), sql.load("verbs_v3_drop")),
        migrations.RunSQL(sql.load("guard_v3"), sql.load("guard_v3_reverse")),
    ]
