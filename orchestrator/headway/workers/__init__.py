"""Which process leads and which execute: leadership, requests to the leader, assignment of runs."""
