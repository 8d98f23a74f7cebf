"""What each quota still allows: buckets, breakers, and limits learned from answers.

Law: pure, as all of ``core``.
"""
