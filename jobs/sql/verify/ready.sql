-- Which migrations of this app were applied, and when.
SELECT name, applied FROM django_migrations WHERE app = 'jobs'
