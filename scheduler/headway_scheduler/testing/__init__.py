"""What tests, the demo and benchmarks need, shipped: a steered clock and a simulated provider."""
