"""The pipeline's steps, pure: no socket, clock, thread, file, torch or logging. Their names sort in flow order."""
