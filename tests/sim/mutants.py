"""Deliberate bugs, and the search for them: `python tests/sim/mutants.py [--seeds N] [name ...]`.

Each mutant is an edit to a temporary copy of the source. The simulation plays seeds against it until a promise breaks;
a mutant that survives all of them shows a hole in the simulation, or that its rule is only a second line of defence.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parents[1] / "src" / "s3nsync"
REPLICATOR, UPLOADS = "engine/replicator.py", "engine/uploads.py"
ACCESS, DEBT = "engine/access.py", "engine/debt.py"
SETTLER, SETTLEMENT, LOOP = "worker/settler.py", "worker/settlement.py", "worker/loop.py"


@dataclass(frozen=True, slots=True)
class Edit:
    """In one file of the package, `old` (which must be there once) becomes `new`."""

    file: str
    old: str
    new: str

    def fits(self) -> bool:
        """Say whether the line is still there, once."""
        return (SOURCE / self.file).read_text().count(self.old) == 1


@dataclass(frozen=True, slots=True)
class Caught:
    """After how many seeds a mutant broke which promise, and the shrunk story if it was asked for."""

    seeds: int
    violation: str
    story: str


MUTANTS: Mapping[str, tuple[Edit, ...]] = {
    "rule 1: no lease is checked before sending": (
        Edit(ACCESS, "        self.hand.check()\n        self.hand.debt.sent", "        self.hand.debt.sent"),
        Edit(ACCESS, "        self.hand.check()\n        self.hand.debt.last", "        self.hand.debt.last"),
        Edit(UPLOADS, "            hand.check()\n            if left_bytes", "            if left_bytes"),
    ),
    "rule 1: the client asks nobody before it signs": (
        Edit("netstorage/calls.py", "        self._call.guard()\n", ""),
    ),
    "rule 2: bulk takes no second look": (Edit("worker/hands.py", 'return self.queue == "live"', "return True"),),
    "rule 2: a refused ack counts as done": (
        Edit(SETTLER, 'return verdict.verb if all(done) else "lease lost"', "return verdict.verb"),
    ),
    "rule 3: no check after a lost lease": (
        Edit(SETTLEMENT, 'return Verdict("leave", check=debt.sent)', 'return Verdict("leave")'),
        Edit(SETTLER, "if how in LOST_PERHAPS and hand.debt.sent and not verdict.check:", "if False:"),
    ),
    "rule 3: no check after a settlement that went unanswered": (
        Edit(
            SETTLER, 'LOST_PERHAPS = frozenset({"lease lost", "unsettled"})', 'LOST_PERHAPS = frozenset({"lease lost"})'
        ),
    ),
    "rule 4: a later attempt leaves no check": (
        Edit(SETTLEMENT, "suspect = attempt > 1 or debt.may_land", "suspect = debt.may_land"),
    ),
    "rule 4: an ambiguous write leaves no check": (
        Edit(SETTLEMENT, "suspect = attempt > 1 or debt.may_land", "suspect = attempt > 1"),
    ),
    "rule 4: the check comes after the ack": (
        Edit(SETTLER, "checked = verdict.check and await self._owe_check(hand)", "checked = True"),
        Edit(
            SETTLER,
            "        how = await self._apply(hand, verdict)\n",
            "        how = await self._apply(hand, verdict)\n"
            "        if verdict.check:\n            await self._owe_check(hand)\n",
        ),
    ),
    "rule 5: joining a hand at work": (
        Edit(
            LOOP,
            "            hand = hands.get(delivery.group)\n",
            "            busy = [one for one in self._hands if one.change.ref == change.ref]\n"
            "            if busy:\n                busy[0].leases.append(lease)\n                continue\n"
            "            hand = hands.get(delivery.group)\n",
        ),
        Edit(
            SETTLER,
            "calls = [queue.ack(each) for each in hand.deliveries]",
            "calls = [self._queues[each.queue].ack(each) for each in hand.deliveries]",
        ),
    ),
    "rule 6: what was written is remembered": (
        Edit(
            REPLICATOR,
            "        entry = await access.stat(placed.path) if",
            "        if _WROTE.get(placed.path) == opened.info.etag:\n            return Unchanged(placed.path)\n"
            "        _WROTE[placed.path] = opened.info.etag\n        entry = await access.stat(placed.path) if",
        ),
        Edit(REPLICATOR, "MAX_ROUNDS = 5\n", "MAX_ROUNDS = 5\n_WROTE: dict[str, str] = {}\n"),
    ),
    "rule 6: a stat is remembered": (
        Edit(
            REPLICATOR,
            "entry = await access.stat(placed.path) if wants_stat(change, access.hand.attempt) else None",
            "entry = _SEEN.get(placed.path)\n"
            "        if entry is None and wants_stat(change, access.hand.attempt):\n"
            "            entry = await access.stat(placed.path)\n"
            "            _SEEN[placed.path] = entry",
        ),
        Edit(REPLICATOR, "MAX_ROUNDS = 5\n", "MAX_ROUNDS = 5\n_SEEN: dict[str, Entry | None] = {}\n"),
    ),
    "rule 7: a burial leaves no check": (
        Edit(
            SETTLEMENT,
            'return Verdict("bury", check=check, reason=outcome.reason, hint=outcome.hint)',
            'return Verdict("bury", reason=outcome.reason, hint=outcome.hint)',
        ),
    ),
    "rule 8: what may still land comes back at once": (
        Edit(
            SETTLEMENT,
            "after_s = max(outcome.after_s, grace_s) if debt.may_land else outcome.after_s",
            "after_s = outcome.after_s",
        ),
    ),
    "an absent object is deleted by its event": (
        Edit(
            REPLICATOR,
            "            opened = await self.source.open(change.ref)\n",
            "            opened = await self.source.open(change.ref)\n"
            '            if change.kind == "delete":\n                opened = Gone("no-such-key")\n',
        ),
    ),
    "a server's fault is taken for success": (
        Edit("netstorage/calls.py", "if 200 <= answer.status < 300:", "if answer.status not in {403, 404}:"),
    ),
    "older sequencers are skipped": (
        Edit(
            REPLICATOR,
            "        hand.debt.placed = True\n",
            "        hand.debt.placed = True\n"
            '        if (change.sequencer or "") < _LAST.get(change.ref, ""):\n'
            '            return Ignored("older than what was done")\n'
            '        _LAST[change.ref] = change.sequencer or ""\n',
        ),
        Edit(REPLICATOR, "MAX_ROUNDS = 5\n", "MAX_ROUNDS = 5\n_LAST: dict[ObjectRef, str] = {}\n"),
    ),
    "ack before the work": (
        Edit(
            LOOP,
            "            outcome = await self._replicate(hand)\n",
            '            await self._settler._apply(hand, Verdict("ack"))\n'
            "            outcome = await self._replicate(hand)\n",
        ),
        Edit(
            LOOP,
            "from s3nsync.worker.settler import Settler\n",
            "from s3nsync.worker.settlement import Verdict\nfrom s3nsync.worker.settler import Settler\n",
        ),
    ),
    "delete on 403": (
        Edit(
            REPLICATOR,
            "            opened = await self.source.open(change.ref)\n",
            "            try:\n                opened = await self.source.open(change.ref)\n"
            "            except S3nsyncError as error:\n"
            "                if error.status != 403:\n                    raise\n"
            '                opened = Gone("no-such-key")\n',
        ),
    ),
    "delete on NoSuchBucket": (
        Edit(
            REPLICATOR,
            "            opened = await self.source.open(change.ref)\n",
            "            try:\n                opened = await self.source.open(change.ref)\n"
            "            except S3nsyncError as error:\n"
            "                if error.status != 404:\n                    raise\n"
            '                opened = Gone("no-such-key")\n',
        ),
    ),
    "duplicates told by the key alone": (
        Edit(
            "events.py",
            "[change.ref.bucket, change.ref.key, change.event_name, *_evidence(change), change.run, fresh]",
            "[change.ref.bucket, change.ref.key, fresh]",
        ),
    ),
    "a repeated write is not told": (
        Edit("netstorage/calls.py", "return unanswered\n        raise", "return False\n        raise"),
        Edit(DEBT, "self.ambiguous |= self.pending\n        self.sent", "self.sent"),
    ),
    "an unanswered write counts as refused": (
        Edit(DEBT, "refused = isinstance(error, TargetError) and not error.ambiguous", "refused = True"),
        Edit(DEBT, "self.ambiguous |= self.pending or error.ambiguous", "self.ambiguous |= self.pending"),
        Edit(
            "worker/settlement.py", "suspect = attempt > 1 or debt.may_land", "suspect = attempt > 2 or debt.may_land"
        ),
    ),
    "no digest is declared": (
        Edit(ACCESS, "    match digest.algorithm:\n", "    return {}\n    match digest.algorithm:\n"),
    ),
    "no size is declared where the digest comes at the end": (
        Edit(ACCESS, "            size=size_bytes,\n", "            size=None if at_end else size_bytes,\n"),
    ),
    "no look after an upload without a digest": (
        Edit(UPLOADS, "if entry is not None and entry.md5 == digest.hexdigest():", "if True:"),
    ),
    "keys are decoded twice": (
        Edit("events.py", 'return unquote_plus(key, errors="strict")', "return unquote_plus(unquote_plus(key))"),
    ),
    "an archived object is set aside in silence": (
        Edit("decide.py", "return Ignored(reason, set_aside=True)", "return Ignored(reason)"),
    ),
    "an archived object is taken for a deleted one": (
        Edit(
            REPLICATOR,
            "            opened = await self.source.open(change.ref)\n",
            "            try:\n                opened = await self.source.open(change.ref)\n"
            "            except S3nsyncError as error:\n"
            '                if "InvalidObjectState" not in error.message:\n                    raise\n'
            '                opened = Gone("no-such-key")\n',
        ),
    ),
    "a burial without a reason": (
        Edit(
            "worker/settlement.py", "check=check, reason=outcome.reason, hint=outcome.hint)", 'check=check, reason="")'
        ),
    ),
    "messages served along are not counted": (
        Edit(SETTLER, "                coalesced=len(hand.leases) - 1,", "                coalesced=0,"),
    ),
    "a settlement can be cut": (Edit(SETTLER, "        hand.settling = True\n", ""),),
    "every check leaves another": (Edit(SETTLEMENT, "suspect = attempt > 1 or debt.may_land", "suspect = True"),),
    "a transient failure is acked": (
        Edit(SETTLEMENT, 'return Verdict("retry", after_s=after_s)', 'return Verdict("ack")'),
    ),
    "checks are acked unseen": (
        Edit(
            REPLICATOR,
            "        hand.debt.placed = True\n",
            '        if change.kind == "check":\n            return Ignored("surely fine")\n'
            "        hand.debt.placed = True\n",
        ),
    ),
    "slots leak": (Edit(LOOP, "self._slots.give(taken - len(hands), queue.name)", "self._slots.give(0)"),),
}
"""By name. The rules are those of docs/design.md."""

SECOND_LINES: Mapping[str, tuple[Edit, ...]] = {
    "rule 2: no lease is checked after the answer": (
        Edit(
            REPLICATOR,
            "            hand.check()\n            if not isinstance(outcome,",
            "            if not isinstance(outcome,",
        ),
    ),
    "a refused extension is taken for a good one": (
        Edit("worker/extender.py", "if lease.delivery.receipt in lost:", "if False:"),
    ),
}
"""What the simulation cannot miss, because another rule stands in front: a lease that is gone refuses the ack too, and
is over by our own clock, if that is right."""


@contextmanager
def altered(edits: tuple[Edit, ...]) -> Iterator[Path]:
    """Give a directory that holds a copy of the package with these edits, for PYTHONPATH."""
    with tempfile.TemporaryDirectory() as scratch:
        package = Path(scratch) / "s3nsync"
        shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
        for edit in edits:
            if not edit.fits():
                raise LookupError(f"{edit.file} does not hold, once: {edit.old!r}")
            text = (package / edit.file).read_text()
            (package / edit.file).write_text(text.replace(edit.old, edit.new))
        yield Path(scratch)


def hunt(edits: tuple[Edit, ...], seeds: int, timeout_s: float, *, tells: bool = False) -> Caught | None:
    """Play seeds against a copy of the source with these edits until a promise breaks; None if none does."""
    with altered(edits) as scratch:
        command = [sys.executable, str(HERE / "soak.py"), "--seeds", str(seeds), "--jobs", "1", "--stop"]
        done = subprocess.run(
            command if tells else [*command, "--quiet"],
            env={**os.environ, "PYTHONPATH": str(scratch)},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    if done.returncode not in {0, 1} or not done.stdout.startswith("{"):
        raise RuntimeError(f"the simulation itself failed: {done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    broken = list(found["violations"].values())
    return Caught(found["seeds"], broken[0], done.stderr) if broken else None


def main() -> int:
    """Hunt the named mutants, or all; give 1 if one got away."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("names", nargs="*", default=list(MUTANTS))
    options = parser.parse_args()
    escaped = 0
    for name in options.names:
        caught = hunt(MUTANTS[name], options.seeds, timeout_s=600.0)
        escaped += caught is None
        sys.stdout.write(f"{name}: {f'seed {caught.seeds}: {caught.violation}' if caught else 'NOT CAUGHT'}\n")
        sys.stdout.flush()
    return 1 if escaped else 0


if __name__ == "__main__":
    sys.exit(main())
