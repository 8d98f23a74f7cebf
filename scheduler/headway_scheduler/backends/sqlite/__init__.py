"""The backend in one SQLite file on a local disk, with its locks and pipes beside it.

Law: what cannot be opened is left as it was found; a commit that returned survives a power cut.
"""
