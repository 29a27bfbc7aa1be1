"""Takes over a database of the old service: docs/adopting.md says how, legacy_service.adoption what
came of it."""

from server.adopt.adoption import adopt, count_steps, forecast
from server.adopt.report import AdoptionReport, duration

__all__ = ["AdoptionReport", "adopt", "count_steps", "duration", "forecast"]
