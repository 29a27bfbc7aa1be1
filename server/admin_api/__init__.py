"""JSON for scripts and old dashboards under /admin/api and /admin/oauth (contract.md 4 and 5)."""
