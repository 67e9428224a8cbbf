"""Claim and completion of many jobs, by a join."""

from django.db import migrations

from jobs import sql


class Migration(migrations.Migration):
    dependencies = [("jobs", "0012_lease_checked")]

    operations = [migrations.RunSQL(sql.load("verbs_v4"), sql.load("verbs_v4_drop"))]
