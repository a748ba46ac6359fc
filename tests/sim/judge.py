"""What is held against a run: the promises of docs/design.md, at each step and at rest.

    when a write leaves          G2, G3, G6 and rule 1: did its hand look, declare size and digest, hold a lease?
    when it lands                G3: did S3 ever have these bytes?
    when a message is removed    G5: did its hand look later than it received, and NetStorage confirm what it saw?
                                 G4, the debt ledger: is everything that is stale, or may still land, owed by something?
    when a message is buried     G7: does it say why, and since when?
    when a hand reports          G8: are slots and bytes within their bounds?
    when a process ends          G8: are all of them given back?
    at rest                      G1 and G4: is NetStorage equal to S3? G7: is every message accounted for?

An object that cannot be read yet (archived) may differ at rest, if it was reported as set aside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from s3nsync.events import Burial
from s3nsync.model import Ignored, ObjectRef, Report
from sim.facts import path_of, ref_of, show
from sim.loop import HOST
from sim.model_netstorage import DIGESTS, Flight, NetStorageModel, data_of
from sim.model_s3 import S3
from sim.queues import Queues
from sim.sqs import Message
from sim.watch import LOOK, Look, Watch

if TYPE_CHECKING:
    from sim.simulation import Process


@dataclass(eq=False)
class Judge:
    """Looks at everything, changes nothing."""

    watch: Watch
    s3: S3
    store: NetStorageModel
    queues: Queues
    slots: int
    trailers: bool
    looks: list[Look]
    processes: list[Process]
    set_aside: set[ObjectRef] = field(default_factory=set)

    # --- writes ---

    def on_departure(self, flight: Flight) -> None:
        """Judge a write that can no longer be called back."""
        ref, look = ref_of(flight.path), flight.look
        if ref is None:
            self.watch.violate("G6", f"a write outside of the route: {flight.path}")
        elif look is None or look.ref != ref:
            self.watch.violate("G2", f"a write to {flight.path} without a look at its object")
        elif flight.data is None and look.at_s < 0:
            self.watch.violate("G2", f"delete of {flight.path}, though S3 had not answered")
        elif flight.data is None and look.data is not None:
            self.watch.violate("G2", f"delete of {flight.path}, though S3 had said {show(look.data)}")
        elif look.host.behind_s == 0.0 and not self.queues.holds(look):
            self.watch.violate("rule 1", f"a write to {flight.path} without a lease, though the clock was right")
        elif flight.data is not None:
            self._judge_declaration(flight)

    def _judge_declaration(self, flight: Flight) -> None:
        if "size" not in flight.options:
            self.watch.violate("G3", f"an upload to {flight.path} without its size")
        elif self.trailers and not DIGESTS & flight.options.keys():
            self.watch.violate("G3", f"an upload to {flight.path} without a digest")

    def on_landing(self, flight: Flight, data: bytes) -> None:
        """Judge the bytes that NetStorage takes; without a digest only the stat afterwards can tell."""
        ref = ref_of(flight.path)
        proven = self.trailers or DIGESTS & flight.options.keys()
        if ref is not None and proven and data not in self.s3.versions.get(ref, ()):
            self.watch.violate("G3", f"{flight.path} holds {data!r}, which S3 never had")

    # --- messages ---

    def on_removed(self, message: Message, look: Look | None, *, acked: bool) -> None:
        """Judge a message's end, by ack or by burial."""
        looked = look is not None and look.at_s >= message.received_at_s
        confirmed = look is not None and (look.confirmed_at_s == look.at_s or look.archived)
        if acked and not (looked and confirmed):
            self.watch.violate("G5", f"{message.receipt} was acked without a confirmed look")
        if look is not None:
            look.removed += 1
        self._balance(message, look)

    def on_burial(self, burial: Burial) -> None:
        """Judge an entry of the dead-letter queue: a person must be able to act on it, whatever the worker's clock."""
        host = HOST.get()
        behind_s = host.behind_s if host is not None else 0.0
        if not burial.reason or not 0 < burial.first_attempt_s <= burial.last_attempt_s + behind_s + 1.0:
            self.watch.violate("G7", f"an entry that does not say why and since when: {burial}")

    def _balance(self, message: Message, acker: Look | None) -> None:
        """Keep the ledger: what is stale or may still land must be owed by something."""
        ref = self.queues.refs[message.group]
        owing = self.queues.owing(ref)
        is_stale = self._held(ref) != self.s3.data(ref) and ref not in self.s3.archived
        busy = [each for each in self.looks if each.ref == ref and each is not acker and each.is_at_work]
        if is_stale and not (owing or busy or self.queues.underway[ref]):
            self.watch.violate("G4", f"{ref.key} is stale after the ack of {message.receipt}, and nothing owes it")
        for flight in self.store.flights:
            if flight.path == path_of(ref) and not self._is_owed(flight, owing, acker):
                what = "delete" if flight.data is None else f"upload of {show(flight.data)}"
                self.watch.violate("G4", f"a {what} may land after the ack of {message.receipt}, and nothing owes it")

    def _is_owed(self, flight: Flight, owing: list[Message], acker: Look | None) -> bool:
        """Say whether somebody will look at the key after this write has landed."""
        if flight.look is not None and flight.look is not acker and flight.look.is_at_work:
            return True
        dead = set(map(id, self.queues.dead.messages))
        checks = {id(each) for each in self.queues.check.messages if each.sent_at_s >= flight.sent_at_s}
        return any(id(each) in checks or (each.receives > 0 and id(each) not in dead) for each in owing)

    def _held(self, ref: ObjectRef) -> bytes | None:
        return data_of(self.store.now(path_of(ref)))

    # --- processes ---

    def on_report(self, report: Report) -> None:
        """Note what a hand has reported, and judge the bounds."""
        look = LOOK.get()
        if look is not None:
            look.reported = report
        if isinstance(report.outcome, Ignored) and report.outcome.set_aside and report.change is not None:
            self.set_aside.add(report.change.ref)
        for process in self.processes:
            over = process.budget.in_use_bytes > process.budget.total_bytes
            if over or process.worker.in_flight > self.slots:
                self.watch.violate("G8", f"{process.worker!r}, {process.budget!r}")

    def on_end(self, process: Process) -> None:
        """Judge a process that has left by itself."""
        assert process.task is not None
        error = process.task.exception()
        slots = process.worker._slots
        if error is not None:
            self.watch.violate("bug", f"{process.host} died of {error!r}")
        elif slots.free != slots.total or process.is_busy:
            left = f"{process.worker!r}, {process.budget!r}, {process.lane!r}"
            self.watch.violate("G8", f"{process.host} left with {left}")

    # --- at rest ---

    def at_rest(self) -> None:
        """Hold NetStorage against S3, and the messages against the reports."""
        for ref in sorted(set(self.s3.versions) | set(self.queues.refs.values())):
            held, truth = self._held(ref), self.s3.data(ref)
            if ref in self.s3.archived and held != truth:
                if ref not in self.set_aside and not self._died_saying_so(ref):
                    self.watch.violate("G7", f"{ref.key} is archived, and nobody has said that it waits")
            elif held != truth:
                self.watch.violate("G1", f"at rest {ref.key} is {show(held)} on NetStorage and {show(truth)} in S3")
        self._count()

    def _died_saying_so(self, ref: ObjectRef) -> bool:
        """Say whether a worker was killed after its ack of an archived object and before the line in its log."""
        return any(each.ref == ref and each.archived and each.removed and each.host.dead for each in self.looks)

    def _count(self) -> None:
        """Hold the sum: sent = done + coalesced + set aside + buried + queued, and what died unreported (G7)."""
        for look in self.looks:
            report = look.reported
            if report is None and not look.host.dead:
                self.watch.violate("G7", f"{look.host} ended its work on {look.ref.key} without a report")
            elif report is not None and report.verb in {"ack", "bury"} and look.removed != 1 + report.coalesced:
                self.watch.violate("G7", f"{look.host} reported {report}, and {look.removed} messages had gone")
        queues = (self.queues.live, self.queues.bulk, self.queues.check)
        sent = sum(queue.accepted for queue in queues)
        settled = sum(look.removed for look in self.looks)
        left = sum(len(queue.messages) for queue in queues)
        moved = self.queues.moved
        if sent != settled + left + moved:
            self.watch.violate("G7", f"of {sent} sent {settled} are settled, {left} queued, {moved} moved by SQS")
