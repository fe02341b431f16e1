"""The features of a profile: what is counted of each kind of column, and how two such counts are compared."""
