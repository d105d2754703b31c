#include "io/protobuf.h"

#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

static bool damaged(hl_pb_span *span)
{
    span->bad = true;
    span->at = span->end;
    return false;
}

bool hl_pb_varint(hl_pb_span *span, uint64_t *value)
{
    *value = 0;
    if (span->at == span->end)
        return false;
    for (unsigned shift = 0; shift < 64; shift += 7) {
        if (span->at == span->end)
            break;
        uint8_t byte = *span->at++;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0)
            return true;
    }
    return damaged(span);
}

bool hl_pb_fixed(hl_pb_span *span, size_t bytes, uint64_t *value)
{
    *value = 0;
    if (span->at == span->end)
        return false;
    if (hl_pb_size(span) < bytes)
        return damaged(span);
    for (size_t i = 0; i < bytes; i++)
        *value |= (uint64_t)span->at[i] << 8 * i;
    span->at += bytes;
    return true;
}

bool hl_pb_next(hl_pb_span *span, hl_pb_field *field)
{
    uint64_t tag;
    *field = (hl_pb_field){0};
    if (!hl_pb_varint(span, &tag))
        return false;
    if (tag > UINT32_MAX || tag >> 3 == 0)
        return damaged(span);
    field->number = (uint32_t)(tag >> 3);
    field->wire = (hl_pb_wire)(tag & 7);
    switch (field->wire) {
    case HL_PB_VARINT:
        return hl_pb_varint(span, &field->value) || damaged(span);
    case HL_PB_FIXED64:
        return hl_pb_fixed(span, 8, &field->value) || damaged(span);
    case HL_PB_FIXED32:
        return hl_pb_fixed(span, 4, &field->value) || damaged(span);
    case HL_PB_BYTES: {
        uint64_t size;
        if (!hl_pb_varint(span, &size) || size > hl_pb_size(span))
            return damaged(span);
        field->bytes = hl_pb_of(span->at, (size_t)size);
        span->at += size;
        return true;
    }
    default: /* groups, which nobody writes any more, and what has never existed */
        return damaged(span);
    }
}

void hl_pb_put_raw(hl_pb_buffer *b, const void *bytes, size_t size)
{
    size_t needed = 0;
    if (b->status == HL_OK && __builtin_add_overflow(b->size, size, &needed))
        b->status = hl_fail_nomem("protobuf message", size);
    if (b->status == HL_OK) {
        void *grown = b->bytes;
        b->status = hl_grow(&grown, &b->capacity, needed, 1, "protobuf message");
        b->bytes = grown;
    }
    if (b->status != HL_OK || size == 0)
        return;
    memcpy(b->bytes + b->size, bytes, size);
    b->size = needed;
}

static void put_number(hl_pb_buffer *b, uint64_t value)
{
    uint8_t bytes[10];
    size_t count = 0;
    do {
        bytes[count] = (uint8_t)(value & 0x7f);
        value >>= 7;
        if (value != 0)
            bytes[count] |= 0x80;
        count++;
    } while (value != 0);
    hl_pb_put_raw(b, bytes, count);
}

static void put_tag(hl_pb_buffer *b, uint32_t number, hl_pb_wire wire)
{
    put_number(b, (uint64_t)number << 3 | (uint64_t)wire);
}

void hl_pb_put_varint(hl_pb_buffer *b, uint32_t number, uint64_t value)
{
    put_tag(b, number, HL_PB_VARINT);
    put_number(b, value);
}

void hl_pb_put_float(hl_pb_buffer *b, uint32_t number, float value)
{
    union {
        float f;
        uint32_t u;
    } x = {.f = value};
    const uint8_t bytes[4] = {(uint8_t)x.u, (uint8_t)(x.u >> 8), (uint8_t)(x.u >> 16), (uint8_t)(x.u >> 24)};
    put_tag(b, number, HL_PB_FIXED32);
    hl_pb_put_raw(b, bytes, sizeof bytes);
}

void hl_pb_put_length(hl_pb_buffer *b, uint32_t number, size_t size)
{
    put_tag(b, number, HL_PB_BYTES);
    put_number(b, size);
}

void hl_pb_put_bytes(hl_pb_buffer *b, uint32_t number, const void *bytes, size_t size)
{
    hl_pb_put_length(b, number, size);
    hl_pb_put_raw(b, bytes, size);
}

void hl_pb_put_text(hl_pb_buffer *b, uint32_t number, const char *text)
{
    hl_pb_put_bytes(b, number, text, strlen(text));
}

void hl_pb_put_message(hl_pb_buffer *b, uint32_t number, hl_pb_buffer *inner)
{
    if (b->status == HL_OK)
        b->status = inner->status;
    if (b->status == HL_OK)
        hl_pb_put_bytes(b, number, inner->bytes, inner->size);
    free(inner->bytes);
    *inner = (hl_pb_buffer){0};
}
