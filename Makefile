# One task file: the same targets on a laptop and in CI. Everything that is needed is installed by scripts/setup.sh.
.PHONY: setup setup-dev setup-vm node demo test vm deb docs check audit bench fuzz powercut size clean
.DELETE_ON_ERROR:
BIN := .venv/bin

setup: ; @scripts/setup.sh
setup-dev: ; @scripts/setup.sh dev
setup-vm: ; @scripts/setup.sh vm

node: setup
	@mkdir -p build && cmake -S node_firmware --preset host >build/cmake.log 2>&1 || (cat build/cmake.log; false)
	@ninja -C build/host --quiet

# Nodes, broker and gateway: the main job on real input, then a good and a bad rollout; ONCE=1 stops when it has proved itself.
demo: node
	@$(BIN)/gatewayctl demo $(if $(ONCE),--once)

test: setup-dev node
	@scripts/test.sh

# The installed service in a guest with the real BlueZ, D-Bus and systemd; SHORT=1: until it has healed once, in two minutes.
vm: setup-vm node
	@$(BIN)/pytest -s tests/vm $(if $(SHORT),-m short)

# Debian packages in build/deb for this machine's release of Debian, and its processor or ARCH=arm64 or amd64.
deb: setup
	@$(BIN)/python deploy/deb/build.py $(if $(ARCH),--arch $(ARCH))

# The documentation as a site, in build/docs: it needs no network to be read.
docs: setup-dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

check: setup-dev
	@scripts/check.sh

# Known vulnerabilities of what the packages lock, as PyPI's advisories know them; what cannot be looked up fails.
audit:
	@python3 -m venv build/audit && build/audit/bin/pip install -q pip-audit
	@build/audit/bin/pip-audit --strict --disable-pip -r deploy/deb/requirements.txt -r deploy/deb/requirements-speech.txt

bench: setup-dev node
	@$(BIN)/python benchmarks/run.py

# FUZZ_S seconds for each target.
fuzz: setup-dev
	@scripts/fuzz.sh $(or $(FUZZ_S),3600)

# The power is cut in every step of an update, and again in every step of what follows; TEARS random ways to tear for each cut.
# Then KILLS times that of a microcontroller under QEMU, while updates come over the network.
powercut: setup-dev node
	@build/host/tests/test_update_powercut $(or $(TEARS),16)
	@QEMU_KILLS=$(or $(KILLS),100) $(BIN)/pytest -s tests/qemu/test_power.py

size: setup-dev
	@$(BIN)/python scripts/size.py

clean: ; rm -rf build .venv
