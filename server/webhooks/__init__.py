"""What other services send us."""
