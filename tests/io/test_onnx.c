/* ONNX files as they are read: what is in them, and what is refused. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/onnx.h"
#include "io/onnx_write.h"
#include "io/protobuf.h"
#include "support/scratch.h"

static const char *folder;

static void setup(void)
{
    folder = scratch_make();
}

static void teardown(void)
{
    scratch_remove((char *)(uintptr_t)folder);
}

TestSuite(onnx_file, .init = setup, .fini = teardown);

/* ModelProto around a graph, which is freed. */
static hl_pb_buffer model_of(hl_pb_buffer graph, uint64_t opset)
{
    hl_pb_buffer model = {0}, version = {0};
    hl_pb_put_varint(&model, 1, 8);
    hl_pb_put_varint(&version, 2, opset);
    hl_pb_put_message(&model, 8, &version);
    hl_pb_put_message(&model, 7, &graph);
    cr_assert_eq(model.status, HL_OK);
    return model;
}

/* What parsing says; the model is destroyed where it parses. */
static hl_status parse(hl_pb_buffer graph, uint64_t opset, const char *from)
{
    hl_onnx *m;
    hl_pb_buffer model = model_of(graph, opset);
    hl_status status = hl_onnx_parse("file", model.bytes, model.size, from, &m);
    if (status == HL_OK)
        hl_onnx_destroy(m);
    free(model.bytes);
    return status;
}

/* A graph with one initialiser. */
static hl_pb_buffer graph_of(hl_pb_buffer tensor)
{
    hl_pb_buffer graph = {0};
    hl_pb_put_message(&graph, 5, &tensor);
    return graph;
}

static hl_pb_buffer tensor_head(const char *name, uint64_t type, int ndim, const int64_t *dims)
{
    hl_pb_buffer t = {0};
    for (int i = 0; i < ndim; i++)
        hl_pb_put_varint(&t, 1, (uint64_t)dims[i]);
    hl_pb_put_varint(&t, 2, type);
    hl_pb_put_text(&t, 8, name);
    return t;
}

Test(onnx_file, what_is_written_reads_back)
{
    static const int64_t image[] = {-1, 3, 4, 4}, logits[] = {-1, 2}, shape[] = {2, 3}, pads[] = {1, 0, -1};
    static const float values[6] = {1, 2, 3, 4, 5, 6};
    char *path = scratch_path(folder, "net.onnx");
    hl_onnx_writer *w;
    hl_onnx *m;
    cr_assert_eq(hl_onnx_writer_create(&w), HL_OK);
    hl_onnx_put_port(w, false, "x", 4, image);
    hl_onnx_put_node(w, "Odd", "first", (const char *[]){"x", "", "w"}, 3, (const char *[]){"a", "b"}, 2);
    hl_onnx_put_int(w, "axis", -2);
    hl_onnx_put_ints(w, "pads", pads, 3);
    hl_onnx_put_float(w, "alpha", 0.25f);
    hl_onnx_put_node(w, "Relu", "second", (const char *[]){"a"}, 1, (const char *[]){"y"}, 1);
    hl_onnx_put_port(w, true, "y", 2, logits);
    hl_onnx_put_tensor(w, "w", HL_DTYPE_F32, 2, shape, values);
    hl_onnx_put_tensor(w, "n", HL_DTYPE_I64, 1, (const int64_t[]){3}, pads);
    hl_onnx_put_meta(w, "key", "value");
    cr_assert_eq(hl_onnx_writer_save(w, path), HL_OK, "%s", hl_last_error());
    hl_onnx_writer_destroy(w);

    cr_assert_eq(hl_onnx_read(path, &m), HL_OK, "%s", hl_last_error());
    cr_expect(m->opset == HL_ONNX_OPSET_WRITTEN && m->node_count == 2);
    const hl_onnx_node *n = &m->nodes[0];
    cr_expect_str_eq(n->op, "Odd");
    cr_expect_str_eq(n->name, "first");
    cr_expect(n->in_count == 3 && n->out_count == 2 && n->in[1][0] == '\0');
    cr_expect_str_eq(n->in[2], "w");
    cr_expect_eq(hl_onnx_attr_find(n, "axis")->i, -2);
    const hl_onnx_attr *list = hl_onnx_attr_find(n, "pads");
    cr_expect(list->type == HL_ONNX_INTS && list->count == 3 && list->ints[0] == 1 && list->ints[2] == -1);
    cr_expect_eq(hl_onnx_attr_find(n, "alpha")->f, 0.25f);
    cr_expect_null(hl_onnx_attr_find(n, "beta"));
    cr_expect_eq(m->nodes[1].attr_count, 0);
    cr_expect(m->input_count == 1 && m->inputs[0].ndim == 4 && m->inputs[0].dims[0] == -1 &&
              m->inputs[0].dims[1] == 3);
    cr_expect(m->output_count == 1 && m->outputs[0].dims[1] == 2);
    cr_expect_str_eq(hl_tensor_map_meta(m->tensors, "key"), "value");
    const hl_named_tensor *t = hl_tensor_map_find(m->tensors, "w");
    cr_expect(t->ndim == 2 && t->shape[1] == 3 && memcmp(t->data, values, sizeof values) == 0);
    cr_expect_eq(((const int64_t *)hl_tensor_map_find(m->tensors, "n")->data)[2], -1);
    hl_tensor_map *map;
    cr_assert_eq(hl_onnx_take_tensors(m, &map), HL_OK);
    cr_expect_eq(hl_tensor_map_count(map), 2);
    hl_tensor_map_destroy(map);
    free(path);
}

Test(onnx_file, numbers_are_read_from_the_field_of_their_type)
{
    static const struct {
        uint64_t type;
        uint32_t field;
        hl_dtype dtype;
        uint64_t stored;
        float value;
    } cases[] = {
        {6, 5, HL_DTYPE_I32, (uint64_t)-7, -7.0f}, {3, 5, HL_DTYPE_I8, (uint64_t)-3, -3.0f},
        {2, 5, HL_DTYPE_U8, 200, 200.0f},          {9, 5, HL_DTYPE_BOOL, 1, 1.0f},
        {7, 7, HL_DTYPE_I64, 12, 12.0f},           {10, 5, HL_DTYPE_F16, 0x4000, 2.0f},
        {16, 5, HL_DTYPE_BF16, 0x3fc0, 1.5f},
    };
    static const int64_t two[] = {2};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int packed = 0; packed < 2; packed++) {
            hl_pb_buffer t = tensor_head("t", cases[i].type, 1, two), list = {0}, model;
            hl_onnx *m;
            float out[2];
            for (int k = 0; k < 2 && !packed; k++)
                hl_pb_put_varint(&t, cases[i].field, cases[i].stored);
            if (packed) {
                /* A varint without its tag: one written as a field, past the tag's byte. */
                for (int k = 0; k < 2; k++) {
                    hl_pb_buffer one = {0};
                    hl_pb_put_varint(&one, 1, cases[i].stored);
                    hl_pb_put_raw(&list, one.bytes + 1, one.size - 1);
                    free(one.bytes);
                }
                hl_pb_put_message(&t, cases[i].field, &list);
            }
            model = model_of(graph_of(t), 17);
            cr_assert_eq(hl_onnx_parse("file", model.bytes, model.size, NULL, &m), HL_OK, "%s",
                         hl_last_error());
            const hl_named_tensor *read = hl_tensor_map_find(m->tensors, "t");
            cr_assert(read->dtype == cases[i].dtype && hl_named_tensor_count(read) == 2);
            hl_named_tensor_to_f32(read, out);
            cr_expect(out[0] == cases[i].value && out[1] == cases[i].value, "type %d: %g", (int)cases[i].type,
                      (double)out[1]);
            hl_onnx_destroy(m);
            free(model.bytes);
        }
}

static void expect(hl_status have, hl_status want, const char *says)
{
    cr_expect(have == want && strstr(hl_last_error(), says) != NULL, "status %d: %s, not \"%s\"", (int)have,
              hl_last_error(), says);
}

Test(onnx_file, opsets_7_to_21_are_read)
{
    static const uint64_t bad[] = {1, 6, 22, UINT64_MAX};
    for (uint64_t opset = 7; opset <= 21; opset++)
        cr_expect_eq(parse((hl_pb_buffer){0}, opset, NULL), HL_OK, "%s", hl_last_error());
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        expect(parse((hl_pb_buffer){0}, bad[i], NULL), HL_E_UNSUPPORTED, "opsets 7 to 21 are read");
    expect(parse((hl_pb_buffer){0}, 0, NULL), HL_E_INPUT, "names no opset");
}

Test(onnx_file, tensors_that_do_not_add_up_are_damage)
{
    static const int64_t two[] = {2}, huge[] = {INT64_MAX, 4}, negative[] = {-1}, large[] = {1 << 30};
    static const float three[3];
    hl_pb_buffer t = tensor_head("t", 1, 1, two);
    hl_pb_put_bytes(&t, 9, three, sizeof three);
    expect(parse(graph_of(t), 17, NULL), HL_E_INPUT, "differ in size");
    t = tensor_head("t", 1, 1, two);
    hl_pb_put_float(&t, 4, 1.0f);
    expect(parse(graph_of(t), 17, NULL), HL_E_INPUT, "differ in size");
    expect(parse(graph_of(tensor_head("t", 1, 2, huge)), 17, NULL), HL_E_INPUT, "overflow");
    expect(parse(graph_of(tensor_head("t", 1, 1, negative)), 17, NULL), HL_E_INPUT, "negative");
    expect(parse(graph_of(tensor_head("t", 1, 1, large)), 17, NULL), HL_E_INPUT, "larger than the file");
    expect(parse(graph_of(tensor_head("t", 8, 1, two)), 17, NULL), HL_E_UNSUPPORTED, "type 8");
    expect(parse(graph_of(tensor_head("", 1, 1, (const int64_t[]){0})), 17, NULL), HL_E_INPUT, "no name");
}

/* A tensor of two floats in another file. */
static hl_pb_buffer external(const char *location, const char *offset)
{
    static const int64_t two[] = {2};
    hl_pb_buffer t = tensor_head("t", 1, 1, two);
    const char *const entries[][2] = {{"location", location}, {"offset", offset}, {"length", "8"}};
    for (int i = 0; i < 3; i++) {
        hl_pb_buffer entry = {0};
        hl_pb_put_text(&entry, 1, entries[i][0]);
        hl_pb_put_text(&entry, 2, entries[i][1]);
        hl_pb_put_message(&t, 13, &entry);
    }
    hl_pb_put_varint(&t, 14, 1);
    return graph_of(t);
}

Test(onnx_file, external_data_is_read_from_the_models_folder_alone)
{
    static const float data[3] = {1, 2, 3};
    char *home = scratch_path(folder, "home"), *inside = scratch_path(folder, "home/data"),
         *outside = scratch_path(folder, "outside"), *link = scratch_path(folder, "home/link");
    cr_assert_eq(mkdir(home, 0777), 0);
    scratch_write(inside, data, sizeof data);
    scratch_write(outside, data, sizeof data);
    cr_assert_eq(symlink("../outside", link), 0);
    hl_pb_buffer model = model_of(external("data", "4"), 17);
    hl_onnx *m;
    cr_assert_eq(hl_onnx_parse("file", model.bytes, model.size, home, &m), HL_OK, "%s", hl_last_error());
    cr_expect_eq(((const float *)hl_tensor_map_find(m->tensors, "t")->data)[1], 3.0f);
    hl_onnx_destroy(m);
    free(model.bytes);
    expect(parse(external("data", "8"), 17, home), HL_E_INPUT, "which has 12");
    expect(parse(external("data", "18446744073709551615"), 17, home), HL_E_INPUT, "no number");
    expect(parse(external("data", "-4"), 17, home), HL_E_INPUT, "no number");
    expect(parse(external("gone", "0"), 17, home), HL_E_NOT_FOUND, "gone");
    expect(parse(external("data", "0"), 17, NULL), HL_E_UNSUPPORTED, "not inside");
    expect(parse(external("../outside", "0"), 17, home), HL_E_UNSUPPORTED, "not inside");
    expect(parse(external("a/../../outside", "0"), 17, home), HL_E_UNSUPPORTED, "not inside");
    expect(parse(external(outside, "0"), 17, home), HL_E_UNSUPPORTED, "not inside");
    expect(parse(external("link", "0"), 17, home), HL_E_UNSUPPORTED, "leads out");
    free(home);
    free(inside);
    free(outside);
    free(link);
}

Test(onnx_file, a_file_cut_anywhere_is_refused_or_read)
{
    size_t size;
    uint8_t *bytes = scratch_read("tests/fixtures/onnx/tensorflow.onnx", &size);
    int refused = 0;
    for (size_t length = 0; length < size; length++) {
        hl_onnx *m;
        uint8_t *part = malloc(length + 1); /* of its own size, for the sanitizer to watch */
        memcpy(part, bytes, length);
        hl_status status = hl_onnx_parse("file", part, length, NULL, &m);
        cr_assert(status == HL_OK || status == HL_E_INPUT, "%zu bytes: %s", length, hl_last_error());
        refused += status != HL_OK;
        if (status == HL_OK)
            hl_onnx_destroy(m);
        free(part);
    }
    cr_expect_gt((size_t)refused, size - 16, "only where the last field ends early may it be whole");
    free(bytes);
}
