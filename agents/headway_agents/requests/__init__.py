"""What an agent asks, as data and as a hash: the journal's key."""
