"""Lanes: how much is asked of one upload account at once, and how quickly.

NetStorage publishes no limits: it answers 429 or 5xx, or slows down, when an account asks too much. So each account has
a `Window`, the number of places for keys at work, which finds the limit by AIMD as TCP does (RFC 5681, section 3.1):

    it grows    by one place for each window's worth of good answers, while at least half of it is in use
    it is cut   to seven tenths (the factor of RFC 9438) by a 429 or 5xx, by a connection that fails or breaks, and by a
                latency far above its own baseline; once for each round trip: what was asked before the last cut does
                not count, it says nothing about the smaller window
    it rests    when it is down to one place and still refused: 0.5 s at first, twice that each time; and for as long
                as a Retry-After asks

It begins wide open: an account that never refuses never waits. Latency is taken from small requests only, for that of a
large body says more about its size, and for each action by itself: uploads after many stats are no sign of a server
that has become slow. It cuts to LATENCY_PLACES at the least, as a server that is slow by itself is not helped by less,
and what is slow for ten minutes becomes the new baseline.

A place is taken before the S3 GET, so no S3 connection idles while NetStorage makes us wait, and is held until the key
is done. Places go out in the order in which they were asked for.

**Slow accounts must not take the worker's slots from another.** A key at work, or waiting for a place, holds a slot,
and a message's account is known only once it has been received; so what an account may hold is decided here, and who
may not hold a slot is given back to the queue, which frees it for the next message. `Shares` is the rule:

    a floor     each account of the settings may always hold so many slots: what others lack of their floors is nobody's
    the rest    is shared by those who have work: each may hold up to SPARE_TIMES as many as nobody holds. So one alone
                gets three quarters of it, two get three sevenths each, n get 3 / (3n + 1), and whoever wants less
                leaves it to the others: max-min fairness, with a part left for who comes next (Choudhury and Hahne,
                "Dynamic queue length thresholds for shared-memory packet switches", 1998)

That floors hold rests on one invariant: slots held + slots lacking of floors <= slots. It is so at first, as the floors
together are an eighth. An account below its floor takes what it lacks: the sum stays. One above takes only what is
spare: the sum stays within. Who leaves may lack one more, and holds one less. So however slow, however many the others
are, an account below its floor is let in. Messages that are not urgent (bulk, and all checks but one at a time) may not
have the slots kept for live ones: they share what is spare below those, by what each account holds for such messages.

Giving back costs the key a stat and a Check later, since it comes back as a later attempt, and the queue would hand the
worker the next key of the same account at once. So who may hold no slot lingers a little: an account that is busy and
quick has a place within LINGER_S. Only if it had none, its keys are sent back at once for a while (HURRY_S). A single
account shares with nobody: it has no `Shares`, and its line is as long as there are slots.

`Bucket` holds the rates that the user sets. It sells on credit: whoever takes is told how long to wait before using
what it took, so those who come together go in order, and nobody needs to be woken.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from s3nsync.errors import BadAnswer, S3nsyncError, TargetUnavailable, TlsRefused, TransportError

CUT_TO = 0.7
"""What a cut leaves of the window: CUBIC's factor (RFC 9438, section 4.6), gentler than the half of RFC 5681."""

REST_FIRST_S, REST_MAX_S = 0.5, 15.0
"""How long an account rests that refuses even a single place."""

ASKED_MAX_S = 60.0
"""The longest Retry-After that all keys of an account wait for; the refused key itself waits for all of it."""

SMALL_BYTES = 64 * 1024
"""A request of at most this size takes as long as the server does, not as long as its body."""

SLOW_TIMES, SLOW_S = 4.0, 0.25
"""A latency is far above its baseline when it is more than so many times as long, and so much longer on top."""

SMOOTHING = 1 / 8
"""The weight of the newest latency in their mean: that of TCP's round-trip time (RFC 6298)."""

EPOCH_S = 300.0
"""The baseline is the least mean latency in this epoch and the one before it."""

LATENCY_PLACES = 8
"""Latency alone never cuts below this."""

TELL_EVERY_S = 30.0
"""A busy account is cut every few round trips: its log line comes no more often than this."""

SPARE_TIMES = 3
"""How many slots an account may hold for each that is spare: one alone gets three quarters."""

FLOORS_PART = 8
"""All floors together are this part of the slots, if that is one for each account; a line is as long as a floor."""

LINGER_S, HURRY_S = 0.5, 5.0
"""How long a key waits beyond its account's share; and for how long none does once that was in vain. The slots that
others may need are in its way for a tenth of the time at most."""

STREAM_WAIT_S = 20.0
"""The longest that a stream may stand still for its turn at `bytes_per_s`: a third of the servers' idle time-out."""


class Latency:
    """The mean latency of late, and what it is at best."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self.mean_s: float | None = None
        self._epoch_ends_s = -inf
        self._least_s = self._least_before_s = inf

    def add(self, latency_s: float, now_s: float) -> bool:
        """Take one request into account, and say whether the mean is far above its baseline now."""
        mean_s = latency_s if self.mean_s is None else self.mean_s + (latency_s - self.mean_s) * SMOOTHING
        self.mean_s = mean_s
        if now_s >= self._epoch_ends_s:
            self._least_before_s, self._least_s = self._least_s, mean_s
            self._epoch_ends_s = now_s + EPOCH_S
        self._least_s = min(self._least_s, mean_s)
        return mean_s > min(self._least_s, self._least_before_s) * SLOW_TIMES + SLOW_S


class Window:
    """How many keys of one account may be at work: between one and `most`, as its answers go. Times are monotonic."""

    def __init__(self, most: int) -> None:
        """Begin wide open."""
        self.most = most
        self.size = float(most)
        self.closed_until_s = -inf
        self.cuts = 0
        self.rests = 0
        self._latencies: dict[str, Latency] = {}
        self._cut_s = -inf
        self._rest_s = 0.0

    @property
    def places(self) -> int:
        """How many there are now."""
        return int(self.size)

    def answered(self, action: str, began_s: float, now_s: float, *, in_use: int, small: bool) -> bool:
        """Note a good answer to what was asked at `began_s`; say whether it cut the window, by its latency."""
        self._rest_s = 0.0
        if small and self._is_slow(action, now_s - began_s, now_s) and self.size > LATENCY_PLACES:
            return self._cut(began_s, now_s, least=LATENCY_PLACES)
        if in_use * 2 >= self.places:
            self.size = min(float(self.most), self.size + 1 / self.size)
        return False

    def refused(self, began_s: float, now_s: float, asked_s: float | None) -> bool:
        """Note that the account refused, and for how long it asked us to wait; say whether that cut the window."""
        if asked_s is not None:
            self._close(now_s, min(asked_s, ASKED_MAX_S))
        if self.size == 1.0 and began_s > self._cut_s:
            self._rest_s = min(REST_MAX_S, max(REST_FIRST_S, self._rest_s * 2))
            self._close(now_s, self._rest_s)
        return self._cut(began_s, now_s)

    def failed(self, began_s: float, now_s: float) -> bool:
        """Note that no answer came; say whether that cut the window."""
        return self._cut(began_s, now_s)

    def _is_slow(self, action: str, latency_s: float, now_s: float) -> bool:
        latency = self._latencies.get(action)
        if latency is None:
            latency = self._latencies[action] = Latency()
        return latency.add(latency_s, now_s)

    def _cut(self, began_s: float, now_s: float, least: int = 1) -> bool:
        if began_s <= self._cut_s:
            return False
        self._cut_s = now_s
        self.size = max(float(least), self.size * CUT_TO)
        self.cuts += 1
        return True

    def _close(self, now_s: float, for_s: float) -> None:
        self.rests += now_s >= self.closed_until_s
        self.closed_until_s = max(self.closed_until_s, now_s + for_s)


class Bucket:
    """A token bucket on credit: `per_s` tokens come in each second, and at most one second's worth is kept."""

    def __init__(self, per_s: float, now_s: float) -> None:
        """Begin full."""
        self._per_s = per_s
        self._level = self._most = max(1.0, per_s)
        self._seen_s = now_s

    def take(self, tokens: float, now_s: float) -> float:
        """Take tokens, and give the seconds to wait before using them."""
        self._level = min(self._most, self._level + (now_s - self._seen_s) * self._per_s) - tokens
        self._seen_s = now_s
        return max(0.0, -self._level / self._per_s)


@dataclass(frozen=True, slots=True)
class LaneFigures:
    """The gauges of one lane, and its counts since the start."""

    window: int
    in_use: int
    waiting: int
    cuts: int
    rests: int


class Shares:
    """How several accounts share the worker's slots; `kept_for_live` of them are for urgent messages only."""

    def __init__(self, accounts: int, slots: int, kept_for_live: int) -> None:
        """Begin with every slot free; there are no floors where there are fewer slots than accounts."""
        self.floor = min(max(1, slots // (FLOORS_PART * accounts)), slots // accounts)
        self.slots = slots
        self.held = 0
        self.lacking = self.floor * accounts
        self.lanes: list[Lane] = []
        self._kept_for_live = kept_for_live

    def take(self, lane: Lane, *, urgent: bool) -> bool:
        """Let the lane hold one more slot, if it may."""
        if lane.held < self.floor:
            self.lacking -= 1
        elif not self._may_have_more(lane, urgent=urgent):
            return False
        lane.held += 1
        lane.held_for_bulk += not urgent
        self.held += 1
        return True

    def give(self, lane: Lane, *, urgent: bool) -> None:
        """Note that the lane holds one less, and let those in who may have it: first the lane that holds least."""
        lane.held -= 1
        lane.held_for_bulk -= not urgent
        self.held -= 1
        if lane.held < self.floor:
            self.lacking += 1
        waiting = [each for each in self.lanes if each.waits]
        for each in sorted(waiting, key=_held) if len(waiting) > 1 else waiting:
            each.serve()

    def _may_have_more(self, lane: Lane, *, urgent: bool) -> bool:
        spare = self.slots - self.held - self.lacking
        if urgent:
            return lane.held < SPARE_TIMES * spare
        return lane.held_for_bulk < SPARE_TIMES * (spare - self._kept_for_live)


def _held(lane: Lane) -> int:
    return lane.held


@dataclass(slots=True, eq=False)
class _Turn:
    """Somebody in line; one who does not hold a slot of the account's share lingers."""

    comes: asyncio.Future[bool]
    urgent: bool
    holds: bool
    patience: asyncio.TimerHandle | None = None


class Lane:
    """The way to one upload account: places in its window, and its rates."""

    def __init__(
        self,
        most: int,
        clock_s: Callable[[], float],
        *,
        shares: Shares | None = None,
        requests_per_s: float | None = None,
        bytes_per_s: float | None = None,
        on_cut: Callable[[int, str], None] = lambda _places, _reason: None,
    ) -> None:
        """Open `most` places. `shares` is for one of several accounts; `on_cut` gets the places left and why.

        `clock_s` is monotonic. The rates are for all keys of the account together; None sets no limit.
        """
        self.window = Window(most)
        self.in_use = 0
        self.held = self.held_for_bulk = 0
        self._clock_s = clock_s
        self._shares = shares
        if shares is not None:
            shares.lanes.append(self)
        self._requests = None if requests_per_s is None else Bucket(requests_per_s, clock_s())
        self._bytes = None if bytes_per_s is None else Bucket(bytes_per_s, clock_s())
        self._on_cut = on_cut
        self._told_s = -inf
        self._hurried_until_s = {True: -inf, False: -inf}
        self._waiting: deque[_Turn] = deque()
        self._alarm: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        """Show how much is in use and how many wait."""
        return f"Lane({self.in_use} of {self.window.places} places in use, {len(self._waiting)} waiting)"

    @property
    def waits(self) -> bool:
        """Whether anybody stands in line."""
        return bool(self._waiting)

    def figures(self) -> LaneFigures:
        """Give what metrics show."""
        window = self.window
        return LaneFigures(window.places, self.in_use, len(self._waiting), window.cuts, window.rests)

    # --- places ---

    def enter_at_once(self, *, urgent: bool = True) -> bool:
        """Take a place if there is one, and nobody waits for it. Who enters must `leave`, in the same urgency."""
        if self._waiting or not self._has_room():
            return False
        if self._shares is not None and not self._shares.take(self, urgent=urgent):
            return False
        self.in_use += 1
        return True

    async def enter(self, *, urgent: bool = True) -> bool:
        """Take a place, waiting in line for it; False if the slot is rather to be another account's.

        `urgent`: the message is one of those that every slot is open to.
        """
        if self.enter_at_once(urgent=urgent):
            return True
        holds = self._may_line_up(urgent=urgent)
        if not holds and self._clock_s() < self._hurried_until_s[urgent]:
            return False
        turn = _Turn(asyncio.get_running_loop().create_future(), urgent, holds)
        self._waiting.append(turn)
        if not holds:
            turn.patience = asyncio.get_running_loop().call_later(LINGER_S, self._send_away, turn)
        self.serve()  # the others may all wait for what this one has, or needs not
        try:
            return await turn.comes
        except asyncio.CancelledError:
            self._leave_line(turn)
            raise
        finally:
            if turn.patience is not None:
                turn.patience.cancel()

    def leave(self, *, urgent: bool = True) -> None:
        """Give the place back."""
        self.in_use -= 1
        if self._shares is not None:
            self._shares.give(self, urgent=urgent)
        elif self._waiting:
            self.serve()

    def serve(self) -> None:
        """Let those in line in who may come in now, in their order."""
        while self._waiting and self._has_room():
            turn = next((each for each in self._waiting if self._may_enter(each)), None)
            if turn is None:
                break
            self.in_use += 1
            self._waiting.remove(turn)
            turn.comes.set_result(True)
        self._wake_in_time()

    def _has_room(self) -> bool:
        window = self.window
        return self.in_use < window.places and (
            window.closed_until_s == -inf or self._clock_s() >= window.closed_until_s
        )

    def _may_line_up(self, *, urgent: bool) -> bool:
        """Say whether one more may stand in line for as long as it takes, and let it hold its slot if so."""
        shares = self._shares
        if shares is None:
            return True
        return self.held - self.in_use < shares.floor and shares.take(self, urgent=urgent)

    def _may_enter(self, turn: _Turn) -> bool:
        """Say whether one in line may have a place; one whose turn is done was cancelled, and leaves by itself."""
        if turn.comes.done():
            return False
        return turn.holds or (self._shares is not None and self._shares.take(self, urgent=turn.urgent))

    def _send_away(self, turn: _Turn) -> None:
        """Let one linger no longer, nor any other of its urgency for a while."""
        if not turn.comes.done():
            self._waiting.remove(turn)
            self._hurried_until_s[turn.urgent] = self._clock_s() + HURRY_S
            turn.comes.set_result(False)

    def _leave_line(self, turn: _Turn) -> None:
        """See to what a cancelled one had."""
        if not turn.comes.cancelled():  # its turn came in the same moment
            if turn.comes.result():
                self.leave(urgent=turn.urgent)
            return
        self._waiting.remove(turn)
        if turn.holds and self._shares is not None:
            self._shares.give(self, urgent=turn.urgent)

    def _wake_in_time(self) -> None:
        """Serve when the rest is over: nobody may be at work then who would do it on leaving."""
        left_s = self.window.closed_until_s - self._clock_s() if self._waiting else 0.0
        if left_s > 0 and self._alarm is None:
            self._alarm = asyncio.get_running_loop().call_later(left_s + 0.001, self._wake)

    def _wake(self) -> None:
        self._alarm = None
        self.serve()

    # --- rates ---

    def toll_s(self, *, requests: int = 0, size_bytes: int = 0) -> float:
        """Count what is about to be sent, and give the seconds to wait before sending it."""
        if self._requests is None and self._bytes is None:
            return 0.0
        now_s = self._clock_s()
        return max(
            self._requests.take(requests, now_s) if self._requests is not None and requests else 0.0,
            self._bytes.take(size_bytes, now_s) if self._bytes is not None and size_bytes else 0.0,
        )

    # --- what the account says ---

    def now_s(self) -> float:
        """Give the lane's time: note it when a request begins."""
        return self._clock_s()

    def answered(self, action: str, began_s: float, *, size_bytes: int = 0) -> None:
        """Note that a request with so long a body went well; like is compared with like, so `action` says which."""
        small = size_bytes <= SMALL_BYTES
        if self.window.answered(action, began_s, self._clock_s(), in_use=self.in_use, small=small):
            self._tell("its answers take much longer than they did")
        elif self._waiting:
            self.serve()

    def failed(self, error: S3nsyncError, began_s: float) -> None:
        """Note that a request failed: only what speaks of too much asked for counts."""
        now_s = self._clock_s()
        if isinstance(error, TargetUnavailable):
            cut = self.window.refused(began_s, now_s, error.retry_after_s)
        elif isinstance(error, TransportError) and not isinstance(error, TlsRefused | BadAnswer):
            cut = self.window.failed(began_s, now_s)
        else:
            return
        if cut:
            self._tell(error.message)

    def _tell(self, reason: str) -> None:
        now_s = self._clock_s()
        if now_s - self._told_s >= TELL_EVERY_S:
            self._told_s = now_s
            self._on_cut(self.window.places, reason)


def places_for(most: int, bytes_per_s: float | None, piece_bytes: int) -> int:
    """Give how many places make sense: at a byte rate so few that no stream stands still longer than STREAM_WAIT_S.

    `piece_bytes` is the most that one key sends between two of its turns.
    """
    if bytes_per_s is None:
        return most
    return max(1, min(most, int(bytes_per_s * STREAM_WAIT_S / piece_bytes)))
