# make demo              everything from a bare Debian 12 to a described sample video
# make demo FILE=path    the same for your own video
# make test              the whole test suite
# make bench             the figures of the README
# make bench-decoder     those of the decoder of generator packs alone
# Each target installs what is missing, says what it downloads, and does nothing twice.

DATA := $(or $(XDG_DATA_HOME),$(HOME)/.local/share)/describe
PACK := $(DATA)/packs/lite
OUT := target/demo
DESCRIBE := target/release/describe

BUILD_PACKAGES := gcc g++ pkg-config clang libclang-dev libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev libopencv-imgproc-dev
RUN_PACKAGES := gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad \
	gstreamer1.0-plugins-ugly gstreamer1.0-libav python3-venv
SAMPLE_PACKAGES := gcompris-qt-data flite
TEST_PACKAGES := gstreamer1.0-x ffmpeg

.PHONY: help build pack sample demo test lint bench bench-decoder
help:
	@sed -n 's/^# //p' Makefile

.PHONY: system-build system-run system-sample system-test
system-build:; @pipelines/setup.sh $(BUILD_PACKAGES)
system-run:; @pipelines/setup.sh $(RUN_PACKAGES)
system-sample:; @pipelines/setup.sh $(SAMPLE_PACKAGES)
system-test:; @pipelines/setup.sh $(TEST_PACKAGES)

build: system-build
	cargo build --release --workspace

pack: system-run
	@python3 models/lite/fetch.py --out "$(PACK)" --runtime "$(DATA)/runtime"

sample: system-run system-sample
	@python3 pipelines/sample/make_sample.py --out target/sample

ifdef FILE
demo: build pack
	$(DESCRIBE) "$(FILE)" --out $(OUT)
else
demo: build pack sample
	$(DESCRIBE) target/sample/farm.mp4 --out $(OUT)
endif
	@echo "Results: $(CURDIR)/$(OUT)"; ls -l $(OUT)

# Warnings of GStreamer and GLib end a test: what is wrong there is wrong here.
test: build pack sample system-test
	python3 models/lite/labels_check.py
	python3 models/lite/verify.py --out "$(PACK)"
	DESCRIBE_REQUIRE_PACK=1 DESCRIBE_SAMPLE=$(CURDIR)/target/sample G_DEBUG=fatal-warnings cargo test --release --workspace

lint: system-build
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# The machine comes first, as figures say nothing without it.
bench: build pack sample system-test
	@python3 -B benches/compare.py --machine
	@python3 -B benches/media.py
	cargo bench
	@python3 -B benches/compare.py
	@python3 -B benches/decoder/bench.py

bench-decoder: build pack
	@python3 -B benches/decoder/bench.py
