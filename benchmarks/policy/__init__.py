"""Scheduling policies beside each other: recorded AutoGen teams on a simulated provider."""
