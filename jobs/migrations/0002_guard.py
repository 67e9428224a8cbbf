"""The triggers that guard, audit and ring, and storage settings of the hot tables."""

from django.db import migrations

from jobs import sql

# Updates in place (HOT) need free room on the page; dead rows of hot tables are cleared early.
STORAGE = """
ALTER TABLE jobs_job SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
ALTER TABLE jobs_outboxentry SET (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);
"""
STORAGE_BACK = """
ALTER TABLE jobs_job RESET (fillfactor, autovacuum_vacuum_scale_factor);
ALTER TABLE jobs_outboxentry RESET (fillfactor, autovacuum_vacuum_scale_factor);
"""


class Migration(migrations.Migration):
    dependencies = [("jobs", "0001_initial")]

    operations = [
        migrations.RunSQL(sql.load("guard_v1"), sql.load("guard_v1_drop")),
        migrations.RunSQL(STORAGE, STORAGE_BACK),
    ]
