"""Takes over a database of the old service."""
