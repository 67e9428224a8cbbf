"""Profiling of one data file: what is in it, column by column, in bounded memory.

`core.profile_file` knows nothing of jobs; the handler in `jobs.handlers.profile` is a thin
wrapper around it. Nothing is imported here on purpose: DuckDB and matplotlib are large, and
a process that only declares the handler must not pay for them.
"""
