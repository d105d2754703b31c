# heirloom: build, test, install. `make help` lists the targets and switches.

VERSION := 0.1.0
BUILD   ?= build
PREFIX  ?= /usr/local
CC      ?= cc
# SANITIZE=address builds with ASan and UBSan, SANITIZE=thread with TSan; each in a folder of its own.
SANITIZE ?=
DEBUG    ?= 0

PACKAGES := libpng libjpeg libzip jansson yaml-0.1 nettle

# What a warning of the optimiser says hangs on how it optimises: errors where the program itself is built.
WARNINGS := -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Werror$(if $(SANITIZE),=implicit-function-declaration)
# -g1: lines for backtraces and profiles; variables too with DEBUG=1. Sanitizers' checks are not worth optimising: with
# them -O3 compiles six times as long as -O1.
CFLAGS   ?= $(if $(SANITIZE),-O1,-O3) -g1
# -fno-math-errno: nobody reads errno after sqrtf, and setting it keeps loops from being vectorised; no result changes.
STANDARD := -std=c17 -D_GNU_SOURCE -fvisibility=hidden -fPIC -fopenmp -pthread -fno-math-errno
INCLUDES := $(if $(filter thread,$(SANITIZE)),-Itests/plain_criterion) -Iinclude -Ihost -I. $(shell pkg-config --cflags $(PACKAGES))
HOST_LIBS := $(shell pkg-config --libs $(PACKAGES)) -ldnnl -lm
LIBS      = $(HOST_LIBS) $(CUDA_LIBS)

ifeq ($(SANITIZE),address)
override BUILD := $(BUILD)-asan
SANITIZER := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
STANDARD  += $(SANITIZER)
else ifeq ($(SANITIZE),thread)
override BUILD := $(BUILD)-tsan
SANITIZER := -fsanitize=thread
STANDARD  += $(SANITIZER)
endif
CRITERION := -lcriterion
ifeq ($(DEBUG),1)
CFLAGS := -O0 -g3
endif

# CUDA=1 builds the CUDA backend; the default where nvcc is found. Sanitizer builds are for the host: without.
# CUDA_ARCHS: compute capabilities to build kernels for; those of the devices present, else all that are supported.
NVCC      ?= $(shell command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null)
CUDA      ?= $(if $(SANITIZE),0,$(if $(NVCC),1,0))
CUDA_HOME ?= $(if $(NVCC),$(abspath $(dir $(NVCC))..),/usr/local/cuda)
CUDA_ARCHS ?= $(or $(shell nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | tr -d . | sort -u),\
                80 86 89 90 100 120)
CUDA_HEADERS := -isystem $(CUDA_HOME)/include
# CUDA=double (for tests of the tests): the CUDA backend on a double of CUDA's libraries, which computes on the CPU.
ifeq ($(CUDA),double)
CUDA_LIBS := -lstdc++
else ifeq ($(CUDA),1)
ifeq ($(NVCC),)
$(error CUDA=1, but nvcc was not found: put it on PATH or set NVCC=)
endif
CUDA_LIBS := -L$(CUDA_HOME)/lib64 -Wl,-rpath,$(CUDA_HOME)/lib64 -lcudnn -lcublasLt -lcudart_static -ldl -lrt -lstdc++
NVCCFLAGS ?= -O3
CUDA_CODE := $(foreach arch,$(CUDA_ARCHS),-gencode arch=compute_$(arch),code=sm_$(arch)) \
             -gencode arch=compute_$(lastword $(CUDA_ARCHS)),code=compute_$(lastword $(CUDA_ARCHS))
KERNEL_OBJECTS := $(patsubst %.cu,$(BUILD)/obj/%.o,$(wildcard kernels/*.cu))
endif

comma := ,
# V=1 shows the whole command lines.
V ?= 0
Q := $(if $(filter 1,$(V)),,@)

COMPILE = $(CC) $(STANDARD) $(CFLAGS) $(WARNINGS) $(INCLUDES) -DHL_VERSION='"$(VERSION)"' -MMD -MP

CLI_SOURCES  := $(wildcard host/cli/*.c)
CUDA_SOURCES := $(wildcard host/backend/cuda/*.c)
WITHOUT_CUDA := host/backend/without_cuda.c
HOST_SOURCES := $(filter-out $(CLI_SOURCES) $(CUDA_SOURCES) $(WITHOUT_CUDA),$(wildcard host/*/*.c host/*/*/*.c)) \
                $(wildcard models/*.c)
HOST_OBJECTS := $(HOST_SOURCES:%.c=$(BUILD)/obj/%.o)
CLI_OBJECTS  := $(CLI_SOURCES:%.c=$(BUILD)/obj/%.o)
CUDA_OBJECTS := $(CUDA_SOURCES:%.c=$(BUILD)/obj/%.o)
NO_CUDA_OBJECT := $(WITHOUT_CUDA:%.c=$(BUILD)/obj/%.o)
SHIM_OBJECTS := $(patsubst %.cu,$(BUILD)/obj/shim/%.o,$(wildcard kernels/*.cu)) \
                $(patsubst %.cpp,$(BUILD)/obj/shim/%.o,$(wildcard tests/cuda_shim/*.cpp))
DOUBLE_OBJECTS := $(patsubst tests/%.cpp,$(BUILD)/obj/%.o,$(wildcard tests/cuda_double/*.cpp))
BACKEND_0      := $(NO_CUDA_OBJECT)
BACKEND_1      := $(CUDA_OBJECTS) $(KERNEL_OBJECTS)
BACKEND_double := $(CUDA_OBJECTS) $(SHIM_OBJECTS) $(DOUBLE_OBJECTS)
LIB_OBJECTS    := $(HOST_OBJECTS) $(BACKEND_$(CUDA))

# Tests of the CUDA backend need the toolkit's headers; those that ask the real cuDNN need the backend.
HAVE_CUDA_HEADERS := $(wildcard $(CUDA_HOME)/include/cudnn.h)
TEST_SOURCES  := $(filter-out $(if $(HAVE_CUDA_HEADERS),,tests/cuda/%) \
                     $(if $(filter 1,$(CUDA)),,tests/cuda/test_plans.c),$(wildcard tests/*/test_*.c))
TEST_PROGRAMS := $(TEST_SOURCES:%.c=$(BUILD)/%)
SUPPORT_OBJECTS := $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard tests/support/*.c))
# Device memory that tests can read and write where it lies (tests/cuda/managed.c).
MANAGED   := $(if $(filter 1,$(CUDA)),$(BUILD)/obj/tests/cuda/managed.o)
TEST_LIBS  = $(if $(MANAGED),-Wl$(comma)--wrap=cudaMalloc) $(LIBS)
ifeq ($(SANITIZE),thread)
# Criterion cannot run under the thread sanitizer.
SUPPORT_OBJECTS += $(BUILD)/obj/tests/plain_criterion/main.o
CRITERION :=
endif

.PHONY: FORCE all lib test test-programs check-kernels device-programs test-device sanitize sanitize-threads lint fuzz bench bench-smoke check-models install uninstall clean help
all: lib $(if $(CLI_SOURCES),$(BUILD)/heirloom)
lib: $(BUILD)/libheirloom.a $(BUILD)/libheirloom.so

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo "CC $<"
	$(Q)$(COMPILE) -c $< -o $@

$(BUILD)/obj/host/backend/cuda/%.o: INCLUDES += $(CUDA_HEADERS)

$(BUILD)/obj/kernels/%.o: kernels/%.cu
	@mkdir -p $(@D)
	@echo "NVCC $< ($(CUDA_ARCHS))"
	$(Q)$(NVCC) -std=c++17 $(NVCCFLAGS) $(CUDA_CODE) --threads 2 -Xcompiler=-fPIC,-fvisibility=hidden -Werror all-warnings \
	    -Xptxas --warn-on-spills,--warn-on-local-memory-usage,-Werror --compress-mode=size -Ihost -I. -MMD -MP -c $< -o $@

# What the libraries are made of, in a file that changes when the answer does (CUDA=0 after CUDA=1, a source removed).
$(BUILD)/objects: FORCE
	@mkdir -p $(@D)
	@echo '$(LIB_OBJECTS) $(CUDA_ARCHS)' | cmp -s - $@ || echo '$(LIB_OBJECTS) $(CUDA_ARCHS)' > $@

$(BUILD)/libheirloom.a: $(LIB_OBJECTS) $(BUILD)/objects
	@echo "AR $@"
	$(Q)rm -f $@ && ar rcs $@ $(LIB_OBJECTS)

# The library without CUDA, whatever CUDA is: for tests that bring a CUDA backend of their own.
$(BUILD)/obj/libhost.a: $(HOST_OBJECTS) $(NO_CUDA_OBJECT) $(BUILD)/objects
	@echo "AR $@"
	$(Q)rm -f $@ && ar rcs $@ $(HOST_OBJECTS) $(NO_CUDA_OBJECT)

$(BUILD)/libheirloom.so: $(LIB_OBJECTS) $(BUILD)/objects
	@echo "LD $@"
	$(Q)$(CC) $(STANDARD) $(CFLAGS) -shared -Wl,-soname,libheirloom.so -o $@ $(LIB_OBJECTS) $(LIBS)

$(BUILD)/heirloom: $(CLI_OBJECTS) $(BUILD)/libheirloom.a
	@echo "LD $@"
	$(Q)$(CC) $(STANDARD) $(CFLAGS) -o $@ $^ $(LIBS)

# A test file is a program of its own: tests/DIR/test_X.c mirrors host/DIR/X.c.
$(BUILD)/tests/%: tests/%.c $(SUPPORT_OBJECTS) $(MANAGED) $(BUILD)/libheirloom.a
	@mkdir -p $(@D)
	@echo "LD $@"
	$(Q)$(COMPILE) -Itests -MF $@.d $< $(SUPPORT_OBJECTS) $(MANAGED) $(BUILD)/libheirloom.a -o $@ $(CRITERION) $(TEST_LIBS)

$(BUILD)/obj/tests/%.o: STANDARD += -Itests

include tests/cuda/cuda.mk

# The example is built as a user would build it: against the public headers alone.
$(BUILD)/tests/examples/train: tests/examples/train.c $(BUILD)/libheirloom.a
	@mkdir -p $(@D)
	@echo "LD $@"
	$(Q)$(CC) -std=c17 $(CFLAGS) $(WARNINGS) -fopenmp -Iinclude $< $(BUILD)/libheirloom.a -o $@ $(LIBS) $(SANITIZER)

# These run the program.
$(filter $(BUILD)/tests/cli/%,$(TEST_PROGRAMS)): | $(BUILD)/heirloom

# On a CUDA device: every test that has a device to choose, the tests of kernels, and both backends beside each other.
DEVICE_SUITE = $(filter $(addprefix $(BUILD)/tests/,backend/% graph/% method/% models/% train/% cli/%),$(TEST_PROGRAMS))
device-programs: $(DEVICE_SUITE) $(DEVICE_TESTS)
test-device: all device-programs
	HEIRLOOM_TEST_DEVICE=cuda scripts/run_tests.sh $(DEVICE_SUITE) $(DEVICE_TESTS)

test-programs: $(TEST_PROGRAMS) $(ON_DOUBLE) $(BUILD)/tests/examples/train $(BUILD)/tests/models/gradients
# Programs that take more than ten seconds, the longest first: what is started last is short, and no core idles at the end.
LONGEST := cuda/test_cuda_train cuda/test_cuda_agree models/test_goldens method/test_adapters cuda/test_plans method/test_methods train/test_step_goldens train/test_trainer \
           cli/test_commands cli/test_bad_input cuda/test_cuda_step train/test_features method/test_method bench/test_smoke \
           train/test_checkpoint models/test_weights backend/test_conv graph/test_frontier
longest_first = $(foreach p,$(LONGEST),$(filter %/tests/$p,$1)) $(filter-out $(addprefix %/tests/,$(LONGEST)),$1)
test: all test-programs
	scripts/run_tests.sh $(call longest_first,$(ON_DOUBLE) $(TEST_PROGRAMS))

# No kernel spills registers, on any architecture.
check-kernels: $(KERNEL_OBJECTS)
	$(if $(KERNEL_OBJECTS),CUDA_HOME=$(CUDA_HOME) scripts/check_kernels.sh $(BUILD)/tools $(KERNEL_OBJECTS),@echo "check-kernels: SKIPPED, this build is without CUDA")

# The tests again, under the sanitizer this build is for.
# Not whole training runs on the double of CUDA nor both backends beside each other, which take minutes: the double's steps
# and programs run the same code.
SANITIZED := $(filter-out $(BUILD)/tests/cuda/test_cuda_train $(BUILD)/tests/cuda/test_cuda_agree,$(TEST_PROGRAMS))
sanitize: $(SANITIZED)
	scripts/run_tests.sh $(call longest_first,$(SANITIZED))
THREAD_TESTS := $(filter $(BUILD)/tests/data/test_loader_threads $(BUILD)/tests/kernels/%,$(TEST_PROGRAMS))
sanitize-threads: $(THREAD_TESTS)
	scripts/run_tests.sh $(call longest_first,$(THREAD_TESTS))

# Training throughput beside PyTorch; BENCH='--models resnet50 ...' narrows it (scripts/bench.py).
bench: all
	python=$$(scripts/python_env.sh) && $$python scripts/bench.py --program $(BUILD)/heirloom $(BENCH)

# Every model beside PyTorch's: logits, gradients, memory, names of tensors. CHECK='resnet --parts logits,timm' narrows it.
check-models: all $(BUILD)/tests/models/gradients
	python=$$(scripts/python_env.sh) && $$python scripts/check_models.py --program $(BUILD)/heirloom \
	    --gradients $(BUILD)/tests/models/gradients $(CHECK)

# What a training step consists of, counted; part of `make test` as well.
bench-smoke: $(BUILD)/tests/bench/test_smoke
	scripts/run_tests.sh $<

# Each tests/fuzz/fuzz_X.c with libFuzzer where clang is there; else a program that replays the corpus. Run for
# FUZZ_SECONDS each, from a corpus that stays in $(BUILD)/fuzz.
FUZZ_SECONDS  ?= 30
FUZZ_CC       ?= $(shell command -v clang || command -v clang-14)
FUZZ_SOURCES  := $(wildcard host/base/*.c host/io/*.c host/data/*.c) tests/fuzz/touch.c
FUZZ_PROGRAMS := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/bin/%,$(wildcard tests/fuzz/fuzz_*.c))
FUZZ_FLAGS    := -std=c17 -DHL_VERSION='"$(VERSION)"' -D_GNU_SOURCE -g -O1 -fno-omit-frame-pointer -fno-sanitize-recover=undefined -Itests

$(BUILD)/fuzz/bin/%: tests/fuzz/%.c $(FUZZ_SOURCES) tests/fuzz/replay.c $(wildcard host/base/*.h host/io/*.h host/data/*.h)
	@mkdir -p $(@D)
	@echo "LD $@"
	$(Q)$(if $(FUZZ_CC),$(FUZZ_CC) -fsanitize=fuzzer,$(CC) tests/fuzz/replay.c) -fsanitize=address,undefined \
	    $(FUZZ_FLAGS) $(INCLUDES) $< $(FUZZ_SOURCES) -o $@ $(LIBS)

fuzz: $(FUZZ_PROGRAMS)
	scripts/fuzz.sh $(FUZZ_SECONDS) $(BUILD)/fuzz/corpus $(FUZZ_PROGRAMS)

# PREFIX=/usr/local DESTDIR= : the program, the libraries, headers, pkg-config file, man page and bash completion.
INSTALLED_HEADERS := $(wildcard include/heirloom/*.h)
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/lib/pkgconfig $(DESTDIR)$(PREFIX)/include/heirloom \
	    $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 755 $(BUILD)/heirloom $(DESTDIR)$(PREFIX)/bin/heirloom
	install -m 644 $(BUILD)/libheirloom.a $(DESTDIR)$(PREFIX)/lib/libheirloom.a
	install -m 755 $(BUILD)/libheirloom.so $(DESTDIR)$(PREFIX)/lib/libheirloom.so
	install -m 644 $(INSTALLED_HEADERS) $(DESTDIR)$(PREFIX)/include/heirloom/
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@VERSION@|$(VERSION)|' -e 's|@PACKAGES@|$(PACKAGES)|' \
	    -e 's|@CUDA_LIBS@|$(CUDA_LIBS)|' scripts/heirloom.pc.in \
	    > $(DESTDIR)$(PREFIX)/lib/pkgconfig/heirloom.pc
	$(BUILD)/heirloom --man > $(DESTDIR)$(PREFIX)/share/man/man1/heirloom.1
	$(BUILD)/heirloom --bash-completion > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/heirloom

uninstall:
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/,bin/heirloom lib/libheirloom.a lib/libheirloom.so lib/pkgconfig/heirloom.pc \
	    share/man/man1/heirloom.1 share/bash-completion/completions/heirloom)
	rm -rf $(DESTDIR)$(PREFIX)/include/heirloom

lint:
	scripts/lint.sh

clean:
	rm -rf $(BUILD)

help:
	@echo "make [all]     library and program in $(BUILD)/"
	@echo "make test      build and run every test"
	@echo "make bench     training throughput beside PyTorch"
	@echo "make bench-smoke  what a training step consists of has not grown"
	@echo "make check-models  every model beside PyTorch's, CHECK='NAME... OPTION...'; takes hours"
	@echo "make install   into PREFIX=$(PREFIX); DESTDIR= for packagers; make uninstall"
	@echo "make fuzz      every parser on random input, FUZZ_SECONDS=30 each"
	@echo "make lint      formatting, layering of includes, file length"
	@echo "switches: SANITIZE=address|thread DEBUG=1 BUILD=DIR CC=COMPILER PREFIX=DIR"
	@echo "          CUDA=0|1 (now $(CUDA)) CUDA_ARCHS=\"80 90\" NVCC=COMPILER CUDA_HOME=DIR"

# Objects stay, also those that only test programs are made of.
.SECONDARY:

-include $(LIB_OBJECTS:.o=.d) $(NO_CUDA_OBJECT:.o=.d) $(CLI_OBJECTS:.o=.d) $(SUPPORT_OBJECTS:.o=.d) $(TEST_PROGRAMS:%=%.d)
