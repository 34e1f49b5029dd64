"""What one message's log says, and many messages' together."""

import csv
import math

PERCENTILES = (50, 99, 99.9)
ENDS = ("acknowledged", "refused", "interrupted", "in-doubt")
# Longer without a single answer is time without service.
GAP_MS = 100


def read_log(path):
    """Per message: number, when it was due and how long it took (seconds), how it ended."""
    with open(path, newline="") as file:
        rows = csv.DictReader(file)
        return [(int(r["number"]), int(r["due_us"]) / 1e6, int(r["took_us"]) / 1e6, r["outcome"]) for r in rows]


def percentile(ordered, percent):
    """The nearest rank."""
    if not ordered:
        return None
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def times(messages, begin=0.0, end=float("inf")):
    """Milliseconds from when those acknowledged were due until they were, in order."""
    return sorted(took * 1e3 for _, due, took, end_ in messages if end_ == "acknowledged" and begin <= due < end)


def gaps(messages, duration):
    """Times without any acknowledgement, in milliseconds: all of those over GAP_MS, within the schedule."""
    at = sorted(due + took for _, due, took, end in messages if end == "acknowledged")
    inside = [0.0, *[moment for moment in at if moment < duration], duration]
    return [(b - a) * 1e3 for a, b in zip(inside, inside[1:]) if (b - a) * 1e3 > GAP_MS]


def one_round(messages, taken, load, plan):
    """The figures of a round. `taken`: how often the sinks took each message, by its number; `load`: the bench's own."""
    unsent = load["unsent"]
    ends = {end: sum(1 for message in messages if message[3] == end) for end in ENDS}
    acknowledged = [message[0] for message in messages if message[3] == "acknowledged"]
    counted = [taken[message[0]] for message in messages]
    return {
        **{end.replace("-", "_"): count for end, count in ends.items()},
        "unsent": unsent,
        "sessions_lost": sum(load["connection_errors"].values()),
        "errors": sum(ends.values()) - ends["acknowledged"] + unsent,
        "lost": sum(1 for number in acknowledged if taken[number] == 0),
        "twice": sum(count - 1 for count in counted if count > 1),
        "no_service_ms": gaps(messages, plan["end"]),
    }


def summary(rounds, plan):
    """Those of all rounds of a relay together; `rounds`: pairs of messages and figures."""
    messages = [message for messages, _ in rounds for message in messages]
    all_times = times(messages)
    phases = {
        "one slow": (0, plan["stop"]),
        "one stopped": (plan["stop"], plan["continue"]),
        "one killed": (plan["kill"], plan["restart"]),
    }
    silent = [gap for _, figures in rounds for gap in figures["no_service_ms"]]
    total = lambda key: sum(figures[key] for _, figures in rounds)
    return {
        "messages": len(messages) + total("unsent"),
        **{f"p{percent}_ms": percentile(all_times, percent) for percent in PERCENTILES},
        "max_ms": all_times[-1] if all_times else None,
        "over_1s": sum(1 for each in all_times if each > 1000),
        "p99_ms_by_phase": {name: percentile(times(messages, *span), 99) for name, span in phases.items()},
        **{key: total(key) for key in ("errors", "refused", "interrupted", "in_doubt", "unsent", "sessions_lost", "lost", "twice")},
        "no_service_longest_ms": max(silent, default=0.0),
        "no_service_total_ms": sum(silent),
    }
