"""AutoGen's own parts, wrapped so that what they do is scheduled and journaled.

Law: to AutoGen a wrapper looks like what it wraps.
"""
