"""What needs no key: the root, health, metrics and the API's description (contract.md 6)."""
