/* Any bytes as an ONNX file. */
#include <string.h>

#include "fuzz/fuzz.h"
#include "io/onnx.h"

static void touch(const hl_onnx *m)
{
    volatile size_t sum = 0;
    for (size_t i = 0; i < m->node_count; i++) {
        const hl_onnx_node *n = &m->nodes[i];
        sum += strlen(n->name) + strlen(n->op) + strlen(n->domain);
        for (int k = 0; k < n->in_count; k++)
            sum += strlen(n->in[k]);
        for (int k = 0; k < n->out_count; k++)
            sum += strlen(n->out[k]);
        for (int k = 0; k < n->attr_count; k++) {
            const hl_onnx_attr *a = &n->attrs[k];
            sum += strlen(a->name) + strlen(a->s);
            for (int j = 0; j < a->count; j++)
                sum += a->floats != NULL ? a->floats[j] > 0.0f : a->ints[j] > 0;
            for (size_t j = 0; a->tensor != NULL && j < a->tensor->bytes; j++)
                sum += ((const unsigned char *)a->tensor->data)[j];
        }
    }
    for (size_t i = 0; i < m->input_count; i++)
        sum += strlen(m->inputs[i].name);
    for (size_t i = 0; i < m->output_count; i++)
        sum += strlen(m->outputs[i].name);
    (void)sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    hl_onnx *model;
    if (hl_onnx_parse("fuzz", bytes, size, NULL, &model) == HL_OK) {
        touch(model);
        fuzz_touch(model->tensors);
        hl_onnx_destroy(model);
    }
    return 0;
}
