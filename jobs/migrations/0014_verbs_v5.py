"""Submit of one job, as a row of its own."""

from django.db import migrations

from jobs import sql


class Migration(migrations.Migration):
    dependencies = [("jobs", "0013_verbs_v4")]

    operations = [migrations.RunSQL(sql.load("verbs_v5"), sql.load("verbs_v5_drop"))]
