"""The larger models: one file a kind; each runs in a worker process."""
