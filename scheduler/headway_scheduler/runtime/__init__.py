"""The scheduler of the process that leads: it takes callers' messages, commits, then wakes them.

Law: nobody is woken before the commit that says so. Nothing here names a database engine.
"""
