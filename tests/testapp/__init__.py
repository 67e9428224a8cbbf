"""A Django app with handlers for the rings that run real workers."""
