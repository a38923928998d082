"""Tables: what a result says, as cells, and one renderer per output format."""
