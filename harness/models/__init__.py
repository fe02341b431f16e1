"""Where models come from: embedded stubs, files, imports, and their weights."""
