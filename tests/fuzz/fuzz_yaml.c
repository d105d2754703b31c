/* Any bytes as a configuration; every value is asked for as every type. */
#include "fuzz/fuzz.h"
#include "io/yaml.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    hl_yaml *yaml;
    hl_status status = hl_yaml_parse("fuzz", (const char *)bytes, size, &yaml);
    for (size_t i = 0; status == HL_OK && i < hl_yaml_count(yaml); i++) {
        const hl_yaml_item *item = hl_yaml_find(yaml, hl_yaml_at(yaml, i)->key);
        const char *text;
        bool truth;
        int64_t integer;
        double real;
        hl_yaml_text(yaml, item, &text);
        hl_yaml_bool(yaml, item, &truth);
        hl_yaml_int(yaml, item, &integer);
        hl_yaml_real(yaml, item, &real);
    }
    if (status == HL_OK && hl_yaml_unused(yaml) != NULL)
        __builtin_trap();
    hl_yaml_destroy(yaml);
    return 0;
}
