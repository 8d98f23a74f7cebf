"""The scheduler of a process that follows: the same verbs, carried out by the leader.

Law: a caller goes on only when the leader, or the disk, has what it said. No engine is named here.
"""
