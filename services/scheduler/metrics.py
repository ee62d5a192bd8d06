"""Metrics in the format of Prometheus: of the API what it answered and what there is, of a worker what it did.

What there is (queue, alarms, the last proven backup) is looked up when the API is asked, so that it is told once,
however many workers there are. NGINX hides /metrics.
"""

import math
from time import perf_counter

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from scheduler import db
from scheduler.errors import DatabaseUnavailable

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LATE = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
_THERE_IS = text("""
    select 'runs' as what, state as which, count(*)::float as number from scheduler.runs
    where state in ('queued', 'running', 'waiting') group by state
    union all
    select 'alarms', kind, count(*) from scheduler.alarms where closed_at is null group by kind
    union all
    select 'schedules', case when paused_at is not null then 'paused' when next_due_at is null then 'over'
                             else 'active' end, count(*)
    from scheduler.schedules where deleted_at is null group by 2
    union all
    select 'wake', '', coalesce(extract(epoch from now() - min(wake_at)), 0) from scheduler.runs
    where state in ('queued', 'waiting') and wake_at <= now()
    union all
    select 'ended', (target ->> 'kind') || ' ' || state, count(*) from scheduler.runs
    where ended_at > now() - interval '1 hour' group by 2
    union all
    select 'proven', '', extract(epoch from now() - last_proven_at) from scheduler.watch
""")
_EACH = {
    "runs": ("queued", "running", "waiting"),
    "alarms": ("failing", "overdue", "too_long", "skipped", "stale", "unaccounted"),
    "schedules": ("active", "paused", "over"),
    "ended": tuple(
        f"{kind} {state}"
        for kind in ("backup", "proof", "retention", "http")
        for state in ("succeeded", "failed", "cancelled", "skipped", "missed")
    ),
}

router = APIRouter(include_in_schema=False)


class ApiMetrics:
    """Of one process, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ("method", "route")
        self._requests = Counter(
            "scheduler_http_requests", "Requests that were answered.", (*labels, "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "scheduler_http_request_seconds", "From a request's head to its answer's end.", labels, buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self._there_is = {
            "runs": self._gauge("scheduler_runs_active", "Runs that have not ended.", "state"),
            "alarms": self._gauge("scheduler_alarms_open", "Alarms that are open.", "kind"),
            "schedules": self._gauge("scheduler_schedules", "Schedules that there are.", "state"),
            "ended": self._gauge("scheduler_runs_ended_last_hour", "Runs by their outcome.", "kind", "state"),
        }
        self._wake = self._gauge("scheduler_oldest_wake_seconds", "How late the step is that should have come first.")
        self._proven = self._gauge(
            "scheduler_last_proven_backup_age_seconds", "Since the rows of the newest proven backup were read."
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)

    async def look(self, engine: AsyncEngine) -> None:
        found: dict[tuple[str, str], float | None] = {}
        absent = 0.0
        try:
            async with db.transaction(engine) as session:
                found = {(row.what, row.which): row.number for row in await session.execute(_THERE_IS)}
        except DatabaseUnavailable:
            absent = math.nan
        for what, gauge in self._there_is.items():
            for which in _EACH[what]:
                gauge.labels(*which.split()).set(found.get((what, which)) or absent)
        for what, gauge in (("wake", self._wake), ("proven", self._proven)):
            number = found.get((what, ""))
            gauge.set(math.nan if number is None else number)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(name, about, labels, registry=self.registry)


class WorkMetrics:
    """Of one worker, in a registry of its own. Lateness leaves out the jitter that a schedule wants."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.lateness = Histogram(
            "scheduler_run_lateness_seconds", "From a run's due time to what came of it.", ("stage",), buckets=_LATE,
            registry=self.registry,
        )  # fmt: skip
        self.steps = Histogram(
            "scheduler_step_seconds", "Steps of runs that were taken here.", ("kind",), buckets=_SECONDS,
            registry=self.registry,
        )  # fmt: skip
        self.ticks = Histogram("scheduler_tick_seconds", "Ticks.", buckets=_SECONDS, registry=self.registry)

    def late(self, stage: str, seconds: float | None) -> None:
        if seconds is not None:
            self.lateness.labels(stage).observe(max(seconds, 0.0))

    def took(self, kind: str, since: float) -> None:
        """`since`: what `perf_counter` said at its beginning."""
        self.steps.labels(kind).observe(perf_counter() - since)


def exposed(registry: CollectorRegistry) -> Response:
    return Response(generate_latest(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Answers while the database is away, too."""
    counted: ApiMetrics = request.app.state.metrics
    await counted.look(request.app.state.engine)
    return exposed(counted.registry)
