"""A look-up of shared outbox rows whose plan is right on every PostgreSQL."""

from django.db import migrations

from jobs import sql


class Migration(migrations.Migration):
    dependencies = [("jobs", "0009_transition_plan")]

    operations = [
        # It answers what the one before answered, so going back leaves it.
        migrations.RunSQL(sql.load("doorbell_lookup"), migrations.RunSQL.noop),
    ]
