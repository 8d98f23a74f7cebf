"""What the scheduler knows of runs: who waits for whom, and what runs and agents usually take.

Law: pure, as all of ``core``.
"""
