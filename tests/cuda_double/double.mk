# The double of CUDA, cuDNN and cuBLASLt (tests/cuda_double), and its own tests (tests/cuda/test_double_*.cpp).
# Compiled against the toolkit's headers, never linked with its libraries.
DOUBLE_FLAGS = -std=c++17 -O3 -g -fopenmp -pthread -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror $(SANITIZER) \
               $(CUDA_HEADERS) -Itests -Ihost -I. -MMD -MP
DOUBLE_OBJECTS := $(patsubst tests/%.cpp,$(BUILD)/obj/%.o,$(wildcard tests/cuda_double/*.cpp))
DOUBLE_TESTS := $(patsubst %.cpp,$(BUILD)/%,$(wildcard tests/cuda/test_double_*.cpp))

$(BUILD)/obj/cuda_double/%.o: tests/cuda_double/%.cpp
	@mkdir -p $(@D)
	@echo "CXX $<"
	$(Q)$(CXX) $(DOUBLE_FLAGS) -c $< -o $@

$(BUILD)/tests/cuda/test_double_%: tests/cuda/test_double_%.cpp $(DOUBLE_OBJECTS) $(SUPPORT_OBJECTS) $(BUILD)/obj/libhost.a
	@mkdir -p $(@D)
	@echo "LD $@"
	$(Q)$(CXX) $(DOUBLE_FLAGS) -MF $@.d $< $(DOUBLE_OBJECTS) $(SUPPORT_OBJECTS) $(BUILD)/obj/libhost.a -o $@ -lcriterion \
	    $(HOST_LIBS)

-include $(DOUBLE_OBJECTS:.o=.d) $(DOUBLE_TESTS:%=%.d)
