"""The fuzzer: odd inputs of every kind against runs that must not notice (``__main__``)."""
