"""A submit for jobs that share all but id and payload. The one for any jobs stays."""

from django.db import migrations

from jobs import sql


class Migration(migrations.Migration):
    dependencies = [("jobs", "0005_verbs")]

    operations = [migrations.RunSQL(sql.load("verbs_v2"), sql.load("verbs_v2_drop"))]
