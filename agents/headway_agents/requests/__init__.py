"""Requests of agents, as data and as a hash: the key of the journal.

Law: the same request gives the same hash in every process.
"""
