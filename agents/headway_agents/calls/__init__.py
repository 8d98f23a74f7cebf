"""One model call from an agent's request to its end: queue, send, judge, record."""
