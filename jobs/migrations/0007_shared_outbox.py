"""Outbox rows that ring for several jobs."""

import django.contrib.postgres.fields
from django.db import migrations, models

from jobs import sql


class Migration(migrations.Migration):
    dependencies = [("jobs", "0006_verbs_v2")]

    operations = [
        migrations.AddField(
            "outboxentry",
            "others",
            django.contrib.postgres.fields.ArrayField(models.UUIDField(), null=True),
        ),
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
