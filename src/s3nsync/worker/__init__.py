"""Take messages from the queues, have each key replicated, settle what was taken.

    loop         feeders and hands at work; the only part the rest of the product sees
    settler      what `settlement` decides, done to a hand's messages
    extender     leases renewed while their work moves, marked where they are lost
    settlement   the pure table: an outcome and a debt in, a verdict out
    hands        leases, hands of messages for one key, slots to work in

Each imports only those below it. The order of queue, request and ack is the protocol of docs/design.md, section 6.
"""

from s3nsync.worker.loop import Limits, Worker

__all__ = ["Limits", "Worker"]
