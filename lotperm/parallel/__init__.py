"""Several processes and threads that compute one thing."""
