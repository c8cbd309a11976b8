"""Wake word and command: a sensitive node model, judged by a larger one."""
