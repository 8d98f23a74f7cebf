"""``headway demo``: urgent and background teams on a small budget, with Headway and without.

Law of this package: every number that is shown was measured, on both sides in the same way.
``plan`` has the arrivals, ``teams`` builds the AutoGen teams, ``race`` runs both sides, ``side``
records each, ``report`` sums up, ``screen`` and ``summary`` show it.
"""
