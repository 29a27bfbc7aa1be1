"""JSON for scripts and old dashboards under /admin/api (contract.md 5)."""
