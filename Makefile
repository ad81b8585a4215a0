# Everything a reader needs; `make help` lists it.
#
#   make CC=clang            another compiler         make WERROR=1      a warning is an error
#   make CFLAGS="-O0 -g"     flags of your own        make SANITIZE=1    with address and undefined-
#                                                                        behaviour sanitizers
# SANITIZE=1 works with every target that builds or tests; its programs are in build/sanitize/.

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

# ---- flags ----------------------------------------------------------------------------------------
# CFLAGS, CPPFLAGS and LDFLAGS are yours: they come after ours, so they win.

CFLAGS ?= -g
WARNINGS = -Wall -Wextra -Wpedantic -Wshadow -Wconversion $(if $(WERROR),-Werror)

# Hardening: an overrun buffer ends the program instead of becoming a way in. FORTIFY_SOURCE needs
# an optimizing compiler.
HARDEN = -O2 -fstack-protector-strong -fPIE \
         $(if $(filter -O0,$(CFLAGS)),,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
MODE_LDFLAGS = -pie -Wl,-z,relro,-z,now

ifdef SANITIZE
  HARDEN = -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
  MODE_LDFLAGS = -fsanitize=address,undefined
endif
ifdef COVERAGE
  HARDEN = -O0 --coverage
  MODE_LDFLAGS = --coverage
endif

COMPILE = $(CC) -std=c11 -D_GNU_SOURCE -I. $(WARNINGS) $(HARDEN) $(CPPFLAGS) $(CFLAGS)
LINK = $(CC) $(HARDEN) $(MODE_LDFLAGS) $(CFLAGS) $(LDFLAGS)

# ---- building -------------------------------------------------------------------------------------

COMMON = $(patsubst %.c,$(BUILD)/%.o,$(wildcard common/*.c))
PROGRAMS = $(patsubst %.c,$(OUT)%,$(wildcard $(STAGES:=/server.c) $(STAGES:=/client.c) stage3-local/app.c))

all: stage0 stage1 stage2 stage3   ## build all stages (this is what `make` alone does)
.DEFAULT_GOAL = all

stage0: $(filter $(OUT)stage0%,$(PROGRAMS))  ## build stage 0: a pipe that joins two connections
stage1: $(filter $(OUT)stage1%,$(PROGRAMS))  ## build stage 1: the control connection
stage2: $(filter $(OUT)stage2%,$(PROGRAMS))  ## build stage 2: public and proxy connections
stage3: $(filter $(OUT)stage3%,$(PROGRAMS))  ## build stage 3: the local app, and the finishing touches

$(PROGRAMS): $(OUT)%: $(BUILD)/%.o $(BUILD)/common.a
	$(LINK) -o $@ $^

$(BUILD)/common.a: $(COMMON)
	rm -f $@ && ar rcs $@ $^

# -MMD writes down which headers a file includes, so that a changed header rebuilds what needs it.
$(BUILD)/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(COMPILE) -MMD -MP -c -o $@ $<

-include $(wildcard $(BUILD)/*/*.d $(BUILD)/tests/*/*.d)

# This file changes only when the compiler or its flags do; then everything is built anew.
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@echo '$(subst ','\'',$(COMPILE) / $(LINK))' | cmp -s - $@ || \
	 echo '$(subst ','\'',$(COMPILE) / $(LINK))' > $@
FORCE:

clean:  ## remove everything that was built
	rm -rf build $(foreach s,$(STAGES),$s/server $s/client) stage3-local/app

help:  ## list these targets
	@awk -F ':.*## *' '/^[a-z0-9 -]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: all stage0 stage1 stage2 stage3 clean help FORCE
.DELETE_ON_ERROR:
