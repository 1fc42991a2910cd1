# Tests of the core on the desk. Included by ../Makefile; all paths are from there.
#
#   check    unit tests and power-cut sweep under the sanitizers, coverage
#   lint     cppcheck, and the strictest warnings of the desk's compiler
#   fuzz     FUZZTIME seconds of libFuzzer for each target, all at once
#   mutants  every fault of test/mutants must be found by check

CORE_C    := $(wildcard core/*.c)
TEST_DEPS := $(wildcard core/*.[ch] test/*.[ch])
TEST_LIB  := test/fake_hal.c test/host.c
UNIT_C    := test/main.c $(wildcard test/test_*.c) $(TEST_LIB)

TEST_WARN := -Wall -Wextra -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wundef -Werror
TEST_CC   := gcc -std=gnu11 $(TEST_WARN)
SANITIZE  := -g -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
FUZZ_CC   := clang-14 -std=gnu11 -Wall -Wextra -Werror -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all

FUZZTIME  ?= 30
FUZZERS   := $(patsubst fuzz/%.c,%,$(wildcard fuzz/fuzz_*.c))

.PHONY: check unit sweep coverage lint fuzz mutants

check: unit sweep coverage

out/unit: $(UNIT_C) $(TEST_DEPS)
	@mkdir -p out
	$(TEST_CC) $(SANITIZE) -o $@ $(UNIT_C) $(CORE_C)

unit: out/unit
	timeout 300 out/unit

# The sweep is about what survives a cut: it runs without sanitizers, and all of its cases.
out/sweep: test/sweep.c $(TEST_LIB) $(TEST_DEPS)
	@mkdir -p out
	$(TEST_CC) -g -O2 -flto -o $@ test/sweep.c $(TEST_LIB) $(CORE_C)

sweep: out/sweep
	timeout 300 out/sweep

out/codec: test/codec.c core/link.c $(TEST_DEPS)
	@mkdir -p out
	$(TEST_CC) $(SANITIZE) -o $@ test/codec.c core/link.c

# Coverage of core/ by the unit tests alone. Sanitizers would add branches of their own.
out/cov/unit: $(UNIT_C) $(TEST_DEPS)
	@rm -rf out/cov && mkdir -p out/cov
	cd out/cov && $(TEST_CC) -g -O0 --coverage -o unit $(addprefix ../../,$(UNIT_C) $(CORE_C))

coverage: out/cov/unit
	@rm -f out/cov/*.gcda
	cd out/cov && timeout 300 ./unit >/dev/null
	cd out/cov && gcovr --root ../.. --filter '../../core/' --exclude-unreachable-branches \
		--fail-under-line 95 --fail-under-branch 85 .

# What cppcheck may not say, and why:
#   missingIncludeSystem  it has neither libc nor avr-libc and needs none of them
# What it is told instead of avr-libc: the macros that are no C, as plain C.
CPPCHECK := timeout 120 cppcheck --quiet --std=c11 --enable=warning,style,performance,portability \
	--error-exitcode=1 --inline-suppr --suppress=missingIncludeSystem -Icore
AVR_LIBC := -D__AVR_ATmega2560__ -DF_CPU=16000000UL '-DATOMIC_BLOCK(how)=' '-DISR(vector)=void vector(void)' '-D_BV(bit)=(1<<(bit))'

lint:
	$(CPPCHECK) --platform=avr8 core
	$(CPPCHECK) --platform=avr8 -Iavr $(AVR_LIBC) avr
	$(CPPCHECK) test fuzz
	for f in $(CORE_C) $(wildcard test/*.c fuzz/*.c); do \
		timeout 60 $(TEST_CC) -O2 -Wsign-conversion -Wcast-qual -Wvla -Wno-missing-prototypes -fsyntax-only $$f || exit 1; \
	done

out/fuzz_link: fuzz/fuzz_link.c core/link.c $(TEST_DEPS)
	@mkdir -p out
	$(FUZZ_CC) -o $@ fuzz/fuzz_link.c core/link.c

out/fuzz_%: fuzz/fuzz_%.c fuzz/life.c fuzz/life.h $(TEST_LIB) $(TEST_DEPS)
	@mkdir -p out
	$(FUZZ_CC) -o $@ $< fuzz/life.c $(TEST_LIB) $(CORE_C)

fuzz: $(addprefix out/,$(FUZZERS))
	@for f in $(FUZZERS); do \
		mkdir -p out/corpus/$$f; \
		(timeout $$(($(FUZZTIME) + 60)) out/$$f -max_total_time=$(FUZZTIME) -max_len=6000 -timeout=20 \
			-artifact_prefix=out/$$f- -print_final_stats=1 out/corpus/$$f > out/$$f.log 2>&1 || touch out/$$f.failed) & \
	done; wait; \
	bad=0; for f in $(FUZZERS); do \
		echo "$$f: $$(grep -ao 'stat::number_of_executed_units: *[0-9]*' out/$$f.log | grep -o '[0-9]*$$') runs"; \
		if [ -e out/$$f.failed ]; then tail -40 out/$$f.log; rm out/$$f.failed; bad=1; fi; \
	done; exit $$bad

mutants:
	timeout 1800 test/mutants.sh
