"""Everything of the engine that touches Faust; the rest of it knows nothing of Faust."""
