"""Prices of calls, from the configuration or the list, and sums over calls."""
