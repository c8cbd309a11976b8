"""`gatewayctl demo`: a whole site on this machine, with real nodes, a real broker and real input, that proves what gatewayd is for."""
