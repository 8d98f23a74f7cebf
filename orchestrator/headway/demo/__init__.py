"""``headway demo``: urgent and background teams on a small budget, with Headway and without.

Law of this package: every number that is shown was measured, on both sides with the same ruler.
``plan`` says who arrives when, ``teams`` builds the AutoGen teams, ``race`` runs both sides,
``side`` keeps their books, ``report`` sums up, ``screen`` and ``summary`` show it.
"""
