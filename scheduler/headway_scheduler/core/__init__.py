"""The scheduler as a state machine: messages and times in, decisions out.

Law: pure. Time is an argument; the same messages at the same times give the same decisions.
"""
