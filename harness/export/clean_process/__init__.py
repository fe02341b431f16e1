"""A file loaded and run in a process that never saw the exporter, as a deployment would."""
