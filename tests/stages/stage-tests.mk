# The tests of the stages, from outside: a part of the Makefile at the top.
#
#   make test-stage2                  our server and client
#   make test-stage2 DIR=my-stage2    my-stage2/server and my-stage2/client, in whatever language; those
#                                     whose .c is there are built from it, with the objects of common/
#   make test-stage2 ONLY='*token*'   those tests alone whose names are like that
#   make my-stage2                    builds those, and tests nothing
#   make try-stage2                   makes my-stage2 to begin with: stage 1's code, and a note on what to add

HARNESS = $(patsubst %,$(BUILD)/tests/%.o,stages/harness stages/peers stages/segments basics)
STAGE_PARTS = $(patsubst %,$(BUILD)/tests/stages/%.o,roles spec_cli spec_control spec_join spec_proxy)
STAGE_TESTS = $(foreach n,0 1 2 3,$(BUILD)/tests/stages/test_stage$n)
WORDS_TEST = $(BUILD)/tests/stages/test_words

$(STAGE_TESTS) $(WORDS_TEST): %: %.o $(STAGE_PARTS) $(HARNESS)
	@echo "  link     $@"
	$Q$(LINK) -o $@ $^ $$(pkg-config --libs cmocka)

build-tests: $(STAGE_TESTS) $(WORDS_TEST)

# A reader's own programs, unless DIR is one of our folders. -Icommon finds "../common/..." from anywhere.
OWN_DIR = $(patsubst %/,%,$(DIR))
OWN = $(filter-out $(PROGRAMS),$(patsubst %.c,%,$(wildcard $(addprefix $(OWN_DIR)/,$(if $(DIR),server.c client.c)))))

$(OWN): %: %.c $(BUILD)/common.a $(wildcard common/*.h) $(BUILD)/flags
	@echo "  build    $@"
	$Q$(COMPILE) $(MODE_LDFLAGS) $(LDFLAGS) -Icommon -o $@ $< $(BUILD)/common.a

# `make my-stage2` builds a reader's own programs, without a test; `make` inside a folder builds what is in it.
MINE = $(patsubst %/,%,$(wildcard my-*/))
$(MINE):
	@$(MAKE) build-folder DIR=$@

build-folder: $(or $(filter $(OUT)$(OWN_DIR)/%,$(PROGRAMS)),$(OWN))

PATTERN = $(if $(ONLY),'$(ONLY)')  # in quotes: a * is the tests' business, not the shell's
HINT = $(if $(DIR),|| { echo "What goes over its wires:  make $(@:test-%=show-%) DIR=$(DIR)"; exit 1; })

test-stage0: $(BUILD)/tests/stages/test_stage0 $(if $(DIR),$(OWN),stage0)  ## test stage 0 (DIR=folder: your own)
	@$< $(or $(OWN_DIR),$(OUT)stage0-pipe) $(PATTERN) $(HINT)
test-stage1: $(BUILD)/tests/stages/test_stage1 $(if $(DIR),$(OWN),stage1)  ## test stage 1 (DIR=folder: your own)
	@$< $(or $(OWN_DIR),$(OUT)stage1-control) $(PATTERN) $(HINT)
test-stage2: $(BUILD)/tests/stages/test_stage2 $(if $(DIR),$(OWN),stage2)  ## test stage 2 (DIR=folder: your own)
	@$< $(or $(OWN_DIR),$(OUT)stage2-proxy) $(PATTERN) $(HINT)
test-stage3: $(BUILD)/tests/stages/test_stage3 $(if $(DIR),$(OWN),stage3)  ## test stage 3 (DIR=folder: your own)
	@$< $(or $(OWN_DIR),$(OUT)stage3-local) $(PATTERN) $(HINT)

test-words: $(WORDS_TEST) stage3  ## stage 3 says what is wrong, and what to do
	@$< $(OUT)stage3-local $(PATTERN)

TESTS += test-words

try-stage0 try-stage1 try-stage2 try-stage3: try-stage%:  ## write stage N yourself: makes my-stageN
	@tests/stages/try-stage.sh $*

# What goes over the wires of a stage, ours or a reader's own, drawn as a ladder.
show-stage0 show-stage1 show-stage2 show-stage3: show-stage%: all $(OWN)  ## see stage N talk (DIR=folder, SHOW=svg)
	@tests/show/show $* $(or $(OWN_DIR),$(OUT)$(filter stage$*%,$(STAGES)))

test-show: all  ## the ladders show what goes right, and wrong
	@tests/show/show test

# The same tests hold for programs in another language.
test-other-language: $(STAGE_TESTS)  ## stages 1 to 3 in Python pass the same tests
	@tests/other-language/run $(BUILD)/tests/stages

# What a half-finished program does must not hang or confuse the tests.
test-harness: $(BUILD)/tests/stages/hostile/test_hostile $(STAGE_TESTS) stage1  ## hold the tests against programs that misbehave
	@$< tests/stages/hostile $(BUILD)/tests/stages $(OUT)stage1-control/client

$(BUILD)/tests/stages/hostile/test_hostile: %: %.o $(HARNESS)
	@echo "  link     $@"
	$Q$(LINK) -o $@ $^ $$(pkg-config --libs cmocka)

build-tests: $(BUILD)/tests/stages/hostile/test_hostile

ifeq ($(UNAME),Linux)  # elsewhere nobody hands over what a program has left behind
  TESTS += test-harness
endif
ifeq ($(SANITIZE)$(COVERAGE),)
  TESTS += test-other-language test-show
else
  NOT_HERE += test-other-language test-show
endif

.PHONY: $(MINE) build-folder test-stage0 test-stage1 test-stage2 test-stage3 test-words \
        try-stage0 try-stage1 try-stage2 try-stage3 show-stage0 show-stage1 show-stage2 show-stage3 \
        test-show test-other-language test-harness
