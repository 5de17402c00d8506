"""Judges of what a subscription to all events delivered, as a `History` has it. See `shoal.testing.history_checks`."""

from __future__ import annotations

from shoal.testing.history import DRAIN, History, Operation


def check_deliveries(history: History) -> list[str]:
    """What was delivered is in the store; once all is drained nothing was left out, and nothing settled came again.

    While nodes fail, an event may come twice: a leader that was overthrown, and does not know it yet, delivers too.
    """
    pulls = [each for each in history.operations if each.kind == "pull" and each.applied]
    delivered: set[str] = set()
    found: list[str] = []
    for pull in pulls:
        for event in pull.events:
            delivered.add(event.event_id)
            if history.by_position.get(event.position) != event and not history.may_be_deleted(event):
                found.append(f"{pull} delivered {event}, which the store does not have")
    drained = [pull for pull in pulls if pull.client == DRAIN]
    if drained:
        found += _left_out(history, delivered)
        found += _came_again(history, drained)
    return found


def _left_out(history: History, delivered: set[str]) -> list[str]:
    return [
        f"event {event.event_id} at position {event.position} was delivered to nobody"
        for event in history.final
        if event.event_id not in delivered
    ]


def _came_again(history: History, drained: list[Operation]) -> list[str]:
    acks = [each for each in history.operations if each.kind == "ack" and each.applied]
    settled = {event.event_id: ack for ack in acks if ack.client != DRAIN for event in ack.events}
    return [
        f"event {event.event_id} was settled by {settled[event.event_id]}, and delivered again by {pull}"
        for pull in drained
        for event in pull.events
        if event.event_id in settled
    ]
