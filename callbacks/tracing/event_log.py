"""The events of a trace, named when they occur or once their tensor is identified."""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import replace

from torch import Tensor

from symbreak.callbacks.tracing.memory import NOTHING, Causes
from symbreak.callbacks.tracing.places import Place, Places
from symbreak.callbacks.tracing.verdict import INITIAL, Event, Kind

Axis = tuple[str, int]
"""Name of a weight, and one of its axes."""


class EventLog:
    """Number the events and name their tensors.

    Args:
        events: List to which events are appended.
        places: Current place of execution, and names of tensors.
        first_step: Number of updates before the trace.
    """

    def __init__(self, events: list[Event], places: Places, first_step: int) -> None:
        self._events, self._places, self._first_step = events, places, first_step
        self._unnamed: dict[int, list[int]] = {}

    def add(
        self,
        kind: Kind,
        operation: str,
        tensor: Tensor,
        axis: int,
        groups: int,
        index: int,
        ulps: float | None = None,
        subject: str | None = None,
        place: Place | None = None,
        convolution: str = "",
    ) -> Causes:
        """Add an event about an axis of a tensor; return its number as a cause."""
        place = place or (Place("start", "", None) if operation == INITIAL else self._places.place())
        event = Event(
            number=len(self._events),
            kind=kind,
            operation=operation,
            subject=self._subject(tensor, place) if subject is None else subject,
            place=place,
            step=self._first_step + (0 if operation == INITIAL else self._places.steps + 1),
            dtype=str(tensor.dtype).removeprefix("torch."),
            shape=tuple(tensor.shape),
            axis=axis,
            groups=groups,
            ulps=ulps,
            index=index,
            convolution=convolution,
        )
        self._events.append(event)
        if subject is None and "backward" in place.phase:
            self._unnamed.setdefault(tensor.untyped_storage()._cdata, []).append(event.number)
        return frozenset({event.number})

    def name_gradient(self, gradient: Tensor, name: str) -> None:
        """Name the parameter in earlier events about a tensor that is now known to be its gradient."""
        for number in self._unnamed.pop(gradient.untyped_storage()._cdata, []):
            self._events[number] = replace(self._events[number], subject=name)

    def kind(self, number: int) -> Kind:
        """Return the kind of an event."""
        return self._events[number].kind

    def forget(self, tensor: Tensor) -> None:
        """Stop relating a tensor's storage to earlier events: another tensor uses it now."""
        self._unnamed.pop(tensor.untyped_storage()._cdata, None)

    def explain(self, reached: dict[Axis, Causes], known: Set[Axis]) -> tuple[set[Axis], set[Axis]]:
        """Return the axes that index classes and input features, and attribute what labels or data explain to these.

        Two classes that occur equally often, or two pixels that are equal in some batches, have equal weights by
        chance; a difference between them breaks no symmetry. Events that reached only axes that index classes are
        attributed to labels. Values, such as a momentum buffer that holds earlier batches, that reached only axes
        that index input features are attributed to data.

        Args:
            reached: Causes by weight name and axis.
            known: Axes that index input features as an earlier trace showed; in this one their gradient may be 0.
        """
        features = self._attribute("data", reached, lambda event: event.kind == "values", known)
        return self._attribute("labels", reached, lambda event: True), features

    def _attribute(
        self,
        kind: Kind,
        reached: dict[Axis, Causes],
        applies: Callable[[Event], bool],
        known: Set[Axis] = frozenset(),
    ) -> set[Axis]:
        """Return the axes that an event of a kind reached, and give events that reached only these that kind."""
        explained = {key for key, causes in reached.items() if any(self._events[n].kind == kind for n in causes)}
        explained |= known & reached.keys()
        elsewhere = NOTHING.union(*(causes for key, causes in reached.items() if key not in explained))
        for number in NOTHING.union(*(reached[key] for key in explained)) - elsewhere:
            if applies(self._events[number]):
                self._events[number] = replace(self._events[number], kind=kind)
        return explained

    def _subject(self, tensor: Tensor, place: Place) -> str:
        name = self._places.name(tensor)
        if name is not None or not place.module:
            return name or ""
        return f"{'gradient in' if 'backward' in place.phase else 'output of'} {place.module}"
