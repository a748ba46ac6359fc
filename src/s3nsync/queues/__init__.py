"""Queue adapters: SQS FIFO here, one module per kind of queue."""
