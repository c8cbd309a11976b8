"""`python -m gatewayd.cli` is `gatewayctl`."""

from gatewayd.cli import main

if __name__ == "__main__":
    main()
