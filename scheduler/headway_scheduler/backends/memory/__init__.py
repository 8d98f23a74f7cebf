"""A backend in memory, for tests: nothing outlives the process."""
