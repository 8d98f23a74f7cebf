"""One file for each command of ``headway``. Each is imported only when it is carried out."""
