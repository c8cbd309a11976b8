"""Everything that can be decided without I/O, a clock, randomness or logging."""
