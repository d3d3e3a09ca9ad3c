# SPDX-License-Identifier: GPL-2.0
#
# The front door. `make help` lists what there is; the work is done by the tool in tests/rig, and,
# for the module, by the kernel's own build system and the file Kbuild.
#
#   KDIR=     an already built, patched kernel: `make modules` builds for it and sets up nothing
#   KSRC=     a kernel source of your own, a tree or a tarball, instead of Debian's
#   QEMU_SRC= a QEMU source tree of your own for the emulated machines, instead of Debian's
#   SUITE=    one suite of `make check`
#   HOST=     what the guest of `make demo`, `make shell` and `make bench` is shown of its hypervisor:
#             kvm, hyperv or both; without it, kvm, and `make bench` runs all that it has limits for.
#             `make demo HOST=migrate` shows the clock through a few migrations; `make bench` knows
#             kvm, hyperv, migrate and migrate-kvm
#   MIGRATIONS=  through how many the longest test of the suites `update` and `nested` goes; 400 without it
#   HOTPLUG_TURNS=  how often every CPU goes offline and comes back in the suite `hotplug`; 20 without it
#   STORM_SECONDS=  how long each storm of the suite `host` lasts; 10 without it
#   BENCH_DRIFT_SECONDS=  over how long `make bench` compares each clock with the host's

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

KSRC ?=
KDIR ?=
QEMU_SRC ?=
SUITE ?=
HOST ?=
MIGRATIONS ?=
HOTPLUG_TURNS ?=
STORM_SECONDS ?=

# Cargo's own progress only where somebody looks at it.
cargo := cargo run --quiet --release --locked -p rig --
ifneq ($(KSRC),)
export KSRC
else
unexport KSRC
endif
ifneq ($(QEMU_SRC),)
export QEMU_SRC
else
unexport QEMU_SRC
endif

export MIGRATIONS HOTPLUG_TURNS STORM_SECONDS

bootstrap:
	@scripts/bootstrap

demo: bootstrap ## boot a guest, load and select the clock, and show it; HOST=migrate: through migrations
	@$(cargo) demo $(if $(HOST),--host $(HOST))

check: bootstrap ## run all tests, or one suite with SUITE=name
	@$(cargo) check $(if $(SUITE),--suite $(SUITE))

check-debug: bootstrap ## the tests of updates and of CPU hotplug in a kernel that watches itself (builds one; takes long)
	@$(cargo) check-debug

bench: bootstrap ## what the clock costs, beside the C clocks, and whether that is within the limits
	@$(cargo) bench $(if $(HOST),--host $(HOST))

shell: bootstrap ## a shell in a running guest that has the module
	@$(cargo) shell $(if $(HOST),--host $(HOST))

setup: bootstrap ## fetch, verify and build all that the tests need, and nothing else
	@$(cargo) setup

# bindgen is what setup has built, where the machine has none.
cache := $(or $(PARACLOCK_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/paraclock)
export PATH := $(PATH):$(lastword $(wildcard $(cache)/tools/bindgen-*/bin))

ifneq ($(KDIR),)
kbuild = $(MAKE) -C $(KDIR) M=$(CURDIR) LLVM=-19
else
kbuild = $(cargo) kbuild --
endif

modules: $(if $(KDIR),,bootstrap) ## build the module, for KDIR= or for the kernel that setup builds
	@$(kbuild) modules

modules_install: $(if $(KDIR),,bootstrap) ## install it where `modprobe` finds it
	@$(kbuild) modules_install

clean: ## remove what was built in this checkout; the cache stays
	@rm -rf build target
	@find . -path ./.git -prune -o \( -name '*.o' -o -name '*.ko' -o -name '*.mod' -o -name '*.mod.c' \
		-o -name '.*.cmd' -o -name '.*.d' -o -name 'modules.order' -o -name 'Module.symvers' \
		-o -name 'generated*.rs' \) -type f -exec rm -f {} +
	@echo 'clean: build/, target/ and the objects of the module are gone'

help: ## this text
	@echo 'paraclock: a paravirtual clock for guests. Targets:'
	@awk -F ':.*## ' '/^[a-z_-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'Suites of `make check SUITE=name`:'
	@$(if $(shell command -v cargo),$(cargo) suites,echo '  (cargo is not installed)')
	@echo 'Variables: KDIR= KSRC= QEMU_SRC= SUITE= HOST= MIGRATIONS= HOTPLUG_TURNS= STORM_SECONDS= BENCH_DRIFT_SECONDS= (the head of the Makefile says what they do)'

.PHONY: bootstrap demo check check-debug bench shell setup modules modules_install clean help
