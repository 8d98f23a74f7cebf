"""Runs: which waits for which, their budgets, and what runs and agents usually take.

Law: pure, as all of ``core``.
"""
