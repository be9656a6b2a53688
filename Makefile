# Thin front of meson and the scripts; see `make help`.

PYTEST := scripts/as-root /usr/bin/python3 -m pytest -p no:cacheprovider tests/system
# What fails is run once more, and both are shown: a busy machine can be slower than a deadline.
# A harmed guest is no matter of time.
AGAIN := --reruns 1 --only-rerun '(?s)\A(?!.*GuestHarmed)' -rR
# Labs run side by side: `make system JOBS=2` takes half the time on an idle machine; tests that
# measure times may then have to be repeated alone.
JOBS ?= 1
SIDE_BY_SIDE := $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --dist loadfile)

.NOTPARALLEL:
.PHONY: all unit fuzz-short model lint system check check-long check-kill check-kill-postcopy check-kill-full check-kill-protect demo bench bench-migrate bench-postcopy bench-disks bench-protect bench-engine bench-save bench-other-vmm bench-wan fuzz dist deb install uninstall clean help

all:
	scripts/bootstrap build
	scripts/build build

unit: all
	scripts/bootstrap check
	scripts/build build-asan
	scripts/build build-tsan
	scripts/run-unit build build-asan build-tsan

fuzz-short:
	scripts/bootstrap build check
	scripts/build build-fuzz
	scripts/run-fuzz 60

MODEL ?= .
model:
	scripts/bootstrap check
	tests/model/run '$(MODEL)'

lint: all
	scripts/bootstrap check
	scripts/lint

system: all
	scripts/bootstrap lab check
	lab/lab prepare
	$(PYTEST) $(AGAIN) $(SIDE_BY_SIDE)

check: unit fuzz-short model lint system

check-long: unit fuzz-short model lint
	scripts/bootstrap lab check packaging
	lab/lab prepare
	$(PYTEST) $(AGAIN) $(SIDE_BY_SIDE) --long
	VMFERRY=$(CURDIR)/build-asan/src/cli/vmferry $(PYTEST) $(SIDE_BY_SIDE)

# Prints its first seed; `make check-kill SEED=n COUNT=1` runs one injection again.
COUNT ?= 300
SEED ?= $(shell date +%y%m%d00)
check-kill check-kill-postcopy check-kill-full: all
	scripts/bootstrap lab check
	lab/lab prepare
	@echo 'seeds from $(SEED) on'
	$(PYTEST)/test_kill.py -k test$(subst -,_,$(patsubst check-kill%,%,$@))_injection \
		--kill-seed $(SEED) --kill-count $(COUNT) --kill-table \
		$(if $(filter-out 1,$(COUNT)),docs/$(subst check-kill,kill-campaign,$@).md,build/kill.md)

check-kill-protect: all
	scripts/bootstrap lab check
	lab/lab prepare
	@echo 'seeds from $(SEED) on'
	$(PYTEST)/test_kill_protect.py -k test_injection --kill-seed $(SEED) --kill-count $(COUNT) \
		--kill-table $(if $(filter-out 1,$(COUNT)),docs/kill-campaign-protect.md,build/kill.md)

demo: all
	scripts/bootstrap lab
	@scripts/as-root lab/demo

bench: all
	scripts/bootstrap lab
	lab/lab prepare
	scripts/as-root bench/migrate.py
	scripts/as-root bench/idle.py

# Takes hours; BENCH="--workload sparse --link 1gbit" makes a part of it.
bench-migrate: all
	scripts/bootstrap lab bench
	lab/lab prepare
	scripts/as-root bench/workset.py $(BENCH)

# Half an hour; BENCH="--workload dense --runs 1" makes a part of it.
bench-postcopy: all
	scripts/bootstrap lab
	lab/lab prepare
	scripts/as-root bench/postcopy.py $(BENCH)

# Half an hour, with some GiB below $TMPDIR; BENCH="--quick --runs 1" is enough to try it.
bench-disks: all
	scripts/bootstrap lab
	lab/lab prepare
	scripts/as-root bench/disks.py $(BENCH)

# Half an hour; BENCH="--runs 1 --only failover" makes a part of it.
bench-save: all
	scripts/bootstrap lab bench
	lab/lab prepare
	scripts/as-root bench/save.py $(BENCH)

# Some minutes; BENCH="--runs 1" is enough to try it.
bench-other-vmm: all
	scripts/bootstrap lab
	lab/lab prepare
	scripts/as-root bench/other_vmm.py $(BENCH)

# An hour; BENCH="--runs 1 --link breaks --workload idle" makes a part of it.
bench-wan: all
	scripts/bootstrap lab bench
	lab/lab prepare
	scripts/as-root bench/wan.py $(BENCH)

bench-protect: all
	scripts/bootstrap lab
	lab/lab prepare
	scripts/as-root bench/protect.py $(BENCH)

bench-engine: all
	scripts/bootstrap lab
	lab/lab prepare
	scripts/as-root bench/engine.py $(BENCH)

# Fuzzes until stopped, or for SECONDS in all.
SECONDS ?= 3600
fuzz:
	scripts/bootstrap build check
	scripts/build build-fuzz
	scripts/run-fuzz $(SECONDS)

# The release tarball: the same bytes from each build of a commit.
dist:
	scripts/bootstrap packaging
	scripts/dist

deb:
	scripts/bootstrap packaging
	scripts/deb

install: all
	meson install -C build --no-rebuild

uninstall:
	ninja -C build uninstall

clean:
	scripts/as-root lab/lab clean
	rm -rf build build-asan build-tsan build-fuzz

help:
	@echo 'make             build vmferry into build/'
	@echo 'make demo        a live migration between two hosts on this machine'
	@echo 'make check       all tests, about half an hour on two cores'
	@echo 'make check-long  the same with the whole matrix: more than an hour'
	@echo 'make check-kill  300 random faults in moves, about an hour (SEED=n, COUNT=n)'
	@echo 'make check-kill-postcopy  the same in post-copy and hybrid moves'
	@echo 'make check-kill-full  the same in those that are protected'
	@echo 'make check-kill-protect  the same around protected guests'
	@echo 'make bench       vmferry and QEMU migrate side by side'
	@echo 'make bench-migrate  the same for guests of all kinds, and all that QEMU offers: hours'
	@echo 'make bench-postcopy  post-copy by vmferry and by QEMU, and how long a guest waits for pages'
	@echo 'make bench-disks a guest and its disk, by vmferry and by QEMU as libvirt drives it'
	@echo 'make bench-save  a guest saved into a file and back, by vmferry, QEMU and libvirt'
	@echo 'make bench-other-vmm  the same guest between two QEMUs, and between QEMU and Bochs'
	@echo 'make bench-protect what protection costs a guest, and how fast its standby goes on'
	@echo 'make bench-engine  how long a host stays hot: the control engine, three hosts, six guests'
	@echo 'make fuzz        fuzz all parsers (SECONDS=3600 in all)'
	@echo 'make unit, fuzz-short, model, lint, system   the parts of check'
	@echo 'make deb         Debian packages of the last commit, into build/packages'
	@echo 'make dist        the release tarball of the last commit, into build/dist'
	@echo 'make install     install what was built (DESTDIR=... honoured)'
	@echo 'make uninstall   remove what the last make install has installed'
	@echo 'make clean       remove what was built; downloads stay in .cache/'
	@echo 'Packages are installed with apt where missing; root or sudo is needed for that,'
	@echo 'and for everything that runs guests.'
