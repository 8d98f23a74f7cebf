"""AutoGen's own parts, wrapped so that what they do is scheduled and journaled."""
