# make demo    a stock kernel judged clean, broken modules found out; ARGS="stock --time 5s" narrows it
# make test    formatting, lints and all tests, in the VM too; ARGS goes to `cargo test`
# make bench   figures of this machine; needs root
# make scoreboard  break the kernel in every way known, and write what was noticed into README.md
# make setup   install what is missing

ARGS =
TARGET = $(or $(CARGO_TARGET_DIR),target)
FAULTLINE = $(TARGET)/release/faultline
export PATH := $(PATH):$(HOME)/.cargo/bin

.PHONY: demo test bench scoreboard setup build

demo: build
	$(FAULTLINE) demo $(ARGS)

test:
	scripts/test $(ARGS)

bench: build
	$(FAULTLINE) bench analysis
	$(FAULTLINE) bench vm
	scripts/with-loop-xfs $(FAULTLINE) bench fault

scoreboard: build
	scripts/scoreboard $(ARGS)

setup:
	scripts/setup

build:
	scripts/setup packages
	cargo build --release --locked
