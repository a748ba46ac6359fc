"""s3nsync keeps an Akamai NetStorage directory equal to an Amazon S3 bucket.

Read in this order: `model` (the nouns), `errors` (what can go wrong), `events` and `mapping` (what arrived and
where it belongs), `engine` (look, decide, act, prove), `worker` (who holds which message and what becomes of it),
`app` (how the parts are put together).
"""

__version__ = "0.1.0"
