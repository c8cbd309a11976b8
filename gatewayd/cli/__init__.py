"""gatewayctl."""
