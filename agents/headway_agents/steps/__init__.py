"""Everything else that a run journals: tools, people, time, chance, fetched data.

Law: a step is on disk as begun before it acts, and as done before its result is seen.
"""
