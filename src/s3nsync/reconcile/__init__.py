"""Both sides listed, joined and judged: what `sync`, `verify` and `--repair` stand on.

    verify       a route's pairs judged by the best evidence, looked at again before they count
    repair       what is to be done about findings, within its caps
    backfill     Changes for what differs, with a cursor to resume by
    sides        one route's two listings, joined
    second_look  what a write left, looked at after the grace
    inventory    S3's own report in place of a listing
    listing      the pages of both sides, in key order, in bounded memory

How a pair is judged is pure and stands in `s3nsync.compare`. Work is put on a queue or handed to a worker; nothing here
writes to NetStorage.
"""
