"""The gateway's side of node_firmware/core/nn: what a plan says of each operator, and where its memory is."""
