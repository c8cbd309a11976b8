/* CBOR (RFC 8949) as nodelink/1 uses it: definite lengths, no tags, no simple values but true and false.
 *
 * A reader that met something else has `failed` set, stays where it is, and every later call gives zeros, so that a
 * whole message can be read before one look at `failed`. Nothing is copied: spans point into the message. */
#ifndef NODE_CBOR_H
#define NODE_CBOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct span {
    const uint8_t *data;
    uint32_t size;
} span_t;

typedef struct cbor_reader {
    const uint8_t *at, *end;
    bool failed;
} cbor_reader_t;

cbor_reader_t cbor_reader(const uint8_t *data, size_t size);
uint64_t cbor_uint(cbor_reader_t *r, uint64_t max); /* fails above `max` */
int64_t cbor_int(cbor_reader_t *r);
bool cbor_bool(cbor_reader_t *r);
float cbor_float(cbor_reader_t *r); /* any of the three sizes; NaN, infinity and what a float cannot hold fail */
span_t cbor_text(cbor_reader_t *r); /* valid UTF-8 */
span_t cbor_bytes(cbor_reader_t *r);
uint32_t cbor_array(cbor_reader_t *r);               /* how many items follow; never more than bytes are left */
uint32_t cbor_map(cbor_reader_t *r);                 /* how many pairs follow */
unsigned cbor_key(cbor_reader_t *r, uint32_t *seen); /* of a map: 0 to 31; fails where `seen`, a bit a key, has it */
unsigned cbor_word(cbor_reader_t *r, const char *const *words, unsigned count); /* which of them a text is, or fails */
void cbor_skip(cbor_reader_t *r);        /* one item with all that is in it, to any depth and without recursion */
bool cbor_ended(const cbor_reader_t *r); /* nothing failed and nothing is left */

/* A writer counts on where its buffer ends, and writes no further. */
typedef struct cbor_writer {
    uint8_t *data;
    size_t capacity, size;
} cbor_writer_t;

cbor_writer_t cbor_writer(uint8_t *data, size_t capacity);
void cbor_put_uint(cbor_writer_t *w, uint64_t value);
void cbor_put_int(cbor_writer_t *w, int64_t value);
void cbor_put_bool(cbor_writer_t *w, bool value);
void cbor_put_float(cbor_writer_t *w, float value);
void cbor_put_text(cbor_writer_t *w, const char *text);
void cbor_put_span(cbor_writer_t *w, span_t text);
void cbor_put_bytes(cbor_writer_t *w, const uint8_t *data, uint32_t size);
void cbor_put_bytes_head(cbor_writer_t *w, uint32_t size); /* the bytes themselves come from elsewhere */
void cbor_put_array(cbor_writer_t *w, uint32_t count);
void cbor_put_map(cbor_writer_t *w, uint32_t pairs);
size_t cbor_written(const cbor_writer_t *w); /* 0 where it did not fit */

#endif
