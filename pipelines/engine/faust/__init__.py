"""The part of the engine that uses Faust. The other modules of the engine do not know Faust."""
