"""Pure decisions: from a job, what was observed and the time to a Plan.  No I/O, clock or log."""
