"""Calls that reach a provider through OpenAI's own SDK, scheduled from its HTTP transport on.

Law: the SDK works as ever; only when it sends is decided here.
"""
