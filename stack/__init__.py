"""The development stack: real servers, simulators and workers as child processes of one supervisor, without Docker or root."""
