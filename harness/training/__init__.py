"""Training: on Lightning or in a plain loop, resumable to the bit; and the proof that it trains what it should."""
