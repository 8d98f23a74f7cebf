"""One model call from an agent's request to its end: reserved, queued, sent, judged, recorded.

Law: each admission gets one end, and an answer is on disk before the agent sees it.
"""
