# Tests of the CUDA backend: kernels on the CPU, the backend on a double of CUDA's libraries, both on a device.

# The kernels compiled for the CPU (tests/cuda_shim). What they keep in .bss is shared memory, which the shim looks for
# under another name. The shim's own code is not what the thread sanitizer is for.
CXX     ?= c++
OBJCOPY ?= objcopy
SHIM_FLAGS = -std=c++17 $(if $(SANITIZE),-O1,-O2) -g1 -fopenmp -fPIC -Wall -Wextra -Wshadow -Wno-unknown-pragmas -Werror -Itests/cuda_shim -Itests \
             -Ihost -I. -MMD -MP
$(BUILD)/obj/shim/%.o: %.cu
	@mkdir -p $(@D)
	@echo "CXX $<"
	$(Q)$(CXX) $(SHIM_FLAGS) $(SANITIZER) -x c++ -c $< -o $@
	$(Q)$(OBJCOPY) --rename-section .bss=cuda_shared $@
$(BUILD)/obj/shim/%.o: %.cpp
	@mkdir -p $(@D)
	@echo "CXX $<"
	$(Q)$(CXX) $(SHIM_FLAGS) $(filter-out -fsanitize=thread,$(SANITIZER)) -c $< -o $@

KERNEL_RIG := $(BUILD)/obj/tests/kernels/kernel_rig.o
SHIM_SAMPLE := $(BUILD)/obj/shim/tests/cuda_shim/sample.o
KERNEL_TESTS := $(filter $(BUILD)/tests/kernels/%,$(TEST_PROGRAMS))
$(BUILD)/tests/kernels/test_shim: $(SHIM_SAMPLE)
$(KERNEL_TESTS): $(BUILD)/%: %.c $(KERNEL_RIG) $(BUILD)/obj/tests/kernels/memory_shim.o $(SUPPORT_OBJECTS) $(SHIM_OBJECTS) \
    $(BUILD)/obj/libhost.a
	@mkdir -p $(@D)
	@echo "LD $@"
	$(Q)$(COMPILE) -Itests -MF $@.d $(filter %.c %.o,$^) $(BUILD)/obj/libhost.a -o $@ $(CRITERION) $(HOST_LIBS) -lstdc++

ifneq ($(HAVE_CUDA_HEADERS),)
# The double of CUDA, cuDNN and cuBLASLt (tests/cuda_double), and its own tests: compiled against the toolkit's headers,
# never linked with its libraries.
DOUBLE_FLAGS = -std=c++17 $(if $(SANITIZE),-O1,-O3) -g1 -fopenmp -fPIC -pthread -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror \
               $(SANITIZER) $(CUDA_HEADERS) -Itests -Iinclude -Ihost -I. -MMD -MP
DOUBLE_TESTS := $(patsubst %.cpp,$(BUILD)/%,$(wildcard tests/cuda/test_double_*.cpp))
TEST_PROGRAMS += $(DOUBLE_TESTS)
$(BUILD)/obj/cuda_double/%.o: tests/cuda_double/%.cpp
	@mkdir -p $(@D)
	@echo "CXX $<"
	$(Q)$(CXX) $(DOUBLE_FLAGS) -c $< -o $@
$(BUILD)/tests/cuda/test_double_%: tests/cuda/test_double_%.cpp $(DOUBLE_OBJECTS) $(SUPPORT_OBJECTS) $(BUILD)/obj/libhost.a
	@mkdir -p $(@D)
	@echo "LD $@"
	$(Q)$(CXX) $(DOUBLE_FLAGS) -MF $@.d $< $(DOUBLE_OBJECTS) $(SUPPORT_OBJECTS) $(BUILD)/obj/libhost.a -o $@ -lcriterion \
	    $(HOST_LIBS)

# The CUDA backend on the double, with the kernels on the CPU: no device is needed, and none is used.
CUDA_RIG := $(BUILD)/obj/tests/cuda/cuda_rig.o
$(filter $(BUILD)/tests/cuda/test_cuda_%,$(TEST_PROGRAMS)): $(BUILD)/%: %.c $(CUDA_RIG) $(BUILD)/obj/tests/cuda/on_double.o \
    $(BACKEND_double) $(SUPPORT_OBJECTS) $(BUILD)/obj/libhost.a
	@mkdir -p $(@D)
	@echo "LD $@"
	$(Q)$(COMPILE) -Itests -MF $@.d $(filter %.c %.o,$^) $(BUILD)/obj/libhost.a -o $@ -lcriterion $(HOST_LIBS) -lstdc++

# Tests that have a backend to choose, once more with the CUDA backend on the double. Whole runs take too long there; steps beside PyTorch are in method/test_methods.
# Not those of headers of the CPU backend.
ON_DOUBLE := $(patsubst $(BUILD)/%,$(BUILD)/double/%,$(filter $(addprefix $(BUILD)/tests/,backend/% graph/test_frontier \
                 graph/test_program method/test_adapters method/test_inheritance method/test_methods method/test_projection models/test_goldens models/test_onnx train/test_embed \
                 train/test_features train/test_optimizer train/test_swap),$(filter-out %/test_act_math %/test_pairs,$(TEST_PROGRAMS))))
$(ON_DOUBLE): $(BUILD)/double/%: %.c $(BACKEND_double) $(SUPPORT_OBJECTS) $(BUILD)/obj/libhost.a
	@mkdir -p $(@D)
	@echo "LD $@"
	$(Q)$(COMPILE) -Itests -MF $@.d $(filter %.c %.o,$^) $(BUILD)/obj/libhost.a -o $@ $(CRITERION) $(HOST_LIBS) -lstdc++

# The same on a device, with the backend that this build has: the tests of kernels, and the two backends beside each other.
$(BUILD)/obj/tests/%/memory_device.o $(BUILD)/obj/tests/cuda/managed.o: INCLUDES += $(CUDA_HEADERS)
DEVICE_TESTS := $(patsubst $(BUILD)/%,$(BUILD)/device/%,$(filter-out %/test_shim,$(KERNEL_TESTS))) \
                $(BUILD)/device/tests/cuda/test_cuda_agree
$(filter %/test_cuda_agree,$(DEVICE_TESTS)): $(CUDA_RIG) $(BUILD)/obj/tests/cuda/on_device.o
$(filter-out %/test_cuda_agree,$(DEVICE_TESTS)): $(KERNEL_RIG) $(BUILD)/obj/tests/kernels/memory_device.o
$(DEVICE_TESTS): $(BUILD)/device/%: %.c $(SUPPORT_OBJECTS) $(MANAGED) $(BUILD)/libheirloom.a
	@mkdir -p $(@D)
	@echo "LD $@"
	$(Q)$(COMPILE) -Itests -MF $@.d $(filter %.c %.o,$^) $(BUILD)/libheirloom.a -o $@ -lcriterion $(TEST_LIBS)
endif

-include $(wildcard $(BUILD)/obj/tests/cuda/*.d $(BUILD)/obj/tests/kernels/*.d) $(SHIM_OBJECTS:.o=.d) $(SHIM_SAMPLE:.o=.d) $(DOUBLE_OBJECTS:.o=.d) $(CUDA_OBJECTS:.o=.d) $(DEVICE_TESTS:%=%.d) $(ON_DOUBLE:%=%.d)
