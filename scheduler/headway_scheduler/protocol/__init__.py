"""The language of processes on one database: messages, their text, a follower's copies.

Law: no I/O. Types and text only; nothing here waits, reads a clock or opens a file.
"""
