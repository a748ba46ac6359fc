"""Replicate one key: look at S3, decide, act on NetStorage, prove it.

    replicator   the loop: a look at S3, a decision, an act, and another look where one is owed
    uploads      an object S3 has -> NetStorage, whole or streamed, with its proof
    removals     an object S3 has no more: deleted, or moved to the trash
    share        what one piece of work holds of the byte budget
    access       one hand's way to one upload account: tolls, guards, what lane and debt are told
    debt         what a hand may owe for what it sent
    parties      the protocols of everybody the engine deals with

Each imports only those below it. What is impure is passed in; what to do is decided by `s3nsync.decide`.
"""

from s3nsync.engine.debt import Debt
from s3nsync.engine.parties import Hand
from s3nsync.engine.replicator import MAX_ROUNDS, Replicator
from s3nsync.engine.uploads import STREAM_BYTES

__all__ = ["MAX_ROUNDS", "STREAM_BYTES", "Debt", "Hand", "Replicator"]
