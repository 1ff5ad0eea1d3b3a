"""The development stack: real servers, simulators and stage workers as child processes of one supervisor, no Docker, no root."""
