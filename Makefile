# yaoju: two targets do all set-up on a fresh Debian machine with Go 1.26, git and
# make: `make demo` and `make test`. The others are for longer searches and figures.

BIN := .build/bin
GO  ?= go

# What the tests need beside Go: a C compiler for the race detector, Chromium for the
# screens, and a Chinese font for the console's pages;
PACKAGES := gcc libc6-dev chromium fonts-noto-cjk
# to build the motor board's firmware, run it in its simulator, and flash it;
PACKAGES += gcc-avr avr-libc simavr libsimavr-dev libelf-dev avrdude
# to test its core on the desk;
PACKAGES += clang-14 libclang-rt-14-dev llvm-14 cppcheck gcovr
# simulated computers whose kernels have GPIO lines, serial adapters and a real systemd;
PACKAGES += qemu-system-arm qemu-system-x86 mmdebstrap busybox-static fdisk e2fsprogs curl iproute2 procps cage grim
# a TPM in software, and what a larger district stands on.
PACKAGES += swtpm postgresql-15 mosquitto mosquitto-clients prometheus

.PHONY: demo build firmware guest test tools check generated arm64 desk pictures fuzz mutants soak bench font voice clean

# make demo ARGS=--firmware runs the machine's motor board on its real firmware.
demo: build $(if $(findstring firmware,$(ARGS)),firmware)
	@$(BIN)/yaoju demo $(ARGS)

build:
	@mkdir -p $(BIN)
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN) ./cmd/...

# firmware builds the motor board's program, and the simulator that runs it.
firmware: tools
	$(MAKE) -s -C firmware all boardsim

# guest fetches the kernel of the simulated computer, once.
guest: tools
	sh daemon/machine/gpio/kernel.sh .build/guest

# What runs in real time runs with nothing beside it.
ALONE := ./cmd/kioskd ./cmd/yaoju ./deploy

test: tools check generated arm64 desk firmware guest tree
	$(GO) test -race -count=1 -timeout 30m $$($(GO) list ./... | grep -v -x -F "$$($(GO) list $(ALONE))")
	@for p in $(ALONE); do echo "$(GO) test -race $$p"; $(GO) test -race -count=1 -timeout 40m $$p || exit 1; done

# tools installs what is missing, and asks nothing of a machine that has it all.
tools:
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo apt-get update -q && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -q --no-install-recommends $$missing; \
	fi

check:
	@bad=$$(gofmt -l cmd daemon deploy firmware protocol); if [ -n "$$bad" ]; then echo "not formatted by gofmt:"; echo "$$bad"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck -checks all ./...
	$(MAKE) -s -C firmware lint

# generated fails if a generated file is not what go generate writes.
generated:
	@sum() { find protocol/schema firmware/core -type f | sort | xargs sha256sum; }; \
	before=$$(sum); $(GO) generate ./... && after=$$(sum); \
	if [ "$$before" != "$$after" ]; then echo "generated files were stale; go generate ./... has rewritten them: commit them"; exit 1; fi

# The Pi's programs are pure Go: they build from any desk.
arm64:
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 $(GO) build ./cmd/...

# desk tests the firmware's core without its chip: rules, power cuts, damaged input.
desk: tools
	$(MAKE) -s -C firmware check
	$(MAKE) -s -C firmware fuzz FUZZTIME=30

# pictures takes the README's pictures from the real programs.
pictures: tools
	$(GO) test ./cmd/yaoju -run "TestDemoPages|TestRestock" -count=1 -timeout 10m -pictures $(CURDIR)/daemon/web/pictures

# fuzz gives every decoder FUZZTIME.
FUZZTIME ?= 60s
fuzz:
	@for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
			echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x $$pkg || exit 1; \
		done; \
	done

	$(MAKE) -C firmware fuzz FUZZTIME=$(patsubst %s,%,$(FUZZTIME))

# mutants shows that the tests find what they are there for: each is one fault put
# into the firmware, and each must make a test fail.
mutants: tools
	$(MAKE) -C firmware mutants

# soak kills the running machine over and over, plays random histories on twin and
# firmware, with as many seeds as SEEDS says, and cuts the firmware's power everywhere.
SEEDS ?= 200
soak: tools
	$(GO) test ./cmd/yaoju -run 'TestKill' -count=1 -timeout 24h -seeds $(SEEDS) -v
	$(GO) test ./firmware/agree -run TestRandom -count=1 -timeout 24h -seeds $(SEEDS) -first 1000
	$(GO) test ./firmware/trial -run TestPowerCuts -count=1 -timeout 24h -tears 16 -every 2ms
	$(MAKE) soak-units

# bench prints figures; it judges nothing.
bench:
	$(GO) test ./cmd/yaoju -run '^$$' -bench CardToMotor -benchtime 100x -timeout 20m
	$(GO) test ./cmd/yaoju -run '^$$' -bench 'Idle|Binary' -benchtime 1x -timeout 20m
	$(GO) test ./daemon/ledger ./daemon/district -run '^$$' -bench . -timeout 20m
	$(GO) test ./daemon/district -run '^$$' -bench Ingest -postgres -timeout 20m

# font cuts the screen's font down to the characters in chars.txt. It needs Debian's
# fonttools, python3-brotli and fonts-noto-cjk; its result is committed.
font:
	for w in Regular:regular Bold:bold; do \
		/usr/bin/pyftsubset /usr/share/fonts/opentype/noto/NotoSansCJK-$${w%%:*}.ttc --font-number=2 --text-file=daemon/web/assets/chars.txt \
			--flavor=woff2 --layout-features=tnum,locl --no-hinting --desubroutinize --name-IDs=0,1,2,3,4,5,6,13,14 \
			--output-file=daemon/web/assets/$${w##*:}.woff2; \
	done

# voice records the lines whose words have changed. It needs Debian's espeak-ng and
# opus-tools; its result is committed, and a folder of better recordings can take its place.
voice:
	$(GO) run ./daemon/voice/gen daemon/voice/clips

include deploy/deploy.mk

clean:
	rm -rf .build
