"""What calls cost: list prices, the prices of the configuration, and sums over calls."""
