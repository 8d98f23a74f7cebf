"""Everything else that a run journals: tools, inputs, and services that start at first use."""
