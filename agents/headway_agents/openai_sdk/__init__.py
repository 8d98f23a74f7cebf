"""Calls that reach a provider through OpenAI's own SDK, from its HTTP transport on."""
