"""What the doctor finds in the order of interactions: duplicates, ties, repeats, wrong times, no structure."""

from __future__ import annotations

import numpy as np

from longtail.data.findings import Facts, Finding, Level, Subject, share
from longtail.data.histories import IntArray
from longtail.data.shuffle_test import Runs, shuffle_test

DAY = 86_400
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
EARLY = 10**8  # times since 1973 are at least so many seconds, and less than so many milliseconds
CLEAR = 3.0  # times as many frequent runs as after shuffling: below, the order says little
FILE_ORDER = 1.5  # times as many in the order of the file as with ties in random order: the file's order is no chance
FEW = 10  # pairs of items that follow each other twice: with fewer, nothing can be told


def duplicates(subject: Subject) -> list[Finding]:
    """Rows that repeat user, item and time."""
    topic, rows = "duplicates", subject.data.interactions
    extra = rows.height - rows.n_unique()
    facts: Facts = {"rows": extra, "interactions": rows.height}
    if not extra:
        return [Finding("ok", topic, "no interaction is there twice (same user, item and time)", facts)]
    user, item, time = rows.filter(rows.is_duplicated()).row(0)
    text = (
        f"{extra:,} of {rows.height:,} interactions ({share(extra, rows.height)}) repeat another in user, item and "
        f"time (user {subject.user(user)}, item {subject.item(item)}, time {time}): they count double in popularity "
        "and can put the answer into the history; drop them, unless each is a purchase of its own"
    )
    return [Finding("warning", topic, text, facts)]


def ties(subject: Subject) -> list[Finding]:
    """Different items of a user at the same moment: their order is that of the file."""
    users, items, times = subject.users, subject.items, subject.times
    tied = (users[1:] == users[:-1]) & (times[1:] == times[:-1]) & (items[1:] != items[:-1])
    last = subject.last
    test, valid = tied[last - 1], tied[last - 2]
    concerned = np.unique(users[1:][tied])
    facts: Facts = {
        "users": len(concerned),
        "pairs": int(tied.sum()),
        "users_evaluated": len(last),
        "users_last_two": int(test.sum()),
        "users_valid_and_before": int(valid.sum()),
    }
    if not tied.any():
        return [Finding("ok", "ties", "no user has two items at the same time: the order is certain", facts)]
    where = share(test.sum(), len(last)) + (f"; {subject.user(users[last[test]][0])}" if test.any() else "")
    text = (
        f"{tied.sum():,} pairs of neighboring interactions of {len(concerned):,} users "
        f"({share(len(concerned), len(subject.data.users))}; such as {subject.user(concerned[0])}) have the same time, "
        f"so the file's order decides; for {test.sum():,} of {len(last):,} evaluated users ({where}) the test item, "
        "the last, could as well be the one before it. Give finer times, or read results as those of the next basket, "
        "not of the next item"
    )
    return [Finding("warning" if test.sum() > 0.01 * len(last) else "note", "ties", text, facts)]


def repeats(subject: Subject) -> list[Finding]:
    """The same user and item again at another time, and what leaving out seen items does then."""
    rows = subject.data.interactions.unique(maintain_order=False)
    again = rows.height - rows.select("user", "item").n_unique()
    width = len(subject.data.items) + 1
    pairs, counts = np.unique(subject.users * width + subject.items, return_counts=True)
    last = subject.last
    seen = counts[np.searchsorted(pairs, subject.users[last] * width + subject.items[last])] > 1
    facts: Facts = {
        "interactions": again,
        "share": again / rows.height,
        "targets_seen": int(seen.sum()),
        "targets": len(last),
    }
    if not again:
        return [Finding("ok", "repeats", "no user comes back to an item: leaving out seen items loses nothing", facts)]
    twice = rows.filter(rows.select("user", "item").is_duplicated()).sort("user", "item").row(0)
    text = (
        f"{again:,} of {rows.height:,} interactions ({share(again, rows.height)}) are of a user and an item that met "
        f"before (user {subject.user(twice[0])}, item {subject.item(twice[1])}), and {seen.sum():,} of {len(last):,} "
        f"last items ({share(seen.sum(), len(last))}) were in the history already. recommend() leaves out seen items, "
        "so it can never give these: pass exclude_seen=False if people do buy again, or keep the first of each pair"
    )
    return [Finding("warning" if seen.sum() >= 0.1 * len(last) else "note", "repeats", text, facts)]


def moments(subject: Subject) -> list[Finding]:
    """Times that cannot be right."""
    times, topic = subject.times, "times"
    first, last = int(times.min()), int(times.max())
    facts: Facts = {"first": first, "last": last}
    if first == last and len(times) > 1:
        text = (
            f"all {len(times):,} interactions have the same time, {first}: nothing tells which came first, so there is "
            "no sequence to learn; name the column of the time with --timestamp"
        )
        return [Finding("error", topic, text, facts)]
    if (kind := _positions(subject)) is not None:
        text = f"the times are {kind}: they give an order, but neither dates nor gaps; splits by date mean nothing here"
        return [Finding("note", topic, text, facts)]
    if _digits_of_dates(times):
        text = f"times such as {first} look like dates written as digits (YYYYMMDD): the order is right, gaps are not"
        return [Finding("note", topic, f"{text}; write them as 2024-05-31", facts)]
    found = _units(subject) + _early(subject) + _future(subject)
    if found:
        return found
    unit = _unit(times)
    if unit is None:
        text = f"the times run from {first:,} to {last:,}, which is no usual unit since 1970; only their order is used"
        return [Finding("note", topic, text, facts)]
    days = [str(np.datetime64(one // UNITS[unit], "s").astype("datetime64[D]")) for one in (first, last)]
    text = f"times are {unit} since 1970, from {days[0]} to {days[1]}"
    return [Finding("ok", topic, text, {**facts, "unit": unit, "from": days[0], "to": days[1]})]


def _positions(subject: Subject) -> str | None:
    """What the times count, if they count rows of the file or steps of a user; None if they are moments."""
    users, times = subject.users, subject.times
    if np.array_equal(np.sort(times), np.arange(len(times))):
        return "places in the file"
    begins = np.append(True, users[1:] != users[:-1])
    steps = np.diff(times)[~begins[1:]]
    if times[begins].max() <= 1 and (steps == 1).all():
        return "places in each user's history"
    return None


def _digits_of_dates(times: IntArray) -> bool:
    """Whether all are whole dates as eight digits."""
    years, months, days = times // 10_000, times // 100 % 100, times % 100
    inside = (years >= 1900) & (years < 2100) & (months >= 1) & (months <= 12) & (days >= 1) & (days <= 31)
    return bool(inside.all())


def _unit_of_each(times: IntArray) -> IntArray:
    """(n,) 0 seconds, 1 milliseconds, 2 microseconds, 3 nanoseconds, by their size, and -1 for what is before 1973."""
    sizes = [EARLY * 10 ** (3 * step) for step in range(len(UNITS))]
    return np.searchsorted(sizes, times, side="right").astype(np.int64) - 1


def _unit(times: IntArray) -> str | None:
    """The unit of most of the times, or None where most are too small for any."""
    units = _unit_of_each(times)
    common = int(np.bincount(units + 1).argmax()) - 1
    return None if common < 0 else list(UNITS)[common]


def _units(subject: Subject) -> list[Finding]:
    """Times in several units."""
    units, common = _unit_of_each(subject.times), _unit(subject.times)
    other = (units >= 0) & (units != list(UNITS).index(common)) if common else np.zeros(len(units), np.bool_)
    if not other.any():
        return []
    at = int(other.argmax())
    text = (
        f"{other.sum():,} of {len(units):,} times are not in {common}, as most are, but, by their size, in "
        f"{list(UNITS)[units[at]]} (user {subject.user(subject.users[at])}, time {subject.times[at]}): the order of "
        "histories is wrong; write all in one unit"
    )
    return [Finding("warning", "times", text, {"mixed_units": int(other.sum())})]


def _early(subject: Subject) -> list[Finding]:
    """Times about 1970 among later ones: 0 and -1 often stand for a missing time."""
    early = subject.times < EARLY
    if not early.any() or _unit(subject.times) is None:
        return []
    at = int(early.argmax())
    text = (
        f"{early.sum():,} of {len(early):,} times lie before 1973 (user {subject.user(subject.users[at])}, time "
        f"{subject.times[at]}), the others later: a missing time written as 0 puts an interaction at the beginning of "
        "its history; drop these rows or find their times"
    )
    return [Finding("warning", "times", text, {"early": int(early.sum())})]


def _future(subject: Subject) -> list[Finding]:
    """Times after tomorrow."""
    units = _unit_of_each(subject.times)
    scales = np.array([*UNITS.values(), 1])  # -1 picks the last
    late = (units >= 0) & (subject.times // scales[units] > subject.now + DAY)
    if not late.any():
        return []
    at = int(late.argmax())
    text = (
        f"{late.sum():,} of {len(late):,} times lie in the future (user {subject.user(subject.users[at])}, time "
        f"{subject.times[at]}): they stand at the end of histories, where the test items are; drop or mend them"
    )
    return [Finding("warning", "times", text, {"future": int(late.sum())})]


def structure(subject: Subject) -> list[Finding]:
    """The shuffle test of what the filter leaves (Klenitskiy et al., RecSys 2024)."""
    if subject.kept is None:
        return []
    columns = (subject.kept.interactions[name] for name in ("user", "item", "timestamp"))
    users, items, times = (column.to_numpy().astype(np.int64) for column in columns)
    found = shuffle_test(users, items, times)
    pairs, triples = found.pairs, found.triples
    facts: Facts = {"interactions": found.interactions}
    for name, runs in (("pairs", pairs), ("triples", triples)):
        kept = runs._asdict() | {"ratio": runs.ratio}
        facts |= {f"{name}_{key}": value for key, value in kept.items() if key != "n"}
    facts |= {"markov_hr@10": found.markov, "markov_hr@10_shuffled": found.markov_shuffled}
    level, verdict = _verdict(pairs, triples)
    text = (
        f"{verdict}: {pairs.found:,.0f} pairs of items follow each other at least {pairs.support} times, "
        f"{pairs.shuffled:,.0f} after shuffling inside users ({pairs.ratio:.2g} times); {triples.found:,.0f} triples "
        f"{triples.support} times, {triples.shuffled:,.0f} after ({triples.ratio:.2g} times). The item that most often "
        f"followed the last one is a user's next in the first 10 for {share(found.markov, 1)} of users, "
        f"{share(found.markov_shuffled, 1)} after shuffling. {_advice(level)}"
    )
    if pairs.as_read > FILE_ORDER * (pairs.found + FEW):
        text += (
            f" In the order of the file there are {pairs.as_read:,} such pairs: inside ties the file has an order of "
            "its own, which a model would learn and which may mean nothing"
        )
    return [Finding(level, "structure", text, facts)]


def _verdict(pairs: Runs, triples: Runs) -> tuple[Level, str]:
    beyond = [runs.ratio for runs in (pairs, triples) if runs.beyond_chance]
    if pairs.recurring < FEW:
        return "note", "too few runs of items recur to tell whether the order matters"
    if not beyond:
        return "warning", "the order looks random"
    if max(beyond) < CLEAR:
        return "warning", "the order matters little"
    return "ok", "the order matters"


def _advice(level: Level) -> str:
    if level == "warning":
        return "Compare with a method that ignores the order before a sequential one is trusted or tuned."
    return "Sequential methods have something to learn." if level == "ok" else "More interactions would tell."
