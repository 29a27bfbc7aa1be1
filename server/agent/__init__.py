"""The agent API under /v1/billing (contract.md 2 and 10)."""
