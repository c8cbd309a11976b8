"""HTTP: the API, its live stream, /metrics, and the fleet page."""
