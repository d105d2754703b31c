/* The wire format of protocol buffers: a message is a run of fields, each a tag and a value. Nothing is known
 * of messages' meaning here; whoever reads one says what its fields are. */
#ifndef HL_IO_PROTOBUF_H
#define HL_IO_PROTOBUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

typedef enum hl_pb_wire {
    HL_PB_VARINT = 0,
    HL_PB_FIXED64 = 1,
    HL_PB_BYTES = 2,
    HL_PB_FIXED32 = 5
} hl_pb_wire;

/* What of a message is yet to be read; memory that is not owned. */
typedef struct hl_pb_span {
    const uint8_t *at, *end;
    bool bad; /* a field was cut short, or is of a kind that does not exist */
} hl_pb_span;

typedef struct hl_pb_field {
    uint32_t number;
    hl_pb_wire wire;
    uint64_t value;   /* VARINT, FIXED64, FIXED32 */
    hl_pb_span bytes; /* BYTES: inside the message that was read */
} hl_pb_field;

static inline hl_pb_span hl_pb_of(const void *bytes, size_t size)
{
    return (hl_pb_span){bytes, (const uint8_t *)bytes + size, false};
}

static inline size_t hl_pb_size(const hl_pb_span *span)
{
    return (size_t)(span->end - span->at);
}

/* The next field; false at the end, and when the rest is damaged, which span->bad says. */
bool hl_pb_next(hl_pb_span *span, hl_pb_field *field);

/* The next varint of a packed field; false as above. */
bool hl_pb_varint(hl_pb_span *span, uint64_t *value);

/* A little-endian number of `bytes` (4 or 8) of a packed field; false as above. */
bool hl_pb_fixed(hl_pb_span *span, size_t bytes, uint64_t *value);

static inline float hl_pb_float(uint64_t bits)
{
    union {
        uint32_t u;
        float f;
    } x = {.u = (uint32_t)bits};
    return x.f;
}

/* A message being written. Errors stick in `status`. Free the bytes with free(). */
typedef struct hl_pb_buffer {
    uint8_t *bytes;
    size_t size, capacity;
    hl_status status;
} hl_pb_buffer;

void hl_pb_put_varint(hl_pb_buffer *buffer, uint32_t number, uint64_t value);
void hl_pb_put_float(hl_pb_buffer *buffer, uint32_t number, float value);
void hl_pb_put_bytes(hl_pb_buffer *buffer, uint32_t number, const void *bytes, size_t size);
void hl_pb_put_text(hl_pb_buffer *buffer, uint32_t number, const char *text);
/* A field of `size` bytes that follow: its tag and length alone. */
void hl_pb_put_length(hl_pb_buffer *buffer, uint32_t number, size_t size);
/* Bytes as they are, without a tag. */
void hl_pb_put_raw(hl_pb_buffer *buffer, const void *bytes, size_t size);
/* The message `inner` as a field; `inner` is freed and empty then. */
void hl_pb_put_message(hl_pb_buffer *buffer, uint32_t number, hl_pb_buffer *inner);

#endif
