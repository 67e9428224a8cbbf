-- Pins the plan of the statements that write a transition's audit and outbox rows. A session makes it at
-- its first transition and keeps it. Made for one row it is a nested loop, which compares every row of
-- a later group with every other: at 100 jobs a fifth of what the transition costs, at 300 half of it.
-- A hash join costs one row no more. See docs/adr/0021-hot-verbs-are-functions-with-pinned-plans.md.
ALTER FUNCTION jobs_record_transition() SET enable_nestloop = off;
