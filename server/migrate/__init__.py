"""Brings a database to this release: yoyo steps from migrations/, then everything in sql/."""

from server.migrate.runner import (
    MigrationError,
    MigrationReport,
    Progress,
    StepStatus,
    latest_step,
    migrate,
    rollback,
    status,
)

__all__ = [
    "MigrationError",
    "MigrationReport",
    "Progress",
    "StepStatus",
    "latest_step",
    "migrate",
    "rollback",
    "status",
]
