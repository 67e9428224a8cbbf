"""A submit for jobs that are alike; a claim and a completion that answer less."""

from django.db import migrations

from jobs import sql


class Migration(migrations.Migration):
    dependencies = [("jobs", "0005_verbs")]

    operations = [migrations.RunSQL(sql.load("verbs_v2"), sql.load("verbs_v2_drop"))]
