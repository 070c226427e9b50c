"""What an experiment is: its parameters, their presets, and the seeds of its random streams."""
