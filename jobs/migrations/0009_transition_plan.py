"""The plan by which transitions are recorded, whatever number of jobs moves."""

from django.db import migrations

from jobs import sql


class Migration(migrations.Migration):
    dependencies = [("jobs", "0008_owned_indexes")]

    operations = [
        migrations.RunSQL(
            sql.load("transition_plan"),
            "ALTER FUNCTION jobs_record_transition() RESET enable_nestloop",
        ),
    ]
