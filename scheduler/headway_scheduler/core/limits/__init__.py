"""The state of each quota: buckets, breakers, and limits learned from answers.

Law: pure, as all of ``core``.
"""
