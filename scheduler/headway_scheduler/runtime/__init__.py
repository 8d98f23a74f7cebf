"""How callers ask and wait (``client``, ``pending``), and the scheduler of the process that leads.

That one takes callers' messages, commits, then wakes them. ``cluster`` has the other processes'.

Law: nobody is woken before the commit that says so. Nothing here names a database engine.
"""
