"""Which operation makes identical channels different: a tracer on PyTorch's dispatch."""

from symbreak.callbacks.tracing.tracer import trace
from symbreak.callbacks.tracing.verdict import Change, Event, Trace

__all__ = ["Change", "Event", "Trace", "trace"]
