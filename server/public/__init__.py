"""The routes that need no key: the root, health, metrics and the API's description (contract.md
6)."""
