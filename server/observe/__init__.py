"""How a running server is observed: metrics, traces and logs."""
