"""Which queued call goes next: lanes of calls, their order, their routes, and holds.

Law: pure, as all of ``core``.
"""
