#include "io/onnx.h"

#include <stdlib.h>
#include <string.h>

#include "io/mapped_file.h"
#include "io/onnx_read.h"

hl_status hl_onnx_damaged(const hl_onnx_reader *r, const char *part)
{
    return hl_fail(HL_E_INPUT, r->what, "export or download it again", "the file is damaged: %s", part);
}

hl_status hl_onnx_count(hl_onnx_reader *r, size_t count)
{
    if (count > HL_ONNX_MAX_ITEMS - r->items)
        return hl_fail(HL_E_INPUT, r->what, NULL, "it has more than %d nodes, names and attributes",
                       HL_ONNX_MAX_ITEMS);
    r->items += count;
    return HL_OK;
}

hl_status hl_onnx_text(hl_onnx_reader *r, hl_pb_span bytes, const char **text)
{
    size_t size = hl_pb_size(&bytes);
    if (size > 0 && memchr(bytes.at, 0, size) != NULL)
        return hl_onnx_damaged(r, "a name has a zero byte in it");
    char *copy = hl_arena_take(r->model->arena, size + 1);
    if (copy == NULL)
        return HL_E_NOMEM;
    if (size > 0)
        memcpy(copy, bytes.at, size);
    *text = copy;
    return HL_OK;
}

static hl_status append_number(hl_onnx_list *list, uint64_t value, bool floats)
{
    void *grown = floats ? (void *)list->floats : (void *)list->ints;
    hl_status status = hl_grow(&grown, &list->capacity, list->count + 1,
                               floats ? sizeof *list->floats : sizeof *list->ints, "ONNX attribute");
    if (floats)
        list->floats = grown;
    else
        list->ints = grown;
    HL_TRY(status);
    if (floats)
        list->floats[list->count++] = hl_pb_float(value);
    else
        list->ints[list->count++] = (int64_t)value;
    return HL_OK;
}

hl_status hl_onnx_list_add(hl_onnx_reader *r, hl_onnx_list *list, const hl_pb_field *field, bool floats)
{
    uint64_t value = field->value;
    hl_pb_span rest = field->bytes;
    if (field->wire != HL_PB_BYTES) {
        HL_TRY(hl_onnx_count(r, 1));
        return append_number(list, value, floats);
    }
    while (floats ? hl_pb_fixed(&rest, 4, &value) : hl_pb_varint(&rest, &value)) {
        HL_TRY(hl_onnx_count(r, 1));
        HL_TRY(append_number(list, value, floats));
    }
    return rest.bad ? hl_onnx_damaged(r, "a list of numbers is cut short") : HL_OK;
}

/* Moves a list into the arena. */
static hl_status keep(hl_onnx_reader *r, const void *items, size_t count, size_t size, const void **kept)
{
    void *copy = hl_arena_take(r->model->arena, count * size);
    if (copy == NULL)
        return HL_E_NOMEM;
    if (count > 0)
        memcpy(copy, items, count * size);
    *kept = copy;
    return HL_OK;
}

static hl_status read_attr_field(hl_onnx_reader *r, const hl_pb_field *f, hl_onnx_attr *attr,
                                 hl_onnx_list *list)
{
    hl_named_tensor *tensor;
    switch (f->number) {
    case 1:
        return hl_onnx_text(r, f->bytes, &attr->name);
    case 2:
        attr->f = hl_pb_float(f->value);
        return HL_OK;
    case 3:
        attr->i = (int64_t)f->value;
        return HL_OK;
    case 4:
        return hl_onnx_text(r, f->bytes, &attr->s);
    case 5:
        tensor = hl_arena_take(r->model->arena, sizeof *tensor);
        attr->tensor = tensor;
        return tensor == NULL ? HL_E_NOMEM : hl_onnx_read_tensor(r, f->bytes, tensor);
    case 7:
        return list->ints != NULL ? hl_onnx_damaged(r, "an attribute has numbers of two kinds")
                                  : hl_onnx_list_add(r, list, f, true);
    case 8:
        return list->floats != NULL ? hl_onnx_damaged(r, "an attribute has numbers of two kinds")
                                    : hl_onnx_list_add(r, list, f, false);
    case 20:
        attr->type = f->value <= HL_ONNX_INTS ? (hl_onnx_attr_type)f->value : HL_ONNX_OTHER;
        return HL_OK;
    default:
        return HL_OK;
    }
}

static hl_status read_attr(hl_onnx_reader *r, hl_pb_span message, hl_onnx_attr *attr)
{
    hl_pb_field f;
    hl_onnx_list list = {0};
    hl_status status = HL_OK;
    attr->name = attr->s = "";
    while (status == HL_OK && hl_pb_next(&message, &f))
        status = read_attr_field(r, &f, attr, &list);
    if (status == HL_OK && message.bad)
        status = hl_onnx_damaged(r, "an attribute is cut short");
    if (status == HL_OK && list.floats != NULL)
        status = keep(r, list.floats, list.count, sizeof *list.floats, (const void **)&attr->floats);
    else if (status == HL_OK)
        status = keep(r, list.ints, list.count, sizeof *list.ints, (const void **)&attr->ints);
    attr->count = (int)list.count;
    bool other = (attr->type == HL_ONNX_FLOATS && attr->floats == NULL && list.count > 0) ||
                 (attr->type == HL_ONNX_INTS && list.floats != NULL) ||
                 (attr->type == HL_ONNX_TENSOR && attr->tensor == NULL);
    if (status == HL_OK && other)
        status = hl_onnx_damaged(r, "an attribute's type is not that of its value");
    free(list.ints);
    free(list.floats);
    return status;
}

/* How many fields of each number below 16 a message has. */
static hl_status census(hl_onnx_reader *r, hl_pb_span message, size_t counts[16], const char *part)
{
    hl_pb_field f;
    memset(counts, 0, 16 * sizeof *counts);
    while (hl_pb_next(&message, &f))
        if (f.number < 16)
            counts[f.number]++;
    return message.bad ? hl_onnx_damaged(r, part) : HL_OK;
}

static hl_status take(hl_onnx_reader *r, size_t count, size_t size, void *array)
{
    HL_TRY(hl_onnx_count(r, count));
    void *taken = hl_arena_take(r->model->arena, count * size);
    memcpy(array, &taken, sizeof taken);
    return taken == NULL ? HL_E_NOMEM : HL_OK;
}

static hl_status read_node(hl_onnx_reader *r, hl_pb_span message, hl_onnx_node *node)
{
    size_t counts[16];
    hl_pb_field f;
    node->name = node->op = node->domain = "";
    HL_TRY(census(r, message, counts, "a node is cut short"));
    HL_TRY(take(r, counts[1], sizeof *node->in, &node->in));
    HL_TRY(take(r, counts[2], sizeof *node->out, &node->out));
    HL_TRY(take(r, counts[5], sizeof *node->attrs, &node->attrs));
    while (hl_pb_next(&message, &f)) {
        if (f.wire != HL_PB_BYTES)
            continue;
        hl_status status = HL_OK;
        switch (f.number) {
        case 1:
            status = hl_onnx_text(r, f.bytes, &node->in[node->in_count++]);
            break;
        case 2:
            status = hl_onnx_text(r, f.bytes, &node->out[node->out_count++]);
            break;
        case 3:
            status = hl_onnx_text(r, f.bytes, &node->name);
            break;
        case 4:
            status = hl_onnx_text(r, f.bytes, &node->op);
            break;
        case 5:
            status = read_attr(r, f.bytes, &node->attrs[node->attr_count++]);
            break;
        case 7:
            status = hl_onnx_text(r, f.bytes, &node->domain);
            break;
        default:
            break;
        }
        HL_TRY(status);
    }
    return HL_OK;
}

/* TensorShapeProto */
static hl_status read_shape(hl_onnx_reader *r, hl_pb_span message, hl_onnx_port *port)
{
    hl_pb_field f, g;
    port->ndim = 0;
    while (hl_pb_next(&message, &f)) {
        if (f.number != 1 || f.wire != HL_PB_BYTES)
            continue;
        if (port->ndim == HL_TENSOR_MAX_NDIM)
            return hl_onnx_damaged(r, "an input or output has more than 8 dimensions");
        int64_t *dim = &port->dims[port->ndim++];
        *dim = -1;
        while (hl_pb_next(&f.bytes, &g))
            if (g.number == 1 && g.wire == HL_PB_VARINT && (int64_t)g.value > 0)
                *dim = (int64_t)g.value;
        if (f.bytes.bad)
            return hl_onnx_damaged(r, "a shape is cut short");
    }
    return message.bad ? hl_onnx_damaged(r, "a shape is cut short") : HL_OK;
}

/* ValueInfoProto; of types, those of tensors. */
static hl_status read_port(hl_onnx_reader *r, hl_pb_span message, hl_onnx_port *port)
{
    hl_pb_field f, type, tensor;
    *port = (hl_onnx_port){.name = "", .ndim = -1};
    while (hl_pb_next(&message, &f)) {
        if (f.wire != HL_PB_BYTES)
            continue;
        if (f.number == 1)
            HL_TRY(hl_onnx_text(r, f.bytes, &port->name));
        while (f.number == 2 && hl_pb_next(&f.bytes, &type))
            while (type.number == 1 && type.wire == HL_PB_BYTES && hl_pb_next(&type.bytes, &tensor)) {
                if (tensor.number == 1 && tensor.wire == HL_PB_VARINT)
                    port->elem = tensor.value < 64 ? (int)tensor.value : 0;
                if (tensor.number == 2 && tensor.wire == HL_PB_BYTES)
                    HL_TRY(read_shape(r, tensor.bytes, port));
            }
    }
    return message.bad ? hl_onnx_damaged(r, "an input or output is cut short") : HL_OK;
}

static hl_status read_initializer(hl_onnx_reader *r, hl_pb_span message)
{
    hl_named_tensor t;
    HL_TRY(hl_onnx_read_tensor(r, message, &t));
    if (t.name[0] == '\0')
        return hl_onnx_damaged(r, "an initialiser has no name");
    return hl_tensor_map_add_ref(r->model->tensors, t.name, t.dtype, t.ndim, t.shape, t.data);
}

static hl_status read_graph(hl_onnx_reader *r, hl_pb_span message)
{
    hl_onnx *m = r->model;
    size_t counts[16];
    hl_pb_field f;
    hl_pb_span again = message;
    HL_TRY(census(r, message, counts, "the graph is cut short"));
    if (counts[15] > 0)
        return hl_fail(HL_E_UNSUPPORTED, r->what, "export it with dense weights", "it has sparse weights");
    HL_TRY(take(r, counts[1], sizeof *m->nodes, &m->nodes));
    HL_TRY(take(r, counts[11], sizeof *m->inputs, &m->inputs));
    HL_TRY(take(r, counts[12], sizeof *m->outputs, &m->outputs));
    HL_TRY(hl_onnx_count(r, counts[5]));
    while (hl_pb_next(&message, &f)) {
        if (f.wire != HL_PB_BYTES)
            continue;
        if (f.number == 1)
            HL_TRY(read_node(r, f.bytes, &m->nodes[m->node_count++]));
        else if (f.number == 5)
            HL_TRY(read_initializer(r, f.bytes));
        else if (f.number == 12)
            HL_TRY(read_port(r, f.bytes, &m->outputs[m->output_count++]));
    }
    /* Older files list initialisers as inputs too. */
    while (hl_pb_next(&again, &f)) {
        if (f.number != 11 || f.wire != HL_PB_BYTES)
            continue;
        HL_TRY(read_port(r, f.bytes, &m->inputs[m->input_count]));
        if (hl_tensor_map_find(m->tensors, m->inputs[m->input_count].name) == NULL)
            m->input_count++;
    }
    return HL_OK;
}

static hl_status read_opset(hl_onnx_reader *r, hl_pb_span message)
{
    hl_pb_field f;
    const char *domain = "";
    uint64_t version = 0;
    while (hl_pb_next(&message, &f)) {
        if (f.number == 1 && f.wire == HL_PB_BYTES)
            HL_TRY(hl_onnx_text(r, f.bytes, &domain));
        if (f.number == 2 && f.wire == HL_PB_VARINT)
            version = f.value;
    }
    if (message.bad)
        return hl_onnx_damaged(r, "an opset is cut short");
    if (domain[0] == '\0' || strcmp(domain, "ai.onnx") == 0)
        r->model->opset = version <= INT32_MAX ? (int64_t)version : INT32_MAX;
    return HL_OK;
}

static hl_status read_metadata(hl_onnx_reader *r, hl_pb_span message)
{
    hl_pb_field f;
    const char *text[2] = {"", ""};
    while (hl_pb_next(&message, &f))
        if ((f.number == 1 || f.number == 2) && f.wire == HL_PB_BYTES)
            HL_TRY(hl_onnx_text(r, f.bytes, &text[f.number - 1]));
    if (message.bad)
        return hl_onnx_damaged(r, "its metadata is cut short");
    /* Setting a key looks through those that are there. */
    if (hl_tensor_map_meta_count(r->model->tensors) >= 1000)
        return HL_OK;
    return hl_tensor_map_set_meta(r->model->tensors, text[0], text[1]);
}

static hl_status read_model(hl_onnx_reader *r, hl_pb_span message)
{
    hl_pb_field f;
    bool graph = false;
    hl_pb_span whole = message;
    while (hl_pb_next(&message, &f)) {
        if (f.number == 2 && f.wire == HL_PB_BYTES)
            HL_TRY(hl_onnx_text(r, f.bytes, &r->model->producer));
        else if (f.number == 8 && f.wire == HL_PB_BYTES)
            HL_TRY(read_opset(r, f.bytes));
        else if (f.number == 14 && f.wire == HL_PB_BYTES)
            HL_TRY(read_metadata(r, f.bytes));
    }
    if (message.bad || r->model->opset == 0)
        return hl_onnx_damaged(r, message.bad ? "it is cut short" : "it names no opset");
    if (r->model->opset < HL_ONNX_OPSET_FIRST || r->model->opset > HL_ONNX_OPSET_LAST)
        return hl_fail(HL_E_UNSUPPORTED, r->what, "export it with another opset, 17 say",
                       "its operators are of opset %lld, opsets %d to %d are read",
                       (long long)r->model->opset, HL_ONNX_OPSET_FIRST, HL_ONNX_OPSET_LAST);
    while (hl_pb_next(&whole, &f)) {
        if (f.number != 7 || f.wire != HL_PB_BYTES)
            continue;
        if (graph)
            return hl_onnx_damaged(r, "it has two graphs");
        HL_TRY(read_graph(r, f.bytes));
        graph = true;
    }
    return graph ? HL_OK : hl_onnx_damaged(r, "it has no graph");
}

static hl_status parse(const char *what, const void *bytes, size_t size, const char *folder, hl_onnx *m)
{
    hl_onnx_reader r = {.model = m, .what = what, .folder = folder};
    /* A number takes a byte or more in the file and at most eight in memory; the rest is views and copies. */
    r.tensor_bytes = size < SIZE_MAX / 16 ? 9 * size : SIZE_MAX;
    HL_TRY(hl_tensor_map_create(&m->tensors));
    m->bytes = size;
    m->producer = "";
    m->path = hl_arena_copy(m->arena, what);
    if (m->path == NULL)
        return HL_E_NOMEM;
    return read_model(&r, hl_pb_of(bytes, size));
}

hl_status hl_onnx_parse(const char *what, const void *bytes, size_t size, const char *folder, hl_onnx **model)
{
    hl_onnx *m = calloc(1, sizeof *m);
    *model = NULL;
    if (m == NULL)
        return hl_fail_nomem(what, sizeof *m);
    hl_status status = hl_arena_create(&m->arena);
    if (status == HL_OK)
        status = parse(what, bytes, size, folder, m);
    if (status != HL_OK) {
        hl_onnx_destroy(m);
        return status;
    }
    *model = m;
    return HL_OK;
}

static void close_file(void *file)
{
    hl_mapped_file_close(file);
    free(file);
}

hl_status hl_onnx_read(const char *path, hl_onnx **model)
{
    *model = NULL;
    hl_mapped_file *file = calloc(1, sizeof *file);
    char *folder = strdup(path);
    hl_status status = file == NULL || folder == NULL ? hl_fail_nomem(path, sizeof *file) : HL_OK;
    if (status == HL_OK)
        status = hl_mapped_file_open(path, file);
    if (status == HL_OK) {
        char *slash = strrchr(folder, '/');
        if (slash != NULL)
            slash[slash == folder] = '\0';
        status = hl_onnx_parse(path, file->bytes, file->size, slash != NULL ? folder : ".", model);
    }
    free(folder);
    if (status != HL_OK) {
        if (file != NULL)
            close_file(file);
        return status;
    }
    status = hl_tensor_map_adopt((*model)->tensors, file, close_file);
    if (status != HL_OK) {
        hl_onnx_destroy(*model);
        *model = NULL;
    }
    return status;
}

void hl_onnx_destroy(hl_onnx *m)
{
    if (m == NULL)
        return;
    hl_tensor_map_destroy(m->tensors);
    hl_arena_destroy(m->arena);
    free(m);
}

static void destroy_arena(void *arena)
{
    hl_arena_destroy(arena);
}

hl_status hl_onnx_take_tensors(hl_onnx *m, hl_tensor_map **map)
{
    *map = m->tensors;
    m->tensors = NULL;
    /* Names are the map's own, decoded data is the map's resource: the rest can go. */
    hl_status status = hl_tensor_map_adopt(*map, m->arena, destroy_arena);
    m->arena = NULL;
    free(m);
    if (status != HL_OK) {
        hl_tensor_map_destroy(*map);
        *map = NULL;
    }
    return status;
}

bool hl_onnx_sniff(const void *memory, size_t size)
{
    const uint8_t *b = memory;
    /* ir_version, then a field of ModelProto. */
    return size >= 4 && b[0] == 0x08 && b[1] >= 1 && b[1] <= 20 &&
           (b[2] == 0x12 || b[2] == 0x1a || b[2] == 0x22 || b[2] == 0x28 || b[2] == 0x32 || b[2] == 0x3a ||
            b[2] == 0x42);
}

const hl_onnx_attr *hl_onnx_attr_find(const hl_onnx_node *node, const char *name)
{
    for (int i = 0; i < node->attr_count; i++)
        if (strcmp(node->attrs[i].name, name) == 0)
            return &node->attrs[i];
    return NULL;
}
