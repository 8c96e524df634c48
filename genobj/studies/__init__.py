"""Studies: several experiments that are compared on equal terms, and what came out of them."""
