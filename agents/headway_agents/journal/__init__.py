"""The replay of a run: which recorded answer comes next, and when the run may ask anew.

Law: pure. No asyncio, no clock, no AutoGen: events in, effects out.
"""
