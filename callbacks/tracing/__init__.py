"""Find the operation that makes identical channels differ, with a PyTorch dispatch mode."""

from symbreak.callbacks.tracing.tracer import trace
from symbreak.callbacks.tracing.verdict import Change, Event, Trace

__all__ = ["Change", "Event", "Trace", "trace"]
