"""Webhooks: requests that other services send us."""
