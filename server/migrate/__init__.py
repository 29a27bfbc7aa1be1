"""Brings a database to this release: yoyo steps from migrations/, then everything in sql/."""

from server.migrate.runner import (
    KeptSetting,
    MigrationError,
    MigrationReport,
    OpenDoor,
    Progress,
    StepStatus,
    migrate,
    open_doors,
    rollback,
    status,
)
from server.resources import latest_step

__all__ = [
    "KeptSetting",
    "MigrationError",
    "MigrationReport",
    "OpenDoor",
    "Progress",
    "StepStatus",
    "latest_step",
    "migrate",
    "open_doors",
    "rollback",
    "status",
]
