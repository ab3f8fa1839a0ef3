"""What the outside may see of a running worker: metrics, health and logs."""

from worker.observe.records import Observer, Observers, Record

__all__ = ["Observer", "Observers", "Record"]
