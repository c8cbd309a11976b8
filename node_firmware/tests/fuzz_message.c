/* Fuzz target: any bytes as each message that a node reads. What is accepted must point into the message. */
#include <stdlib.h>

#include "message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void inside(span_t span, const uint8_t *data, size_t size)
{
    if (span.size != 0 && (span.data < data || span.size > size || span.data > data + size - span.size)) {
        abort();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    verdict_t verdict;
    front_end_t front_end;
    decision_t decision;
    detect_t detect;
    stored_t stored;
    uint32_t session, seq;
    bool online;
    const span_t span = {data, (uint32_t)size};
    if (verdict_decode(&verdict, data, size) == NODE_OK) {
        inside(verdict.label, data, size);
        inside(verdict.action, data, size);
    }
    if (front_end_decode(&front_end, span) == NODE_OK) {
        inside(front_end.parameters, data, size);
    }
    if (decision_decode(&decision, span) == NODE_OK) {
        (void)!detect_init(&detect, &decision.detect);
    }
    if (stored_decode(&stored, data, size) == NODE_OK && (stored.count < 1 || stored.count > 16)) {
        abort();
    }
    (void)!event_decode_name(&session, &seq, data, size);
    (void)!gateway_state_decode(&online, data, size);
    return 0;
}
