"""Duties that keep promises over time: a ``run_once`` each; the scheduler command owns the loop."""
