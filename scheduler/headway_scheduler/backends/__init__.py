"""Everything that knows a database engine, a path, a lock or a process id.

Law: a backend saves, loads and carries; it decides nothing.
"""
