"""Who is to blame when an artifact does not compute what its model computes."""
