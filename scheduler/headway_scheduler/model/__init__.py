"""The data that the scheduler stores: state tables, nouns, and formulas on plain numbers.

Law: pure. Nothing here decides, reads a clock or does I/O; it imports ``errors`` and its siblings.
"""
