"""Servers that nobody here wrote: a flood of teams against limits that others enforce."""
