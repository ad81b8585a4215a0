# Everything a reader needs; `make help` lists it. Words to add to any of its commands:
#
#   CC=clang            another compiler           SANITIZE=1   build and test with address and undefined-
#   CFLAGS="-O0 -g"     flags of your own                       behaviour sanitizers (in build/sanitize/)
#   WERROR=1            a warning is an error      V=1          show each command in full
#   BUCKET=memory       copy bytes, no splice(2)   POLLER=poll  poll(2) instead of epoll(7): as on a Mac

STAGES = stage0-pipe stage1-control stage2-proxy stage3-local

# ---- where things go ------------------------------------------------------------------------------
# OUT stands before a program's name: the programs are stage1-control/server and so on, and those with
# sanitizers build/sanitize/stage1-control/server. Objects are in BUILD.

BUILD = build
OUT =
ifdef SANITIZE
  BUILD = build/sanitize
  OUT = build/sanitize/
endif
ifdef COVERAGE
  BUILD = build/coverage
  OUT = build/coverage/
endif
export OUT  # the scripts in tests/ want to know, too

# ---- the system -----------------------------------------------------------------------------------
# Systems differ in three files of common/, of which one each is taken.

UNAME ?= $(shell uname -s)
ifeq ($(UNAME),Linux)
  OS = linux
  POLLER = epoll
  BUCKET = pipe
else
  OS = bsd
  POLLER = poll
  BUCKET = memory
endif

# ---- flags ----------------------------------------------------------------------------------------
# CFLAGS, CPPFLAGS and LDFLAGS are yours: they come after ours, so they win.

CFLAGS ?= -g
WARNINGS = -Wall -Wextra -Wpedantic -Wshadow -Wconversion $(if $(WERROR),-Werror)

# Hardening: an overrun buffer ends the program instead of becoming a way in. FORTIFY_SOURCE needs
# an optimizing compiler.
MODE_CFLAGS = -O2 -fstack-protector-strong -fPIE \
              $(if $(filter -O0,$(CFLAGS)),,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
MODE_LDFLAGS = $(if $(filter Darwin,$(UNAME)),,-pie -Wl,-z,relro,-z,now)

ifdef SANITIZE
  MODE_CFLAGS = -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
  MODE_LDFLAGS = -fsanitize=address,undefined
endif
ifdef COVERAGE
  MODE_CFLAGS = -O0 --coverage
  MODE_LDFLAGS = --coverage
endif

COMPILE = $(CC) -std=c11 -D_GNU_SOURCE -pthread -I. $(WARNINGS) $(MODE_CFLAGS) $(CPPFLAGS) $(CFLAGS)
LINK = $(CC) -pthread $(MODE_CFLAGS) $(MODE_LDFLAGS) $(CFLAGS) $(LDFLAGS)
Q = $(if $(V),,@)

# ---- building -------------------------------------------------------------------------------------

ALIKE = $(filter-out common/os_% common/poller_% common/bucket_%,$(wildcard common/*.c))
PICKED = common/os_$(OS).c common/poller_$(POLLER).c common/bucket_$(BUCKET).c
COMMON = $(patsubst %.c,$(BUILD)/%.o,$(ALIKE) $(PICKED))
PROGRAMS = $(patsubst %.c,$(OUT)%,$(wildcard $(STAGES:=/server.c) $(STAGES:=/client.c) stage3-local/app.c))

all: stage0 stage1 stage2 stage3   ## build all stages (this is what `make` alone does)
.DEFAULT_GOAL = all

stage0: $(filter $(OUT)stage0%,$(PROGRAMS))  ## build stage 0: a pipe that joins two connections
stage1: $(filter $(OUT)stage1%,$(PROGRAMS))  ## build stage 1: the control connection
stage2: $(filter $(OUT)stage2%,$(PROGRAMS))  ## build stage 2: public and proxy connections
stage3: $(filter $(OUT)stage3%,$(PROGRAMS))  ## build stage 3: the local app, finishing touches

$(PROGRAMS): $(OUT)%: $(BUILD)/%.o $(BUILD)/common.a
	@echo "  link     $@"
	$Q$(LINK) -o $@ $^

$(BUILD)/common.a: $(COMMON) $(BUILD)/flags
	@echo "  archive  $@"
	$Qrm -f $@ && $(AR) rcs $@ $(COMMON)

# -MMD writes down which headers a file includes, so that a changed header rebuilds what needs it.
$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  compile  $<"
	$Q$(COMPILE) -MMD -MP -c -o $@ $<

# The sample app carries its page inside: page.html as a list of numbers, 0x3c,0x21 and so on.
$(BUILD)/stage3-local/app.o: build/page.inc

build/page.inc: stage3-local/page.html
	@mkdir -p $(@D)
	@{ od -An -v -tx1 $< | tr -d ' \n' | sed 's/\(..\)/0x\1,/g; s/,$$//'; echo; } > $@

-include $(wildcard $(BUILD)/*/*.d $(BUILD)/tests/*/*.d $(BUILD)/tests/stages/hostile/*.d)

# This file changes only when the compiler or its flags do; then everything is built anew.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(subst ','\'',$(COMPILE) / $(LINK) / $(PICKED))' | cmp -s - $@ || \
	 echo '$(subst ','\'',$(COMPILE) / $(LINK) / $(PICKED))' > $@
FORCE:

# ---- trying ---------------------------------------------------------------------------------------

demo: stage3  ## all of it on this machine, to look at
	@stage3-local/demo.sh

nat-lab: all  ## a NAT in a box (as root; DELAY=40 LOSS=10: far away)
	@tests/natlab/up
nat-lab-down:  ## remove that
	@tests/natlab/down

diff-stage1:  ## what stage 1 adds to stage 0
	@$(call show-diff,stage0-pipe,stage1-control)
diff-stage2:  ## what stage 2 adds to stage 1
	@$(call show-diff,stage1-control,stage2-proxy)
diff-stage3:  ## what stage 3 adds to stage 2
	@$(call show-diff,stage2-proxy,stage3-local)

# diff says "different" with exit status 1, which is no failure here; 2 is one.
COLOR = $(if $(NO_COLOR),,$(shell diff --color=auto /dev/null /dev/null 2>&1 && echo --color=auto))
show-diff = for file in server.c client.c; do \
	    diff -u $(COLOR) --label $(1)/$$file --label $(2)/$$file $(1)/$$file $(2)/$$file || test $$? != 2 || exit; \
	done

# ---- testing --------------------------------------------------------------------------------------

# The tests that `make test` runs. Each of them uses ports that are free, so all can run at once.
TESTS = test-common test-stage0 test-stage1 test-stage2 test-stage3

test: need-tmp all build-tests  ## all tests that need no root and no network
	@{ $(foreach t,$(NOT_HERE),echo "skipped: $t: it is about the plain programs, on Linux";) \
	 $(MAKE) -k $(OUTPUT_SYNC) $(if $(filter -j%,$(MAKEFLAGS)),,-j4) $(TESTS); echo "make test: status $$?"; } 2>&1 | \
	 tee $(BUILD)/test.log
	@awk -f tests/checks/summary.awk $(BUILD)/test.log

OUTPUT_SYNC = $(if $(filter output-sync,$(.FEATURES)),-Otarget)  # macOS has a make of 2006

# A file tests/unit/test_X.c holds the tests of common/X.c. They stand in for functions of Linux's C library.
UNIT_TESTS = $(if $(filter Linux,$(UNAME)),$(patsubst tests/unit/%.c,%,$(wildcard tests/unit/test_*.c)))

# Loop and buckets as these tests have them: what they ask the system for comes to tests/unit/unit.c.
UNIT_OBJECTS = $(addprefix $(BUILD)/tests/unit/,unit.o loop.o bucket_$(BUCKET).o)
STAND_INS = poller_wait poller_set malloc calloc fcntl

$(BUILD)/tests/unit/loop.o $(BUILD)/tests/unit/bucket_$(BUCKET).o: $(BUILD)/tests/unit/%.o: common/%.c $(BUILD)/flags
	@mkdir -p $(@D)
	@echo "  compile  $< (for tests)"
	$Q$(COMPILE) $(foreach f,$(STAND_INS),-D$f=unit_$f) -MMD -MP -c -o $@ $<

test-common: $(UNIT_TESTS:%=run-%)  ## test the modules of common/ (run-test_relay: one)
	$(if $(UNIT_TESTS),,@echo "skipped: the tests of common/ run on Linux only")

$(UNIT_TESTS:%=run-%): run-%: $(BUILD)/tests/unit/%
	@$<

$(UNIT_TESTS:%=$(BUILD)/tests/unit/%): %: %.o $(UNIT_OBJECTS) $(BUILD)/tests/basics.o $(BUILD)/common.a
	@echo "  link     $@"
	$Q$(LINK) -o $@ $^ $$(pkg-config --libs cmocka)

# Only epoll(7) tells that the end of a stream is there, and only a bucket of pipes makes use of it: the tests know that.
TEST_DEFINES = -DLAST_IS_TOLD=$(if $(filter epoll,$(POLLER)),1,0) \
               -DLAST_WAITS=$(if $(filter epoll/pipe,$(POLLER)/$(BUCKET)),1,0)

$(BUILD)/tests/%.o: tests/%.c $(BUILD)/flags | need-cmocka
	@mkdir -p $(@D)
	@echo "  compile  $<"
	$Q$(COMPILE) $(TEST_DEFINES) $$(pkg-config --cflags cmocka) -MMD -MP -c -o $@ $<

build-tests:  ## all test programs, not run
build-tests: $(UNIT_TESTS:%=$(BUILD)/tests/unit/%)

need-tmp:
	@file=$$(mktemp /tmp/tunnel-test-XXXXXX) && rm "$$file" || \
	 { echo "The tests keep files in /tmp for a moment, and cannot write there: see the line above." >&2; exit 1; }

need-cmocka:
	@pkg-config --exists cmocka || { echo "The tests need cmocka, a library: ./setup.sh installs it." >&2; exit 1; }

include tests/stages/stage-tests.mk

ifeq ($(SANITIZE)$(COVERAGE)$(filter-out Linux,$(UNAME)),)  # it is about the plain programs, and needs namespaces
  TESTS += test-walkthrough
else
  NOT_HERE += test-walkthrough
endif

test-walkthrough: all $(STAGE_TESTS)  ## check that WALKTHROUGH.md is true
	@tests/walkthrough/check

test-faults: all  ## dead peers, strangers, overload, kill -9 (minutes)
	@tests/faults/run

test-syscalls: all  ## make every system call fail once (needs strace)
	@tests/syscalls/run

test-mutants:  ## put small faults into a copy: does a test notice?
	@tests/mutants/run

test-platforms:  ## build for macOS, the BSDs, musl, ARM (needs zig)
	@tests/platforms/build

test-emulated: $(STAGE_TESTS)  ## the stages with musl, on ARM (needs zig and qemu)
	@tests/platforms/emulated

test-as-on-macos: $(STAGE_TESTS)  ## the stages' tests where poll(2) is like macOS's
	@tests/platforms/as-on-macos

test-repeat: all build-tests  ## all tests RUNS=50 times over, on busy processors
	@tests/checks/repeat

test-valgrind: all build-tests  ## unit tests and programs under valgrind
	@tests/checks/valgrind

test-nat: all  ## through a NAT and what befalls it (as root)
	@tests/natlab/test

test-browser: stage3  ## the sample app in headless Chromium
	@tests/browser/run

test-deploy: stage3  ## units, https, two servers, firewall, ... (as root)
	@tests/deploy/run

test-real: stage3  ## Git, SSH, WebSocket, Redis and more go through it
	@tests/real/run

fuzz:  ## libFuzzer looks for bytes that do harm
	@tests/fuzz/run

soak: all  ## all faults at random, for SOAK_SECONDS=600
	@tests/soak/run

bench: stage3  ## measure against other tunnels (QUICK=1: a minute)
	@tests/bench/run
bench-far: stage3  ## the same, far away (as root; FAR_DELAYS=40: so far)
	@tests/bench/far
bench-peers:  ## get those other tunnels first
	@tests/bench/peers.sh
bench-growth: stage3  ## what a user costs, with 1 to 8,000 of them
	@tests/bench/growth
bench-idle: stage3  ## what a tunnel costs that has nothing to do
	@tests/bench/idle
bench-syscalls: stage3  ## count the system calls (needs strace)
	@tests/bench/syscalls

coverage:  ## which lines the tests reach (build/coverage/html)
	@rm -f build/coverage/*/*.gcda build/coverage/tests/*/*.gcda build/coverage/tests/stages/hostile/*.gcda
	@$(MAKE) COVERAGE=1 coverage-report

coverage-report: test
	@OUT=$(OUT) tests/faults/run without-memory
	@tests/checks/coverage.sh

lint: build/page.inc  ## clang-format, clang-tidy, cppcheck, shellcheck
	@tests/checks/lint.sh

# ---- installing -----------------------------------------------------------------------------------

PREFIX = /usr/local

install: stage3  ## stage 3 as ngrok--d and ngrok--, to PREFIX
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 $(OUT)stage3-local/server $(DESTDIR)$(PREFIX)/bin/ngrok--d
	install -m 755 $(OUT)stage3-local/client $(DESTDIR)$(PREFIX)/bin/ngrok--
	stage3-local/deploy/install "$(PREFIX)" "$(DESTDIR)"

uninstall:  ## remove what install installed
	rm -f $(DESTDIR)$(PREFIX)/bin/ngrok--d $(DESTDIR)$(PREFIX)/bin/ngrok--
	stage3-local/deploy/install -u "$(PREFIX)" "$(DESTDIR)"

# ---- the rest -------------------------------------------------------------------------------------

clean:  ## remove everything that was built
	rm -rf build $(foreach s,$(STAGES),$s/server $s/client) stage3-local/app

# With those of the stages' tests, and made for a window of 80 columns.
help:  ## list these targets
	@sed '/^# ---- testing/r tests/stages/stage-tests.mk' Makefile | awk -F ':.*## *' \
	 '/^# ----/ { gap = shown } \
	 /^[a-z0-9 -]+:.*## / { sub(/ .*stage/, "..", $$1); printf "%s  make %-19s %s\n", gap ? "\n" : "", $$1, $$2; \
	                        gap = 0; shown = 1 }'

.PHONY: all stage0 stage1 stage2 stage3 FORCE demo diff-stage1 diff-stage2 diff-stage3 nat-lab nat-lab-down \
        test build-tests need-tmp need-cmocka test-common $(UNIT_TESTS:%=run-%) test-walkthrough test-faults \
        test-syscalls test-mutants test-platforms test-emulated test-as-on-macos test-repeat test-valgrind test-nat \
        test-browser test-real test-deploy fuzz soak bench bench-far bench-peers bench-growth bench-idle \
        bench-syscalls coverage coverage-report lint install uninstall clean help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
