"""What goes over a SeedLink connection, as values: frames, stream selections and positions. No I/O, no state."""
