"""What ``headway top`` shows and does. Law of this package: looking writes nothing.

``look.py`` reads, ``picture.py`` and ``run_picture.py`` draw (pure), ``app.py`` has the keys act.
"""
