"""The replay of a run, pure: which recorded answer comes next, when the run may ask anew.

Law: no asyncio, no clock, no AutoGen. Of the scheduler it knows rows, their states and errors.
"""
