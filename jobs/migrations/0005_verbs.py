"""The hot verbs as functions. Processes of the release before go on without them."""

from django.db import migrations

from jobs import sql


class Migration(migrations.Migration):
    dependencies = [("jobs", "0004_keys")]

    operations = [migrations.RunSQL(sql.load("verbs_v1"), sql.load("verbs_v1_drop"))]
