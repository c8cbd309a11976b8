"""A board that is told the name of its broker finds it: the address, the name server and the way there come by DHCP.

QEMU's network asks the host's name server, so all of it runs in network and mount namespaces of its own.
"""

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from live import until
from machine import Machine

from gatewayd.demo import site

NAMESPACES = ("unshare", "--net", "--mount", *(() if os.geteuid() == 0 else ("--map-root-user",)))
