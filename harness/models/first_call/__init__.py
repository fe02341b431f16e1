"""A call of forward that works, found by calling it: guesses from what the file says, corrected by what each failure says."""
