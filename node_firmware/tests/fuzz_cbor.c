/* Fuzz target: any bytes as CBOR. What cbor_skip() takes whole, the typed readers must be able to walk to the same end.
 */
#include <stdlib.h>

#include "cbor.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Reads one item by its type, which a copy of the reader finds out. */
static void walk(cbor_reader_t *r, unsigned depth)
{
    const uint8_t type = r->at == r->end ? 0 : *r->at >> 5;
    uint32_t items = 0;
    switch (type) {
    case 0:
        cbor_uint(r, UINT64_MAX);
        break;
    case 1: {
        cbor_reader_t copy = *r;
        cbor_int(r);
        if (r->failed) { /* below INT64_MIN: right, but not an int64 */
            *r = copy;
            cbor_skip(r);
        }
        break;
    }
    case 2:
        cbor_bytes(r);
        break;
    case 3: {
        cbor_reader_t copy = *r;
        cbor_text(r);
        if (r->failed) { /* not UTF-8, which cbor_skip() does not look at */
            *r = copy;
            cbor_skip(r);
        }
        break;
    }
    case 4:
        items = cbor_array(r);
        break;
    case 5:
        items = 2 * cbor_map(r);
        break;
    default: {
        cbor_reader_t copy = *r;
        cbor_float(r);
        if (r->failed) {
            *r = copy;
            cbor_skip(r);
        }
    }
    }
    for (; items != 0 && !r->failed && depth < 200; items--) {
        walk(r, depth + 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 200) {
        return 0; /* as deep as walk() goes */
    }
    cbor_reader_t skipped = cbor_reader(data, size), walked = skipped;
    cbor_skip(&skipped);
    walk(&walked, 0);
    if (skipped.failed != walked.failed || (!skipped.failed && skipped.at != walked.at)) {
        abort();
    }
    return 0;
}
