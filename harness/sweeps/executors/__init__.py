"""Where the trials of a sweep are done: here, in processes, or on a Ray cluster."""
