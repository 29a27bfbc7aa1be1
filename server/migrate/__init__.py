"""Brings a database to this release: yoyo steps from migrations/, then everything in sql/."""

from server.migrate.runner import (
    MigrationError,
    MigrationReport,
    Progress,
    StepStatus,
    migrate,
    rollback,
    status,
)
from server.steps import latest_step

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
