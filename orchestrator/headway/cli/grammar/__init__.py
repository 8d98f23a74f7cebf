"""What the parser of the command line is made of: the reading of words, and examples for help."""
