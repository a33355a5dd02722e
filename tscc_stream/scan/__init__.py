"""`scan`: years of recordings through the pipeline of `classify`, cut by sensor and time, with the same result."""
